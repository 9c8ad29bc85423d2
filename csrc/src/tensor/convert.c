/* convert.c -- see dynamo/tensor.h for the contract: one type into another.
 *
 *   to a narrow float    elements -> float32, rounded to odd -> narrow           (float32 <-> 16 bits: straight, by kernels)
 *   to float32           elements -> float32
 *   to float64, integer  elements -> float64 or int64 -> it
 *
 * in pieces of DYN__PIECE that stay in the first cache: 16 types make 16 ways in and 16 out instead of 256.
 */
#include <math.h>

#include "common/common.h"
#include "tensor/inside.h"
#include "tensor/kernels.h"
#include "tensor/narrow.h"

const dyn__kernels *dyn__kernels_pick(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("bmi2"))
        return &dyn__kernels_avx512;
    /* f16c came before avx2 with every maker, and not every compiler knows how to ask for it. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return &dyn__kernels_avx2;
#endif
    return &dyn__kernels_scalar;
}

const char *dyn_tensor_simd(void)
{
    return dyn__kernels_pick()->name;
}

/* ---- pieces ---- */
void dyn__source_start(dyn__source *source, const dyn_tensor *t)
{
    source->left = dyn_tensor_count(t);
    source->column = 0;
    source->walk.size = dyn_dtype(t->dtype)->size;
    source->walk.at = t->data;
    size_t aligned = t->dtype == DYN_COMPLEX64 ? 4 : source->walk.size;
    source->direct = dyn_tensor_is_contiguous(t) && (uintptr_t)t->data % aligned == 0;
    if (source->direct) return;
    int64_t strides[DYN_TENSOR_MAX_DIMS];
    dyn_tensor packed = *t;
    if (t->strides == NULL) { /* contiguous, but not aligned */
        dyn_tensor_c_strides(t->dtype, t->ndim, t->shape, strides);
        packed.strides = strides;
    }
    dyn__walk_start(&source->walk, &packed);
}

size_t dyn__source_next(dyn__source *source, size_t most, void *scratch, const void **piece)
{
    dyn__walk *walk = &source->walk;
    size_t count = source->left < most ? (size_t)source->left : most, done = 0;
    source->left -= count;
    if (source->direct) {
        *piece = walk->at;
        walk->at += count * walk->size;
        return count;
    }
    int64_t row = walk->shape[walk->ndim - 1], step = walk->stride[walk->ndim - 1];
    while (done < count) {
        size_t n = (size_t)(row - source->column);
        if (n > count - done) n = count - done;
        dyn__gather((uint8_t *)scratch + done * walk->size, walk->at + source->column * step, step, n, walk->size);
        done += n;
        source->column += (int64_t)n;
        if (source->column == row) {
            source->column = 0;
            dyn__walk_next(walk);
        }
    }
    *piece = scratch;
    return count;
}

/* ---- in ---- */
#define EACH(type, expression)                                    \
    do {                                                          \
        const type *v = from;                                     \
        for (size_t i = 0; i < count; i++) out[i] = (expression); \
        return;                                                   \
    } while (0)
#define INTEGERS(make)                           \
    case DYN_INT8: EACH(int8_t, make(v[i]));     \
    case DYN_INT16: EACH(int16_t, make(v[i]));   \
    case DYN_UINT8: EACH(uint8_t, make(v[i]));   \
    case DYN_UINT16: EACH(uint16_t, make(v[i])); \
    case DYN_BOOL: EACH(uint8_t, make((v[i] != 0)))

void dyn__to_f32(int dtype, const void *from, float *out, size_t count)
{
    switch (dtype) {
    case DYN_FLOAT32: memcpy(out, from, count * sizeof(float)); return;
    case DYN_BFLOAT16: dyn__kernels_pick()->f32_from_bf16(out, from, count); return;
    case DYN_FLOAT16: dyn__kernels_pick()->f32_from_f16(out, from, count); return;
    case DYN_FLOAT8_E4M3FN: EACH(uint8_t, f32_of_e4m3(v[i]));
    case DYN_FLOAT8_E5M2: EACH(uint8_t, f32_of_e5m2(v[i]));
    case DYN_FLOAT64: EACH(double, (float)v[i]);
    case DYN_COMPLEX64: EACH(float, v[2 * i]); INTEGERS((float));
    case DYN_INT32: EACH(int32_t, (float)v[i]);
    case DYN_UINT32: EACH(uint32_t, (float)v[i]);
    case DYN_INT64: EACH(int64_t, (float)v[i]);
    case DYN_UINT64: EACH(uint64_t, (float)v[i]);
    default: assert(!"a type that there is not");
    }
}

