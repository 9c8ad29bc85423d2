/* tensor/inside.h -- shared by the files of this area. */
#ifndef DYN_SRC_TENSOR_INSIDE_H
#define DYN_SRC_TENSOR_INSIDE_H

#include "dynamo/tensor.h"

/* The rows of a tensor with strides, one after another in C order:
 *
 *   dyn__walk_start(&walk, t);
 *   if (!walk.done) do { shape[ndim - 1] elements from walk.at on, stride[ndim - 1] apart } while (dyn__walk_next(&walk));
 */
typedef struct dyn__walk {
    const uint8_t *at;
    size_t size; /* of an element */
    int ndim;    /* 1 or more */
    bool done;   /* there are no elements */
    int64_t shape[DYN_TENSOR_MAX_DIMS], stride[DYN_TENSOR_MAX_DIMS], index[DYN_TENSOR_MAX_DIMS];
} dyn__walk;
void dyn__walk_start(dyn__walk *walk, const dyn_tensor *t); /* t->strides is not NULL */
bool dyn__walk_next(dyn__walk *walk);
/* Elements that lie `step` bytes apart, beside one another; no alignment is asked of `from`. */
void dyn__gather(uint8_t *out, const uint8_t *from, int64_t step, size_t count, size_t size);


/* DYN_EPROTO with a sentence for a type that no frame has. */
int dyn__tensor_type_check(uint8_t type);

#endif
