/* dlpack.c -- see dynamo/dlpack.h for the contract.
 *
 *   | managed struct | release, context | shape[ndim] | strides[ndim] |     one allocation, freed by the deleter
 */
#include "dynamo/dlpack.h"
#include "common/common.h"

typedef struct given {
    union {
        dyn_dl_managed managed;
        dyn_dl_versioned versioned;
    } head; /* first: what others hold a pointer to */
    void (*release)(void *context);
    void *context;
    int64_t dims[];
} given;

static void release_buf(void *context)
{
    dyn_buf_unref(context);
}

static void finish(given *self)
{
    if (self->release != NULL) self->release(self->context);
    dyn__free(self);
}
static void delete_managed(dyn_dl_managed *self)
{
    finish((given *)self);
}
static void delete_versioned(dyn_dl_versioned *self)
{
    finish((given *)self);
}

static int give(const dyn_tensor *t, void (*release)(void *), void *context, given **out, dyn_dl_tensor **inside,
                size_t where)
{
    const dyn_dtype_info *info = dyn_dtype(t->dtype);
    size_t n = (size_t)t->ndim;
    given *self = dyn__malloc(sizeof(*self) + 2 * n * sizeof(int64_t));
    if (self == NULL) return DYN_ENOMEM;
    dyn_dl_tensor *dl = (dyn_dl_tensor *)((uint8_t *)self + where);
    for (size_t i = 0; i < n; i++) {
        int64_t stride = t->strides != NULL ? t->strides[i] : 0;
        if (stride % info->size != 0) {
            dyn__free(self);
            return dyn__fail(DYN_EINVAL, "a stride of %lld bytes: DLPack counts elements, here of %d bytes",
                             (long long)stride, info->size);
        }
        self->dims[i] = t->shape[i];
        self->dims[n + i] = stride / info->size;
    }
    if (t->strides == NULL)
        dyn_tensor_c_strides(DYN_UINT8, t->ndim, t->shape, self->dims + n); /* of bytes: in elements */
    *dl = (dyn_dl_tensor){.data = t->data,
                          .device_type = DYN_DL_CPU,
                          .ndim = t->ndim,
                          .code = info->dl_code,
                          .bits = (uint8_t)(info->size * 8),
                          .lanes = 1,
                          .shape = self->dims,
                          .strides = self->dims + n};
    self->release = release;
    self->context = context;
    if (release == NULL && t->owner != NULL) {
        self->release = release_buf;
        self->context = dyn_buf_ref(t->owner);
    }
    *inside = dl;
    *out = self;
    return DYN_OK;
}

int dyn_dlpack_give_versioned(const dyn_tensor *self, uint64_t flags, void (*release)(void *context), void *context,
                              dyn_dl_versioned **out)
{
    given *made;
    dyn_dl_tensor *dl;
    int rc = give(self, release, context, &made, &dl, offsetof(given, head.versioned.tensor));
    if (rc < 0) return rc;
    dyn_dl_versioned *v = &made->head.versioned;
    v->major = DYN_DL_MAJOR, v->minor = DYN_DL_MINOR;
    v->context = made;
    v->deleter = delete_versioned;
    v->flags = flags;
    *out = v;
    return DYN_OK;
}

int dyn_dlpack_give(const dyn_tensor *self, void (*release)(void *context), void *context, dyn_dl_managed **out)
{
    given *made;
    dyn_dl_tensor *dl;
    int rc = give(self, release, context, &made, &dl, offsetof(given, head.managed.tensor));
    if (rc < 0) return rc;
    made->head.managed.context = made;
    made->head.managed.deleter = delete_managed;
    *out = &made->head.managed;
    return DYN_OK;
}

int dyn_dlpack_take(const dyn_dl_tensor *from, int64_t *dims, dyn_tensor *out)
{
    int dtype = 0;
    if (from->device_type != DYN_DL_CPU && from->device_type != DYN_DL_CUDA_HOST)
        return dyn__fail(DYN_EINVAL, "the tensor is on device (%d, %d): copy it to the CPU first", from->device_type,
                         from->device_id);
    for (int code = 1; code < DYN_DTYPE_COUNT; code++) {
        const dyn_dtype_info *info = dyn_dtype(code);
        if (info->dl_code == from->code && info->size * 8 == from->bits) dtype = code;
    }
    if (from->code == dyn_dtype(DYN_BOOL)->dl_code && from->bits == 1)
        dtype = DYN_BOOL; /* as some write it: a byte too */
    if (dtype == 0 || from->lanes != 1)
        return dyn__fail(DYN_EINVAL, "DLPack type (%d, %d bits, %d lanes): there is no such element type", from->code,
                         from->bits, from->lanes);
    int rc = dyn_tensor_measure(dtype, from->ndim, from->shape, NULL, NULL);
    if (rc < 0) return rc;
    int64_t *strides = dims + from->ndim, size = dyn_dtype(dtype)->size;
    if (from->ndim > 0) memcpy(dims, from->shape, (size_t)from->ndim * sizeof(*dims));
    if (from->strides == NULL) dyn_tensor_c_strides(dtype, from->ndim, dims, strides);
    for (int i = 0; from->strides != NULL && i < from->ndim; i++)
        if (__builtin_mul_overflow(from->strides[i], size, &strides[i]))
            return dyn__fail(DYN_ERANGE, "stride %lld of dimension %d does not fit", (long long)from->strides[i], i);
    *out = (dyn_tensor){.data = (uint8_t *)from->data + from->byte_offset,
                        .shape = dims,
                        .strides = strides,
                        .ndim = from->ndim,
                        .dtype = (uint8_t)dtype};
    return DYN_OK;
}