void dyn__to_f32_odd(int dtype, const void *from, float *out, size_t count)
{
    switch (dtype) {
    case DYN_FLOAT64: EACH(double, odd_of_f64(v[i]));
    case DYN_INT32: EACH(int32_t, odd_of_i64(v[i]));
    case DYN_UINT32: EACH(uint32_t, odd_of_u64(v[i]));
    case DYN_INT64: EACH(int64_t, odd_of_i64(v[i]));
    case DYN_UINT64: EACH(uint64_t, odd_of_u64(v[i]));
    default: dyn__to_f32(dtype, from, out, count); /* all others are exact */
    }
}

void dyn__to_f64(int dtype, const void *from, double *out, size_t count)
{
    float scratch[256];
    switch (dtype) {
    case DYN_FLOAT64: memcpy(out, from, count * sizeof(double)); return;
    case DYN_FLOAT32: EACH(float, (double)v[i]); INTEGERS((double));
    case DYN_INT32: EACH(int32_t, (double)v[i]);
    case DYN_UINT32: EACH(uint32_t, (double)v[i]);
    case DYN_INT64: EACH(int64_t, (double)v[i]);
    case DYN_UINT64: EACH(uint64_t, (double)v[i]);
    default: break;
    }
    size_t size = dyn_dtype(dtype)->size;
    for (size_t at = 0; at < count; at += DYN__COUNT(scratch)) {
        size_t n = count - at < DYN__COUNT(scratch) ? count - at : DYN__COUNT(scratch);
        dyn__to_f32(dtype, (const uint8_t *)from + at * size, scratch, n);
        for (size_t i = 0; i < n; i++) out[at + i] = (double)scratch[i];
    }
}

void dyn__to_i64(int dtype, const void *from, int64_t *out, size_t count)
{
    switch (dtype) {
        INTEGERS((int64_t));
    case DYN_INT32: EACH(int32_t, (int64_t)v[i]);
    case DYN_UINT32: EACH(uint32_t, (int64_t)v[i]);
    case DYN_INT64:
    case DYN_UINT64: memcpy(out, from, count * sizeof(int64_t)); return;
    default: assert(!"a type that is no integer");
    }
}

/* ---- out ---- */
#define STORE(type, expression)                                        \
    do {                                                               \
        type *to = out;                                                \
        for (size_t i = 0; i < count; i++) to[i] = (type)(expression); \
        return;                                                        \
    } while (0)

static void from_f32(int dtype, const float *v, void *out, size_t count)
{
    switch (dtype) {
    case DYN_BFLOAT16: dyn__kernels_pick()->bf16_from_f32(out, v, count); return;
    case DYN_FLOAT16: dyn__kernels_pick()->f16_from_f32(out, v, count); return;
    case DYN_FLOAT8_E4M3FN: STORE(uint8_t, e4m3_of_f32(v[i]));
    case DYN_FLOAT8_E5M2: STORE(uint8_t, e5m2_of_f32(v[i]));
    case DYN_COMPLEX64: {
        float *to = out;
        for (size_t i = 0; i < count; i++) to[2 * i] = v[i], to[2 * i + 1] = 0;
        return;
    }
    default: assert(!"a type that float32 does not become");
    }
}

/* Toward zero; the nearest that fits; NaN 0. */
static inline int64_t clamped(double d, double least, double most)
{
    return d != d ? 0 : (int64_t)(d < least ? least : d > most ? most : d);
}
static inline int64_t i64_of(double d)
{
    return d != d ? 0 : d >= 0x1p63 ? INT64_MAX : d < -0x1p63 ? INT64_MIN : (int64_t)d;
}
static inline uint64_t u64_of(double d)
{
    return !(d > 0) ? 0 : d >= 0x1p64 ? UINT64_MAX : (uint64_t)d;
}

