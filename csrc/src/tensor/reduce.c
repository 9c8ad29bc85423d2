/* reduce.c -- see dynamo/tensor.h for the contract: tensors into numbers.
 *
 * Each reduction walks over pieces (inside.h) in one of four ways: float32 and narrower as float32, float64 as it is, integers as
 * int64 or uint64, complex64 as pairs of float32.
 */
#include <math.h>

#include "common/common.h"
#include "tensor/inside.h"
#include "tensor/kernels.h"

__extension__ typedef __int128 wide_int; /* the sum of 2^63 elements of 64 bits fits */

enum way { AS_F32, AS_F64, AS_I64, AS_U64, AS_COMPLEX };
static enum way way_of(int dtype)
{
    switch (dyn_dtype(dtype)->kind) {
    case DYN_KIND_FLOAT: return dtype == DYN_FLOAT64 ? AS_F64 : AS_F32;
    case DYN_KIND_COMPLEX: return AS_COMPLEX;
    default: return dtype == DYN_UINT64 ? AS_U64 : AS_I64;
    }
}

static void set_integer(dyn_number *out, int kind, wide_int value)
{
    out->kind = kind;
    out->as.integer.low = (uint64_t)value;
    out->as.integer.high = (int64_t)(value >> 64);
}
static void set_real(dyn_number *out, double value)
{
    out->kind = DYN_KIND_FLOAT;
    out->as.real = value;
}

void dyn_tensor_item(int dtype, const void *at, dyn_number *out)
{
    uint64_t aligned[1];
    int64_t integer;
    double real;
    int kind = dyn_dtype(dtype)->kind;
    memcpy(aligned, at, dyn_dtype(dtype)->size);
    if (kind == DYN_KIND_FLOAT) {
        dyn__to_f64(dtype, aligned, &real, 1);
        set_real(out, real);
    } else if (kind == DYN_KIND_COMPLEX) {
        float parts[2];
        memcpy(parts, at, sizeof(parts));
        *out = (dyn_number){.kind = kind, .as.complex = {(double)parts[0], (double)parts[1]}};
    } else {
        dyn__to_i64(dtype, aligned, &integer, 1);
        set_integer(out, kind, dtype == DYN_UINT64 ? (wide_int)(uint64_t)integer : integer);
    }
}

typedef union scratch { /* for gathered elements, or those of a narrower type made wide */
    double f64[DYN__PIECE];
    float f32[DYN__PIECE];
    int64_t i64[DYN__PIECE];
} scratch;

/* The next elements as float32, float64 or 64-bit integers, as their way is; 0 at the end. Those that are of that type already
 * and lie well come all at once. */
static size_t next_wide(dyn__source *source, int dtype, scratch *gathered, scratch *widened, const void **out)
{
    const void *piece;
    enum way way = way_of(dtype);
    bool as_it_is = dtype == DYN_FLOAT32 || dtype == DYN_FLOAT64 || dtype == DYN_INT64 || dtype == DYN_UINT64;
    size_t count = dyn__source_next(source, as_it_is && source->direct ? SIZE_MAX : DYN__PIECE, gathered, &piece);
    *out = piece;
    if (as_it_is || count == 0) return count;
    *out = widened;
    if (way == AS_F32)
        dyn__to_f32(dtype, piece, widened->f32, count);
    else
        dyn__to_i64(dtype, piece, widened->i64, count);
    return count;
}

/* Sums of 64-bit integers: the halves of 32 bits cannot overflow within a piece of 2^32. */
static wide_int sum_64(const uint64_t *v, size_t count, bool is_signed)
{
    wide_int sum = 0;
    while (count > 0) {
        size_t n = count < (1u << 20) ? count : 1u << 20;
        uint64_t low = 0, high = 0;
        int64_t signed_high = 0;
        for (size_t i = 0; i < n; i++) low += v[i] & 0xffffffff;
        if (is_signed)
            for (size_t i = 0; i < n; i++) signed_high += (int64_t)v[i] >> 32;
        else
            for (size_t i = 0; i < n; i++) high += v[i] >> 32;
        sum += low + (is_signed ? (wide_int)signed_high : (wide_int)high) * ((wide_int)1 << 32);
        v += n, count -= n;
    }
    return sum;
}

