/* tensor.c -- see dynamo/tensor.h for the contract: types, shapes, copies. */
#include "common/common.h"
#include "tensor/inside.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are used as they lie on the wire");

const dyn_dtype_info *dyn_dtype(int code)
{
    static const dyn_dtype_info table[DYN_DTYPE_COUNT] = {
#define X(id, number, bytes, kind, dl, text, typestr, format, safetensors) \
    [number] = {text, typestr, format, safetensors, number, bytes, DYN_KIND_##kind, dl},
        DYN_DTYPE_MAP(X)
#undef X
    };
    return code > 0 && code < DYN_DTYPE_COUNT ? &table[code] : NULL;
}

int dyn_tensor_measure(int dtype, int ndim, const int64_t *shape, uint64_t *elements, uint64_t *bytes)
{
    const dyn_dtype_info *info = dyn_dtype(dtype);
    int64_t extent; /* of the dimensions that are not 0, in bytes */
    bool empty = false;
    if (info == NULL) return dyn__fail(DYN_EINVAL, "dtype %d: there are types 1 to %d", dtype, DYN_DTYPE_COUNT - 1);
    if (ndim < 0 || ndim > DYN_TENSOR_MAX_DIMS)
        return dyn__fail(DYN_EINVAL, "%d dimensions: a tensor has at most %d", ndim, DYN_TENSOR_MAX_DIMS);
    extent = info->size;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return dyn__fail(DYN_ERANGE, "dimension %d is %lld: must be 0 or more", i, (long long)shape[i]);
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(extent, shape[i], &extent))
            return dyn__fail(DYN_ERANGE, "dimension %d is %lld: the tensor would be larger than 2^63 bytes", i,
                             (long long)shape[i]);
    }
    if (elements != NULL) *elements = empty ? 0 : (uint64_t)extent / info->size;
    if (bytes != NULL) *bytes = empty ? 0 : (uint64_t)extent;
    return DYN_OK;
}

void dyn_tensor_c_strides(int dtype, int ndim, const int64_t *shape, int64_t *strides)
{
    int64_t step = dyn_dtype(dtype)->size;
    for (int i = ndim - 1; i >= 0; i--) {
        strides[i] = step;
        if (shape[i] > 0) step *= shape[i];
    }
}

uint64_t dyn_tensor_count(const dyn_tensor *self)
{
    uint64_t count = 1;
    for (int i = 0; i < self->ndim; i++) count *= (uint64_t)self->shape[i];
    return count;
}

bool dyn_tensor_is_contiguous(const dyn_tensor *self)
{
    int64_t step = dyn_dtype(self->dtype)->size;
    if (self->strides == NULL) return true;
    for (int i = self->ndim - 1; i >= 0; i--) {
        if (self->shape[i] == 0) return true;
        if (self->shape[i] == 1) continue; /* its stride leads nowhere */
        if (self->strides[i] != step) return false;
        step *= self->shape[i];
    }
    return true;
}

/* Drop dimensions of one element and join those that lie behind one another: fewer, longer rows. */
void dyn__walk_start(dyn__walk *walk, const dyn_tensor *t)
{
    int n = 0;
    walk->size = dyn_dtype(t->dtype)->size;
    walk->at = t->data;
    walk->done = false;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 0) walk->done = true;
        if (t->shape[i] == 1) continue;
        if (n > 0 && walk->stride[n - 1] == t->strides[i] * t->shape[i]) {
            walk->shape[n - 1] *= t->shape[i];
            walk->stride[n - 1] = t->strides[i];
        } else {
            walk->shape[n] = t->shape[i];
            walk->stride[n] = t->strides[i];
            walk->index[n++] = 0;
        }
    }
    if (n == 0) {
        walk->shape[n] = 1;
        walk->stride[n] = walk->size;
        walk->index[n++] = 0;
    }
    walk->ndim = n;
}

bool dyn__walk_next(dyn__walk *walk)
{
    for (int i = walk->ndim - 2; i >= 0; i--) {
        walk->at += walk->stride[i];
        if (++walk->index[i] < walk->shape[i]) return true;
        walk->at -= walk->stride[i] * walk->shape[i];
        walk->index[i] = 0;
    }
    return false;
}

#define ROW(type) \
    for (size_t i = 0; i < count; i++) memcpy(out + i * sizeof(type), from + (int64_t)i * step, sizeof(type))
void dyn__gather(uint8_t *out, const uint8_t *from, int64_t step, size_t count, size_t size)
{
    if (step == (int64_t)size) {
        memcpy(out, from, count * size);
        return;
    }
    switch (size) { /* the size is a constant in each: a load and a store */
    case 1: ROW(uint8_t); break;
    case 2: ROW(uint16_t); break;
    case 4: ROW(uint32_t); break;
    case 8: ROW(uint64_t); break;
    default: assert(!"a size that no type has");
    }
}

void dyn_tensor_copy(const dyn_tensor *self, void *out)
{
    uint8_t *to = out;
    if (dyn_tensor_is_contiguous(self)) {
        size_t bytes = dyn_tensor_count(self) * dyn_dtype(self->dtype)->size;
        if (bytes > 0) memcpy(out, self->data, bytes);
        return;
    }
    dyn__walk walk;
    dyn__walk_start(&walk, self);
    if (walk.done) return;
    size_t row = (size_t)walk.shape[walk.ndim - 1];
    do {
        dyn__gather(to, walk.at, walk.stride[walk.ndim - 1], row, walk.size);
        to += row * walk.size;
    } while (dyn__walk_next(&walk));
}