static void from_f64(int dtype, const double *v, void *out, size_t count)
{
    switch (dtype) {
    case DYN_INT8: STORE(int8_t, clamped(v[i], INT8_MIN, INT8_MAX));
    case DYN_INT16: STORE(int16_t, clamped(v[i], INT16_MIN, INT16_MAX));
    case DYN_INT32: STORE(int32_t, clamped(v[i], INT32_MIN, INT32_MAX));
    case DYN_INT64: STORE(int64_t, i64_of(v[i]));
    case DYN_UINT8: STORE(uint8_t, clamped(v[i], 0, UINT8_MAX));
    case DYN_UINT16: STORE(uint16_t, clamped(v[i], 0, UINT16_MAX));
    case DYN_UINT32: STORE(uint32_t, clamped(v[i], 0, UINT32_MAX));
    case DYN_UINT64: STORE(uint64_t, u64_of(v[i]));
    case DYN_BOOL: STORE(uint8_t, v[i] != 0);
    default: assert(!"a type that float64 does not become");
    }
}

static void from_i64(int dtype, const int64_t *v, void *out, size_t count)
{
    switch (dtype) {
    case DYN_INT8: STORE(int8_t, v[i]);
    case DYN_INT16: STORE(int16_t, v[i]);
    case DYN_INT32: STORE(int32_t, v[i]);
    case DYN_UINT8: STORE(uint8_t, v[i]);
    case DYN_UINT16: STORE(uint16_t, v[i]);
    case DYN_UINT32: STORE(uint32_t, v[i]);
    case DYN_INT64:
    case DYN_UINT64: memcpy(out, v, count * sizeof(*v)); return;
    case DYN_BOOL: STORE(uint8_t, v[i] != 0);
    default: assert(!"a type that int64 does not become");
    }
}

static bool is_integer(int kind)
{
    return kind == DYN_KIND_INT || kind == DYN_KIND_UINT || kind == DYN_KIND_BOOL;
}

static void convert_piece(int from, int to, const void *piece, void *out, size_t count)
{
    union {
        float f32[DYN__PIECE];
        double f64[DYN__PIECE];
        int64_t i64[DYN__PIECE];
    } wide;
    if (is_integer(dyn_dtype(to)->kind)) {
        if (is_integer(dyn_dtype(from)->kind)) {
            dyn__to_i64(from, piece, wide.i64, count);
            from_i64(to, wide.i64, out, count);
        } else if (from == DYN_COMPLEX64) { /* only to bool: not 0 in either part */
            const float *v = piece;
            uint8_t *bools = out;
            for (size_t i = 0; i < count; i++) bools[i] = v[2 * i] != 0 || v[2 * i + 1] != 0;
        } else {
            dyn__to_f64(from, piece, wide.f64, count);
            from_f64(to, wide.f64, out, count);
        }
        return;
    }
    if (to == DYN_FLOAT32) {
        dyn__to_f32(from, piece, out, count);
    } else if (to == DYN_FLOAT64) {
        dyn__to_f64(from, piece, out, count);
    } else {
        (to == DYN_COMPLEX64 ? dyn__to_f32 : dyn__to_f32_odd)(from, piece, wide.f32, count);
        from_f32(to, wide.f32, out, count);
    }
}

int dyn_tensor_convert(const dyn_tensor *self, int dtype, void *out)
{
    const dyn_dtype_info *to = dyn_dtype(dtype);
    if (to == NULL) return dyn__fail(DYN_EINVAL, "dtype %d: there are types 1 to %d", dtype, DYN_DTYPE_COUNT - 1);
    if (dtype == self->dtype) {
        dyn_tensor_copy(self, out);
        return DYN_OK;
    }
    if (self->dtype == DYN_COMPLEX64 && dtype != DYN_BOOL)
        return dyn__fail(DYN_EINVAL, "complex64 as %s would lose its imaginary part", to->name);
    dyn__source source;
    double scratch[DYN__PIECE];
    const void *piece;
    size_t count;
    uint8_t *at = out;
    dyn__source_start(&source, self);
    bool half = self->dtype == DYN_BFLOAT16 || self->dtype == DYN_FLOAT16,
         to_half = dtype == DYN_BFLOAT16 || dtype == DYN_FLOAT16;
    if (source.direct && half && dtype == DYN_FLOAT32) {
        dyn__to_f32(self->dtype, self->data, out, source.left);
        return DYN_OK;
    }
    if (source.direct && self->dtype == DYN_FLOAT32 && to_half) {
        from_f32(dtype, self->data, out, source.left);
        return DYN_OK;
    }
    while ((count = dyn__source_next(&source, DYN__PIECE, scratch, &piece)) > 0) {
        convert_piece(self->dtype, dtype, piece, at, count);
        at += count * to->size;
    }
    return DYN_OK;
}
