/* dlpack.h -- tensors to and from other libraries, in the layout of DLPack 1 (https://dmlc.github.io/dlpack).
 *
 * The structs are DLPack's own, field for field, under our names, so that including this beside its header is harmless.
 */
#ifndef DYNAMO_DLPACK_H
#define DYNAMO_DLPACK_H

#include "dynamo/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DYN_DL_CPU = 1, DYN_DL_CUDA = 2, DYN_DL_CUDA_HOST = 3 };
enum { DYN_DL_MAJOR = 1, DYN_DL_MINOR = 1 };
#define DYN_DL_READ_ONLY UINT64_C(1)
#define DYN_DL_COPIED UINT64_C(2)

typedef struct dyn_dl_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides; /* strides count elements; NULL: C order */
    uint64_t byte_offset;
} dyn_dl_tensor;
typedef struct dyn_dl_managed { /* in capsules called "dltensor" */
    dyn_dl_tensor tensor;
    void *context;
    void (*deleter)(struct dyn_dl_managed *self);
} dyn_dl_managed;
typedef struct dyn_dl_versioned { /* in capsules called "dltensor_versioned" */
    uint32_t major, minor;
    void *context;
    void (*deleter)(struct dyn_dl_versioned *self);
    uint64_t flags;
    dyn_dl_tensor tensor;
} dyn_dl_versioned;

/* Hand a tensor out.
 * release   called once with `context`, by whoever deletes it, on any thread; NULL: a reference to self->owner is taken and
 *           given back without anybody's help.
 * flags     DYN_DL_READ_ONLY, DYN_DL_COPIED.
 * out       receives a new dyn_dl_versioned or dyn_dl_managed, freed by its own deleter.
 * errors    DYN_EINVAL: the strides are no whole numbers of elements; DYN_ENOMEM. `release` is not called then. */
DYN_API int dyn_dlpack_give_versioned(const dyn_tensor *self, uint64_t flags, void (*release)(void *context),
                                      void *context, dyn_dl_versioned **out);
DYN_API int dyn_dlpack_give(const dyn_tensor *self, void (*release)(void *context), void *context,
                            dyn_dl_managed **out);
/* Look at a tensor of somebody else.
 * dims    room for 2 * DYN_TENSOR_MAX_DIMS: shape and strides of out point into it.
 * errors  DYN_EINVAL: not on the CPU, an element type that we do not have, a shape that cannot be. */
DYN_API int dyn_dlpack_take(const dyn_dl_tensor *from, int64_t *dims, dyn_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
