/* buf.c -- see dynamo/common.h for the contract.
 *
 *   | count, size | pad to 64 | data ... |     one allocation
 */
#include "common/common.h"

struct dyn_buf {
    atomic_size_t refs;
    size_t size;
};
enum { HEAD = 64 };
_Static_assert(sizeof(struct dyn_buf) <= HEAD, "the header fits before the data");

int dyn_buf_new(dyn_buf **out, size_t size)
{
    if (size > SIZE_MAX - HEAD) return DYN_ENOMEM;
    dyn_buf *self = dyn__aligned(64, HEAD + size);
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    self->size = size;
    *out = self;
    return DYN_OK;
}

dyn_buf *dyn_buf_ref(dyn_buf *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_buf_unref(dyn_buf *self)
{
    if (self == NULL) return;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1) dyn__free(self);
}

uint8_t *dyn_buf_data(dyn_buf *self)
{
    return (uint8_t *)self + HEAD;
}

size_t dyn_buf_size(const dyn_buf *self)
{
    return self->size;
}
