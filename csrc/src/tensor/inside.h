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

/* The elements of any tensor in pieces that lie side by side and aligned:
 *
 *   dyn__source_start(&source, t);
 *   while ((n = dyn__source_next(&source, DYN__PIECE, scratch, &piece)) > 0) ... n elements at piece
 *
 * A tensor that lies so already is not copied, and then a piece may be longer than the scratch. */
enum { DYN__PIECE = 1024 };
typedef struct dyn__source {
    bool direct;
    uint64_t left;
    int64_t column; /* in the row at walk.at */
    dyn__walk walk;
} dyn__source;
void dyn__source_start(dyn__source *source, const dyn_tensor *t);
size_t dyn__source_next(dyn__source *source, size_t most, void *scratch, const void **piece);

/* Elements as wider numbers. The real part of complex64. */
void dyn__to_f32(int dtype, const void *from, float *out, size_t count);     /* rounded once */
void dyn__to_f32_odd(int dtype, const void *from, float *out, size_t count); /* to be rounded again (narrow.h) */
void dyn__to_f64(int dtype, const void *from, double *out, size_t count);
void dyn__to_i64(int dtype, const void *from, int64_t *out, size_t count); /* of integers and bool; uint64 wraps */

/* DYN_EPROTO with a sentence for a type that no frame has. */
int dyn__tensor_type_check(uint8_t type);

#endif
