/* safetensors.h -- what a safetensors file says about its tensors. The elements stay where they are: map the file.
 *
 *   | u64 LE size of the head | head: JSON, padded with spaces | elements of all tensors, one after another |
 *
 * Units    bytes; places count from the first byte of the file.
 * Errors   files come from anyone: DYN_EPROTO, DYN_ELIMIT, DYN_ERANGE with a sentence; DYN_ENOTSUP for element types that we
 *          do not have. What is given out is consistent: the tensors cover the file from the head to its end without gaps,
 *          and each is as large as its shape says.
 * Threads  a read head does not change: any number may look at it.
 */
#ifndef DYNAMO_SAFETENSORS_H
#define DYNAMO_SAFETENSORS_H

#include "dynamo/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_SAFETENSORS_MAX_HEAD (UINT64_C(32) << 20)

typedef struct dyn_safetensors dyn_safetensors;
typedef struct dyn_safetensor {
    const char *name; /* terminated UTF-8 */
    int dtype;
    int32_t ndim;
    const int64_t *shape;
    uint64_t begin, end;
} dyn_safetensor;

/* Read the head of a file.
 * bytes   the file's first bytes, at least its head; borrowed for the call.
 * size    how many of them there are.    file_size  of the whole file.
 * out     receives a new head, to be passed to dyn_safetensors_free(). */
DYN_API int dyn_safetensors_read(const uint8_t *bytes, size_t size, uint64_t file_size, dyn_safetensors **out);
DYN_API void dyn_safetensors_free(dyn_safetensors *self); /* NULL is allowed */
/* In the order of their places in the file.  at  below the count.  Borrowed while the head lives. */
DYN_API size_t dyn_safetensors_count(const dyn_safetensors *self);
DYN_API const dyn_safetensor *dyn_safetensors_at(const dyn_safetensors *self, size_t at);
/* The file's own key and value texts ("__metadata__"); false behind the last. */
DYN_API bool dyn_safetensors_metadata(const dyn_safetensors *self, size_t at, const char **key, const char **value);

#ifdef __cplusplus
}
#endif
#endif
