/* tensor.h -- numbers in many dimensions: what they are, where they lie, what becomes of them.
 *
 *   dyn_tensor   data ---> first element       shape[ndim]     how many along each dimension
 *                owner --> dyn_buf or NULL     strides[ndim]   bytes from one to the next; may be 0 or negative
 *
 * A dyn_tensor is a view: a small struct on anybody's stack that says where numbers lie. It owns nothing; who keeps it
 * keeps a reference to `owner` (dyn_buf_ref) and the two arrays alive.
 *
 * Units    shapes count elements, strides and sizes are bytes. All numbers are little-endian.
 * Errors   DYN_EINVAL, DYN_ERANGE (a shape whose product does not fit), with a sentence; a failed call writes nothing
 *          that it has not promised to.
 * Threads  no state: calls on tensors that nobody writes to may overlap.
 */
#ifndef DYNAMO_TENSOR_H
#define DYNAMO_TENSOR_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- element types ---------------------------------------------------------------------------------------------
 * name, number (ABI and on the wire: append, never renumber), bytes, kind, DLPack code, text, typestr of NumPy's array
 * interface, format of Python's buffer protocol (NULL: it has none), name in safetensors files. */
#define DYN_DTYPE_MAP(X)                                                        \
    X(FLOAT32, 1, 4, FLOAT, 2, "float32", "<f4", "f", "F32")                    \
    X(FLOAT16, 2, 2, FLOAT, 2, "float16", "<f2", "e", "F16")                    \
    X(BFLOAT16, 3, 2, FLOAT, 4, "bfloat16", "<V2", NULL, "BF16")                \
    X(FLOAT64, 4, 8, FLOAT, 2, "float64", "<f8", "d", "F64")                    \
    X(INT8, 5, 1, INT, 0, "int8", "|i1", "b", "I8")                             \
    X(INT32, 6, 4, INT, 0, "int32", "<i4", "i", "I32")                          \
    X(INT64, 7, 8, INT, 0, "int64", "<i8", "l", "I64")                          \
    X(UINT8, 8, 1, UINT, 1, "uint8", "|u1", "B", "U8")                          \
    X(BOOL, 9, 1, BOOL, 6, "bool", "|b1", "?", "BOOL")                          \
    X(FLOAT8_E4M3FN, 10, 1, FLOAT, 10, "float8_e4m3fn", "|V1", NULL, "F8_E4M3") \
    X(FLOAT8_E5M2, 11, 1, FLOAT, 12, "float8_e5m2", "|V1", NULL, "F8_E5M2")     \
    X(INT16, 12, 2, INT, 0, "int16", "<i2", "h", "I16")                         \
    X(UINT16, 13, 2, UINT, 1, "uint16", "<u2", "H", "U16")                      \
    X(UINT32, 14, 4, UINT, 1, "uint32", "<u4", "I", "U32")                      \
    X(UINT64, 15, 8, UINT, 1, "uint64", "<u8", "L", "U64")                      \
    X(COMPLEX64, 16, 8, COMPLEX, 5, "complex64", "<c8", "Zf", "C64")

enum dyn_dtype {
#define X(name, number, ...) DYN_##name = number,
    DYN_DTYPE_MAP(X)
#undef X
        DYN_DTYPE_COUNT = 17 /* one more than the largest number */
};
enum dyn_kind { DYN_KIND_FLOAT, DYN_KIND_INT, DYN_KIND_UINT, DYN_KIND_BOOL, DYN_KIND_COMPLEX };

typedef struct dyn_dtype_info {
    const char *name, *typestr, *format, *safetensors;
    uint8_t code, size, kind, dl_code;
} dyn_dtype_info;
/* What is known of a type; NULL when there is none of this number. Static. */
DYN_API const dyn_dtype_info *dyn_dtype(int code);

/* ---- views ------------------------------------------------------------------------------------------------------ */
#define DYN_TENSOR_MAX_DIMS 64
enum dyn_device { DYN_DEVICE_CPU = 0, DYN_DEVICE_CUDA = 1 };

typedef struct dyn_tensor {
    void *data;             /* the first element; anything when there are none */
    dyn_buf *owner;         /* the buffer that the data lies in, borrowed; NULL: memory of someone else */
    const int64_t *shape;   /* borrowed */
    const int64_t *strides; /* borrowed; NULL: C order without gaps */
    int32_t ndim;           /* 0: a single element */
    uint8_t dtype;          /* enum dyn_dtype */
    uint8_t device;         /* enum dyn_device; what this library makes and takes is on the CPU */
    uint8_t readonly;
} dyn_tensor;

