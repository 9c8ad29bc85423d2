/* buf.c -- see dynamo/common.h for the contract.
 *
 *   | count, size | pad to 64 | data ... |     one allocation; from 4 MiB on whole pages, huge where the system has them
 */
#include "common/common.h"

struct dyn_buf {
    atomic_size_t refs;
    size_t size;
    void *raw; /* what was allocated: aligned by hand, since posix_memalign takes ten times as long as malloc */
};
enum { HEAD = 64, PAGED = 4 << 20 /* bytes */ };
_Static_assert(sizeof(struct dyn_buf) <= HEAD, "the header fits before the data");

static int make(dyn_buf **out, size_t size, bool zeroed)
{
    if (size > SIZE_MAX / 2) return DYN_ENOMEM;
#ifdef DYN__SANITIZED /* which is to see what is written behind the end */
    void *raw = size >= PAGED ? dyn__pages(HEAD + size) : dyn__aligned(HEAD, HEAD + size);
#else
    void *raw = size >= PAGED ? dyn__pages(HEAD + size) : dyn__malloc(HEAD - 1 + HEAD + size);
#endif
    if (raw == NULL) return DYN_ENOMEM;
    dyn_buf *self = (dyn_buf *)(((uintptr_t)raw + HEAD - 1) & ~(uintptr_t)(HEAD - 1));
    self->raw = raw;
    if (zeroed && size < PAGED) memset((uint8_t *)self + HEAD, 0, size); /* pages come zeroed */
    atomic_init(&self->refs, 1);
    self->size = size;
    *out = self;
    return DYN_OK;
}

int dyn_buf_new(dyn_buf **out, size_t size)
{
    return make(out, size, false);
}

int dyn_buf_new_zeroed(dyn_buf **out, size_t size)
{
    return make(out, size, true);
}

dyn_buf *dyn_buf_ref(dyn_buf *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_buf_unref(dyn_buf *self)
{
    if (self == NULL) return;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    if (self->size >= PAGED)
        dyn__pages_free(self->raw, HEAD + self->size);
    else
        dyn__free(self->raw);
}

uint8_t *dyn_buf_data(dyn_buf *self)
{
    return (uint8_t *)self + HEAD;
}

size_t dyn_buf_size(const dyn_buf *self)
{
    return self->size;
}