void dyn_tensor_sum(const dyn_tensor *self, dyn_number *out)
{
    const dyn__kernels *kernels = dyn__kernels_pick();
    enum way way = way_of(self->dtype);
    dyn__source source;
    scratch gathered, widened;
    const void *piece;
    size_t count;
    double sum = 0, im = 0;
    wide_int integer = 0;
    dyn__source_start(&source, self);
    if (way == AS_COMPLEX) {
        while ((count = dyn__source_next(&source, DYN__PIECE, &gathered, &piece)) > 0) {
            const float *v = piece;
            double part[2] = {0};
            for (size_t i = 0; i < count; i++) part[0] += (double)v[2 * i], part[1] += (double)v[2 * i + 1];
            sum += part[0], im += part[1];
        }
        *out = (dyn_number){.kind = DYN_KIND_COMPLEX, .as.complex = {sum, im}};
        return;
    }
    while ((count = next_wide(&source, self->dtype, &gathered, &widened, &piece)) > 0) {
        switch (way) {
        case AS_F32: sum += kernels->sum_f32(piece, count); break;
        case AS_F64: sum += kernels->sum_f64(piece, count); break;
        default: integer += sum_64(piece, count, way == AS_I64); break;
        }
    }
    if (way == AS_F32 || way == AS_F64)
        set_real(out, sum);
    else
        set_integer(out, way == AS_I64 ? DYN_KIND_INT : DYN_KIND_UINT, integer);
}

static int check_pair(const dyn_tensor *a, const dyn_tensor *b)
{
    if (a->dtype != b->dtype)
        return dyn__fail(DYN_EINVAL, "%s with %s: the types must be the same", dyn_dtype(a->dtype)->name,
                         dyn_dtype(b->dtype)->name);
    if (dyn_tensor_count(a) != dyn_tensor_count(b))
        return dyn__fail(DYN_EINVAL, "%llu elements with %llu: there must be as many",
                         (unsigned long long)dyn_tensor_count(a), (unsigned long long)dyn_tensor_count(b));
    return DYN_OK;
}

int dyn_tensor_dot(const dyn_tensor *self, const dyn_tensor *other, dyn_number *out)
{
    const dyn__kernels *kernels = dyn__kernels_pick();
    enum way way = way_of(self->dtype);
    dyn__source a, b;
    scratch gathered[2];
    union {
        float f32[DYN__PIECE];
        int64_t i64[DYN__PIECE];
    } wide[2];
    const void *p, *q;
    size_t count;
    double re = 0, im = 0;
    wide_int integer = 0;
    int rc = check_pair(self, other);
    if (rc < 0) return rc;
    dyn__source_start(&a, self), dyn__source_start(&b, other);
    while ((count = dyn__source_next(&a, DYN__PIECE, &gathered[0], &p)) > 0) {
        dyn__source_next(&b, count, &gathered[1], &q);
        if (way == AS_COMPLEX) {
            const float *v = p, *w = q;
            for (size_t i = 0; i < 2 * count; i += 2) {
                re += (double)v[i] * (double)w[i] - (double)v[i + 1] * (double)w[i + 1];
                im += (double)v[i] * (double)w[i + 1] + (double)v[i + 1] * (double)w[i];
            }
        } else if (way == AS_F64) {
            const double *v = p, *w = q;
            double part = 0;
            for (size_t i = 0; i < count; i++) part += v[i] * w[i];
            re += part;
        } else if (way == AS_F32) {
            if (self->dtype != DYN_FLOAT32) {
                dyn__to_f32(self->dtype, p, wide[0].f32, count), p = wide[0].f32;
                dyn__to_f32(self->dtype, q, wide[1].f32, count), q = wide[1].f32;
            }
            re += kernels->dot_f32(p, q, count);
        } else {
            dyn__to_i64(self->dtype, p, wide[0].i64, count);
            dyn__to_i64(self->dtype, q, wide[1].i64, count);
            for (size_t i = 0; i < count; i++) /* 2^63 products of 2^126 could wrap: modulo 2^128 then */
                integer =
                    (wide_int)((unsigned __int128)integer +
                               (way == AS_U64 ? (unsigned __int128)(uint64_t)wide[0].i64[i] * (uint64_t)wide[1].i64[i]
                                              : (unsigned __int128)((wide_int)wide[0].i64[i] * wide[1].i64[i])));
        }
    }
    if (way == AS_COMPLEX)
        *out = (dyn_number){.kind = DYN_KIND_COMPLEX, .as.complex = {re, im}};
    else if (way == AS_F32 || way == AS_F64)
        set_real(out, re);
    else
        set_integer(out, way == AS_I64 ? DYN_KIND_INT : DYN_KIND_UINT, integer);
    return DYN_OK;
}

static int check_order(const dyn_tensor *self)
{
    if (self->dtype == DYN_COMPLEX64) return dyn__fail(DYN_EINVAL, "complex64 has no order");
    if (dyn_tensor_count(self) == 0)
        return dyn__fail(DYN_EINVAL, "a tensor without elements has no smallest or largest");
    return DYN_OK;
}