/* Count the elements and bytes of a shape. Sizes may be 0; the product of the others must fit, so that every stride does.
 * elements, bytes   may be NULL.
 * errors  DYN_EINVAL: no such dtype, more than DYN_TENSOR_MAX_DIMS dimensions; DYN_ERANGE: negative, or it does not fit
 *         63 bits. */
DYN_API int dyn_tensor_measure(int dtype, int ndim, const int64_t *shape, uint64_t *elements, uint64_t *bytes);
/* The strides of C order without gaps.  shape  measured. */
DYN_API void dyn_tensor_c_strides(int dtype, int ndim, const int64_t *shape, int64_t *strides);
/* Do the elements lie in C order without gaps? */
DYN_API bool dyn_tensor_is_contiguous(const dyn_tensor *self);
/* Elements in all. */
DYN_API uint64_t dyn_tensor_count(const dyn_tensor *self);

/* Write the elements to `out` in C order without gaps.
 * out     as many bytes as dyn_tensor_measure says; must not overlap the tensor. */
DYN_API void dyn_tensor_copy(const dyn_tensor *self, void *out);

/* ---- conversion -------------------------------------------------------------------------------------------------- */
/* Write the elements to `out` as another type, in C order without gaps.
 *   to floats     to the nearest, ties to even, rounded once; NaN stays NaN; too large becomes infinity (NaN where there is none)
 *   to integers   from floats toward zero, NaN 0, what does not fit the nearest that does; from integers modulo 2^bits
 *   to bool       not 0
 * out     dyn_tensor_count() elements of the new type; must not overlap the tensor.
 * errors  DYN_EINVAL: no such dtype; complex to what is not. */
DYN_API int dyn_tensor_convert(const dyn_tensor *self, int dtype, void *out);
/* The instruction set that conversions and sums use here: "avx512", "avx2", "scalar". Static. */
DYN_API const char *dyn_tensor_simd(void);

/* ---- numbers out of tensors ---------------------------------------------------------------------------------------- */
typedef struct dyn_number {
    int kind; /* enum dyn_kind */
    union {
        struct {
            uint64_t low;
            int64_t high; /* low + 2^64 high */
        } integer;        /* INT, UINT, BOOL */
        double real;      /* FLOAT */
        struct {
            double re, im;
        } complex;
    } as;
} dyn_number;

/* One element; `at` need not be aligned. */
DYN_API void dyn_tensor_item(int dtype, const void *at, dyn_number *out);
/* The sum of all elements: integers and bools exactly, floats in doubles (float64 pairwise). 0 when there are none. */
DYN_API void dyn_tensor_sum(const dyn_tensor *self, dyn_number *out);
/* The sum of the products of two tensors, as exactly as the sum.
 * errors  DYN_EINVAL: they differ in type or number of elements. */
DYN_API int dyn_tensor_dot(const dyn_tensor *self, const dyn_tensor *other, dyn_number *out);
/* The smallest and the largest element; NaN when one is.  errors  DYN_EINVAL: there are none, or they are complex. */
DYN_API int dyn_tensor_bounds(const dyn_tensor *self, dyn_number *least, dyn_number *most);
/* Where the first largest (smallest) element is, counted in C order; a NaN is taken as both.  errors  as above. */
DYN_API int dyn_tensor_argmax(const dyn_tensor *self, uint64_t *index);
DYN_API int dyn_tensor_argmin(const dyn_tensor *self, uint64_t *index);
/* Have both the same type, shape and values? 0 and -0 are the same; NaNs only with nan_equal. */
DYN_API bool dyn_tensor_equal(const dyn_tensor *self, const dyn_tensor *other, bool nan_equal);
/* Is |a - b| <= absolute + relative * |b| for all elements? The types may differ.
 * errors  DYN_EINVAL: the shapes differ.  Returns 1 or 0. */
DYN_API int dyn_tensor_close(const dyn_tensor *self, const dyn_tensor *other, double relative, double absolute,
                             bool nan_equal);

#ifdef __cplusplus
}
#endif
#endif
