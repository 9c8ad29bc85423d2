/* tensor/narrow.h -- floats of 16 and 8 bits, one at a time: the definition that the vectors are held against.
 *
 * Narrowing rounds to the nearest, ties to even, and makes subnormals. A NaN stays one, quiet, with its sign and the top of
 * its payload where there is room for it. float8_e4m3fn has no infinity: what is too large becomes its NaN.
 */
#ifndef DYN_SRC_TENSOR_NARROW_H
#define DYN_SRC_TENSOR_NARROW_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}
static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* ---- wider ---- */
static inline float f32_of_bf16(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

static inline float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13 | (fraction != 0 ? 0x400000 : 0));
    if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    if (fraction == 0) return float_of(sign);
    uint32_t shift = (uint32_t)__builtin_clz(fraction) - 21; /* a subnormal is a normal float32 */
    return float_of(sign | (113 - shift) << 23 | (fraction << shift & 1023) << 13);
}

static inline float f32_of_e5m2(uint8_t b)
{
    return f32_of_f16((uint16_t)(b << 8));
}

static inline float f32_of_e4m3(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80) << 24, exponent = b >> 3 & 15, fraction = b & 7;
    if ((b & 0x7f) == 0x7f) return float_of(sign | 0x7fc00000);
    if (exponent != 0) return float_of(sign | (exponent + 120) << 23 | fraction << 20);
    return float_of(sign | bits_of((float)fraction * 0x1p-9f));
}

/* ---- narrower ---- */
static inline uint16_t bf16_of_f32(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Magnitude bits of a finite float32, its sign cut off, in a format of `fraction` bits whose exponents are biased by
 * `bias`; too large ones come out above the largest finite code. */
static inline uint32_t rounded(uint32_t a, uint32_t fraction, uint32_t bias)
{
    uint32_t cut = 23 - fraction, least = 128 - bias,
             exponent = a >> 23; /* least: of normal numbers, as float32 has it */
    if (exponent >= least) return (a + (1u << (cut - 1)) - 1 + (a >> cut & 1) - ((127 - bias) << 23)) >> cut;
    uint32_t shift = cut + least - exponent;
    if (shift > 24) return 0;
    uint32_t m = (a & 0x7fffff) | 0x800000, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1), q = m >> shift;
    return q + (rest > half || (rest == half && (q & 1) != 0));
}

static inline uint16_t f16_of_f32(float f)
{
    uint32_t u = bits_of(f), a = u & 0x7fffffff, sign = u >> 16 & 0x8000, code;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    code = a >= 0x47800000 ? 0x7c00 : rounded(a, 10, 15);
    return (uint16_t)(sign | code);
}

static inline uint8_t e5m2_of_f32(float f)
{
    uint32_t u = bits_of(f), a = u & 0x7fffffff, sign = u >> 24 & 0x80, code;
    if (a > 0x7f800000) return (uint8_t)(sign | 0x7e | (a >> 21 & 1));
    code = a >= 0x47800000 ? 0x7c : rounded(a, 2, 15);
    return (uint8_t)(sign | code);
}

static inline uint8_t e4m3_of_f32(float f)
{
    uint32_t u = bits_of(f), a = u & 0x7fffffff, sign = u >> 24 & 0x80, code;
    code = a >= 0x44000000 ? 0x7f : rounded(a, 3, 7); /* from 512 on: no need to round; NaN and infinity too */
    return (uint8_t)(sign | (code > 0x7e ? 0x7f : code));
}

/* ---- a float32 that may be narrowed further ----
 * Rounded to odd: what was not exact has its last bit set. A second rounding, to at most 22 bits of fraction, then comes out
 * as if it had been the only one. */
static inline float odd_of_f64(double d)
{
    float f = (float)d;
    if (f != f || (double)f == d) return f;
    uint32_t u = bits_of(f);
    double a = f < 0 ? -(double)f : (double)f, b = d < 0 ? -d : d;
    return float_of((u - (a > b)) | 1);
}

static inline float odd_of_u64(uint64_t a)
{
    if (a >> 24 == 0) return (float)a;
    int shift = 40 - __builtin_clzll(a);
    uint64_t m = a >> shift | ((a & ((UINT64_C(1) << shift) - 1)) != 0);
    return (float)m * (float)(UINT64_C(1) << shift); /* both exact */
}

static inline float odd_of_i64(int64_t v)
{
    return v < 0 ? -odd_of_u64(-(uint64_t)v) : odd_of_u64((uint64_t)v);
}

#endif