#define BOUNDS(type, low, high)            \
    for (size_t i = 0; i < count; i++) {   \
        type v = ((const type *)piece)[i]; \
        low = v < low ? v : low;           \
        high = v > high ? v : high;        \
    }

int dyn_tensor_bounds(const dyn_tensor *self, dyn_number *least, dyn_number *most)
{
    const dyn__kernels *kernels = dyn__kernels_pick();
    enum way way = way_of(self->dtype);
    dyn__source source;
    scratch gathered, widened;
    const void *piece;
    size_t count;
    double low = INFINITY, high = -INFINITY;
    int64_t low_i = INT64_MAX, high_i = INT64_MIN;
    uint64_t low_u = UINT64_MAX, high_u = 0;
    bool nan = false;
    int rc = check_order(self);
    if (rc < 0) return rc;
    dyn__source_start(&source, self);
    while ((count = next_wide(&source, self->dtype, &gathered, &widened, &piece)) > 0) {
        switch (way) {
        case AS_F32: {
            float a, b;
            kernels->bounds_f32(piece, count, &a, &b);
            nan |= a != a;
            low = (double)a < low ? (double)a : low;
            high = (double)b > high ? (double)b : high;
            break;
        }
        case AS_F64:
            BOUNDS(double, low, high);
            for (size_t i = 0; i < count; i++) nan |= isnan(((const double *)piece)[i]);
            break;
        case AS_I64: BOUNDS(int64_t, low_i, high_i); break;
        default: BOUNDS(uint64_t, low_u, high_u); break;
        }
    }
    int kind = dyn_dtype(self->dtype)->kind;
    if (way == AS_F32 || way == AS_F64)
        set_real(least, nan ? NAN : low), set_real(most, nan ? NAN : high);
    else if (way == AS_I64)
        set_integer(least, kind, low_i), set_integer(most, kind, high_i);
    else
        set_integer(least, kind, low_u), set_integer(most, kind, high_u);
    return DYN_OK;
}

#define ARGUMENT(type, better)                                           \
    for (size_t i = 0; i < count; i++) {                                 \
        type v = ((const type *)piece)[i];                               \
        if (first || (better) || (v != v)) {                             \
            best.as_##type = v, *index = at + i, first = false;          \
            if (v != v) return DYN_OK; /* the first NaN is the answer */ \
        }                                                                \
    }
#define ARGUMENTS(type)                    \
    if (largest)                           \
        ARGUMENT(type, v > best.as_##type) \
    else                                   \
        ARGUMENT(type, v < best.as_##type)

/* Where the first best of float32 is: the bounds of a block say whether it holds a better one, and only the last such block
 * is looked through. */
enum { ARGUMENT_BLOCK = 4096 };
typedef struct best_f32 {
    float value;
    uint64_t index;
    bool first, nan;
} best_f32;

static size_t place_in(const float *v, size_t count, float value)
{
    size_t i = 0;
    if (value != value)
        while (i < count && v[i] == v[i]) i++;
    else
        while (i < count && v[i] != value) i++;
    return i;
}

static void argument_f32(const float *v, size_t count, uint64_t at, bool largest, best_f32 *best)
{
    const dyn__kernels *kernels = dyn__kernels_pick();
    const float *where = NULL;
    size_t where_count = 0;
    for (size_t i = 0; i < count && !best->nan; i += ARGUMENT_BLOCK) {
        size_t n = count - i < ARGUMENT_BLOCK ? count - i : ARGUMENT_BLOCK;
        float low, high;
        kernels->bounds_f32(v + i, n, &low, &high);
        float value = largest ? high : low;
        bool better = best->first || value != value || (largest ? value > best->value : value < best->value);
        if (!better) continue;
        best->value = value, best->first = false, best->nan = value != value;
        best->index = at + i;
        where = v + i, where_count = n;
    }
    if (where != NULL) best->index += place_in(where, where_count, best->value);
}

static int argument(const dyn_tensor *self, bool largest, uint64_t *index)
{
    union {
        double as_double;
        int64_t as_int64_t;
        uint64_t as_uint64_t;
    } best = {0};
    dyn__source source;
    scratch gathered, widened;
    const void *piece;
    size_t count;
    uint64_t at = 0;
    bool first = true;
    best_f32 narrow = {.first = true};
    int rc = check_order(self);
    if (rc < 0) return rc;
    dyn__source_start(&source, self);
    while ((count = next_wide(&source, self->dtype, &gathered, &widened, &piece)) > 0) {
        switch (way_of(self->dtype)) {
        case AS_F32:
            argument_f32(piece, count, at, largest, &narrow);
            *index = narrow.index;
            if (narrow.nan) return DYN_OK;
            break;
        case AS_F64: ARGUMENTS(double); break;
        case AS_I64: ARGUMENTS(int64_t); break;
        default: ARGUMENTS(uint64_t); break;
        }
        at += count;
    }
    return DYN_OK;
}

int dyn_tensor_argmax(const dyn_tensor *self, uint64_t *index)
{
    return argument(self, true, index);
}

int dyn_tensor_argmin(const dyn_tensor *self, uint64_t *index)
{
    return argument(self, false, index);
}

static bool same_shape(const dyn_tensor *a, const dyn_tensor *b)
{
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

bool dyn_tensor_equal(const dyn_tensor *self, const dyn_tensor *other, bool nan_equal)
{
    dyn__source a, b;
    scratch gathered[2];
    float wide[2][DYN__PIECE];
    const void *p, *q;
    size_t count, bad = 0;
    enum way way = way_of(self->dtype);
    if (self->dtype != other->dtype || !same_shape(self, other)) return false;
    dyn__source_start(&a, self), dyn__source_start(&b, other);
    while ((count = dyn__source_next(&a, DYN__PIECE, &gathered[0], &p)) > 0) {
        dyn__source_next(&b, count, &gathered[1], &q);
        if (self->dtype == DYN_BOOL) { /* any byte but 0 is true */
            const uint8_t *v = p, *w = q;
            for (size_t i = 0; i < count; i++) bad += (v[i] != 0) != (w[i] != 0);
        } else if (way == AS_I64 || way == AS_U64) {
            if (memcmp(p, q, count * dyn_dtype(self->dtype)->size) != 0) return false;
        } else if (way == AS_F64) {
            const double *v = p, *w = q;
            for (size_t i = 0; i < count; i++) bad += !(v[i] == w[i] || (nan_equal && v[i] != v[i] && w[i] != w[i]));
        } else {
            const float *v = p, *w = q;
            if (way == AS_COMPLEX) {
                count *= 2;
            } else if (self->dtype != DYN_FLOAT32) {
                dyn__to_f32(self->dtype, p, wide[0], count), v = wide[0];
                dyn__to_f32(self->dtype, q, wide[1], count), w = wide[1];
            }
            for (size_t i = 0; i < count; i++) bad += !(v[i] == w[i] || (nan_equal && v[i] != v[i] && w[i] != w[i]));
        }
        if (bad > 0) return false;
    }
    return true;
}

static bool close(double a, double b, double relative, double absolute, bool nan_equal)
{
    if (a == b) return true;
    if (a != a || b != b) return nan_equal && a != a && b != b;
    return isfinite(b) && fabs(a - b) <= absolute + relative * fabs(b);
}

/* The imaginary parts of a piece; those of real types are 0. */
static void imaginary(int dtype, const void *piece, double *out, size_t count)
{
    for (size_t i = 0; i < count; i++) out[i] = dtype == DYN_COMPLEX64 ? (double)((const float *)piece)[2 * i + 1] : 0;
}

int dyn_tensor_close(const dyn_tensor *self, const dyn_tensor *other, double relative, double absolute, bool nan_equal)
{
    dyn__source a, b;
    scratch gathered[2];
    double v[2][DYN__PIECE], im[2][DYN__PIECE];
    const void *p, *q;
    size_t count;
    bool complex = self->dtype == DYN_COMPLEX64 || other->dtype == DYN_COMPLEX64;
    if (!same_shape(self, other)) return dyn__fail(DYN_EINVAL, "the shapes differ");
    dyn__source_start(&a, self), dyn__source_start(&b, other);
    while ((count = dyn__source_next(&a, DYN__PIECE, &gathered[0], &p)) > 0) {
        dyn__source_next(&b, count, &gathered[1], &q);
        dyn__to_f64(self->dtype, p, v[0], count), dyn__to_f64(other->dtype, q, v[1], count);
        if (complex) imaginary(self->dtype, p, im[0], count), imaginary(other->dtype, q, im[1], count);
        for (size_t i = 0; i < count; i++) {
            if (!complex) {
                if (!close(v[0][i], v[1][i], relative, absolute, nan_equal)) return 0;
            } else if (!(v[0][i] == v[1][i] && im[0][i] == im[1][i])) {
                double off = hypot(v[0][i] - v[1][i], im[0][i] - im[1][i]), size = hypot(v[1][i], im[1][i]);
                bool nan = (v[0][i] != v[0][i] || im[0][i] != im[0][i]) && (v[1][i] != v[1][i] || im[1][i] != im[1][i]);
                if (!(off <= absolute + relative * size && isfinite(size)) && !(nan_equal && nan)) return 0;
            }
        }
    }
    return 1;
}
