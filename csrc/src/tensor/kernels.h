/* tensor/kernels.h -- what memory speed is asked of, compiled once for each instruction set: a file names its table in
 * DYN__KERNELS and includes this.
 *
 * All pointers are aligned to their elements; outputs and inputs do not overlap. From DYN__STREAM_FROM bytes of output on, stores go
 * past the caches, as memcpy does: reading a line only to overwrite it would cost half as much again.
 */
#ifndef DYN_SRC_TENSOR_KERNELS_H
#define DYN_SRC_TENSOR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct dyn__kernels {
    const char *name;
    void (*f32_from_bf16)(float *out, const uint16_t *from, size_t count);
    void (*f32_from_f16)(float *out, const uint16_t *from, size_t count);
    void (*bf16_from_f32)(uint16_t *out, const float *from, size_t count);
    void (*f16_from_f32)(uint16_t *out, const float *from, size_t count);
    double (*sum_f32)(const float *from, size_t count);
    double (*sum_f64)(const double *from, size_t count); /* pairwise */
    double (*dot_f32)(const float *a, const float *b, size_t count);
    /* Smallest and largest of count > 0; both NaN when one is. */
    void (*bounds_f32)(const float *from, size_t count, float *least, float *most);
} dyn__kernels;
extern const dyn__kernels dyn__kernels_scalar, dyn__kernels_avx2, dyn__kernels_avx512;
/* The best that this machine has. */
const dyn__kernels *dyn__kernels_pick(void);

enum { DYN__STREAM_FROM = 16 << 20 /* bytes */ };

#ifdef DYN__KERNELS
#include "tensor/narrow.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { LANES = 16, BLOCK = 512 /* elements that are summed straight */ };

#if defined(__AVX512F__)
#define WIDE 16
typedef __m512 floats;
typedef __m256i halves;
#define LOAD_16(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE_16(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define STREAM_16(p, v) _mm256_stream_si256((__m256i *)(p), v)
#define LOAD_32(p) _mm512_loadu_ps(p)
#define STORE_32(p, v) _mm512_storeu_ps(p, v)
#define STREAM_32(p, v) _mm512_stream_ps(p, v)
static inline floats widen_bf16(__m256i v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
static inline floats widen_f16(__m256i v)
{
    return _mm512_cvtph_ps(v);
}
static inline __m256i narrow_bf16(floats f)
{
    __m512i u = _mm512_castps_si512(f), top = _mm512_srli_epi32(u, 16);
    __m512i up = _mm512_add_epi32(_mm512_and_si512(top, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    __m512i out = _mm512_srli_epi32(_mm512_add_epi32(u, up), 16);
    out = _mm512_mask_or_epi32(out, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), top, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(out);
}
/* The bfloat16 is the upper half of each. */
static inline __m512i rounded_up(floats f)
{
    __m512i u = _mm512_castps_si512(f);
    __m512i up = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i out = _mm512_add_epi32(_mm512_add_epi32(u, up), _mm512_set1_epi32(0x7fff));
    return _mm512_mask_or_epi32(out, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
}
static inline __m256i narrow_f16(floats f)
{
    return _mm512_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__AVX2__)
#define WIDE 8
typedef __m256 floats;
typedef __m128i halves;
#define LOAD_16(p) _mm_loadu_si128((const __m128i *)(p))
#define STORE_16(p, v) _mm_storeu_si128((__m128i *)(p), v)
#define STREAM_16(p, v) _mm_stream_si128((__m128i *)(p), v)
#define LOAD_32(p) _mm256_loadu_ps(p)
#define STORE_32(p, v) _mm256_storeu_ps(p, v)
#define STREAM_32(p, v) _mm256_stream_ps(p, v)
static inline floats widen_bf16(__m128i v)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
static inline floats widen_f16(__m128i v)
{
    return _mm256_cvtph_ps(v);
}
static inline __m128i narrow_bf16(floats f)
{
    __m256i u = _mm256_castps_si256(f), top = _mm256_srli_epi32(u, 16);
    __m256i up = _mm256_add_epi32(_mm256_and_si256(top, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    __m256i out = _mm256_srli_epi32(_mm256_add_epi32(u, up), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    out = _mm256_blendv_epi8(out, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
}
static inline __m128i narrow_f16(floats f)
{
    return _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif

/* The line that is read 1.5 KiB later: narrowing waits for what it reads, and the CPU's own guess comes a little late. Widening
 * waits for what it writes, where this only costs. */
#ifdef WIDE
#define AHEAD(p) _mm_prefetch((const char *)(p) + 1536, _MM_HINT_T0)
#endif

/* Vectors where there are some, with stores past the caches where that pays; then one at a time. */
#ifdef WIDE
#define WIDEN(to)                                                                                              \
    size_t i = 0;                                                                                              \
    if (count * sizeof(*out) >= DYN__STREAM_FROM) {                                                            \
        for (; (uintptr_t)(out + i) % sizeof(floats) != 0; i++) out[i] = f32_of_##to(from[i]);                 \
        for (; i + 2 * WIDE <= count; i += 2 * WIDE) {                                                         \
            STREAM_32(out + i, widen_##to(LOAD_16(from + i)));                                                 \
            STREAM_32(out + i + WIDE, widen_##to(LOAD_16(from + i + WIDE)));                                   \
        }                                                                                                      \
        _mm_sfence();                                                                                          \
    } else {                                                                                                   \
        for (; i + 4 * WIDE <= count; i += 4 * WIDE) {                                                         \
            floats a = widen_##to(LOAD_16(from + i)), b = widen_##to(LOAD_16(from + i + WIDE));                \
            floats c = widen_##to(LOAD_16(from + i + 2 * WIDE)), d = widen_##to(LOAD_16(from + i + 3 * WIDE)); \
            STORE_32(out + i, a), STORE_32(out + i + WIDE, b);                                                 \
            STORE_32(out + i + 2 * WIDE, c), STORE_32(out + i + 3 * WIDE, d);                                  \
        }                                                                                                      \
        for (; i + WIDE <= count; i += WIDE) STORE_32(out + i, widen_##to(LOAD_16(from + i)));                 \
    }                                                                                                          \
    for (; i < count; i++) out[i] = f32_of_##to(from[i])
#define NARROW(to)                                                                                   \
    size_t i = 0;                                                                                    \
    if (count * sizeof(*out) >= DYN__STREAM_FROM) {                                                  \
        for (; (uintptr_t)(out + i) % (sizeof(floats) / 2) != 0; i++) out[i] = to##_of_f32(from[i]); \
        for (; i + 2 * WIDE <= count; i += 2 * WIDE) {                                               \
            STREAM_16(out + i, narrow_##to(LOAD_32(from + i)));                                      \
            STREAM_16(out + i + WIDE, narrow_##to(LOAD_32(from + i + WIDE)));                        \
        }                                                                                            \
        _mm_sfence();                                                                                \
    } else {                                                                                         \
        for (; i + 2 * WIDE <= count; i += 2 * WIDE) {                                               \
            AHEAD(from + i), AHEAD(from + i + WIDE);                                                 \
            halves a = narrow_##to(LOAD_32(from + i)), b = narrow_##to(LOAD_32(from + i + WIDE));    \
            STORE_16(out + i, a), STORE_16(out + i + WIDE, b);                                       \
        }                                                                                            \
        for (; i + WIDE <= count; i += WIDE) STORE_16(out + i, narrow_##to(LOAD_32(from + i)));      \
    }                                                                                                \
    for (; i < count; i++) out[i] = to##_of_f32(from[i])
#else
#define WIDEN(to) \
    for (size_t i = 0; i < count; i++) out[i] = f32_of_##to(from[i])
#define NARROW(to) \
    for (size_t i = 0; i < count; i++) out[i] = to##_of_f32(from[i])
#endif

static void f32_from_bf16(float *out, const uint16_t *from, size_t count)
{
    WIDEN(bf16);
}
static void f32_from_f16(float *out, const uint16_t *from, size_t count)
{
    WIDEN(f16);
}
static void bf16_from_f32(uint16_t *out, const float *from, size_t count)
{
#if defined(__AVX512BW__)
    /* 32 at a time while that fits the caches: one permutation takes the upper halves of two vectors. */
    if (count * sizeof(*out) < DYN__STREAM_FROM) {
        size_t whole = count / 32 * 32;
        static const uint16_t odd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                         33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
        const __m512i upper = _mm512_loadu_si512(odd);
        for (size_t i = 0; i < whole; i += 32) {
            AHEAD(from + i), AHEAD(from + i + WIDE);
            _mm512_storeu_si512(out + i, _mm512_permutex2var_epi16(rounded_up(LOAD_32(from + i)), upper,
                                                                   rounded_up(LOAD_32(from + i + WIDE))));
        }
        from += whole, out += whole, count -= whole;
    }
#endif
    NARROW(bf16);
}
static void f16_from_f32(uint16_t *out, const float *from, size_t count)
{
    NARROW(f16);
}

static double lanes_sum(const double *lane)
{
    double sum[4];
    for (int k = 0; k < 4; k++) /* a tree, so that each addition is of like sizes */
        sum[k] = (lane[4 * k] + lane[4 * k + 1]) + (lane[4 * k + 2] + lane[4 * k + 3]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* In doubles: 29 bits more than the elements have, so that straight sums lose nothing that a float32 could show. */
static double sum_f32(const float *from, size_t count)
{
    size_t i = 0;
    double sum = 0;
#if defined(__AVX512F__)
    __m512d a[8];
    for (int k = 0; k < 8; k++) a[k] = _mm512_setzero_pd();
    for (; i + 64 <= count; i += 64)
        for (int k = 0; k < 8; k++) a[k] = _mm512_add_pd(a[k], _mm512_cvtps_pd(_mm256_loadu_ps(from + i + 8 * k)));
    for (int k = 0; k < 4; k++) a[k] = _mm512_add_pd(a[k], a[k + 4]);
    sum = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(a[0], a[1]), _mm512_add_pd(a[2], a[3])));
#elif defined(__AVX2__)
    __m256d a[8];
    double lane[4];
    for (int k = 0; k < 8; k++) a[k] = _mm256_setzero_pd();
    for (; i + 32 <= count; i += 32)
        for (int k = 0; k < 8; k++) a[k] = _mm256_add_pd(a[k], _mm256_cvtps_pd(_mm_loadu_ps(from + i + 4 * k)));
    for (int k = 0; k < 4; k++) a[k] = _mm256_add_pd(a[k], a[k + 4]);
    _mm256_storeu_pd(lane, _mm256_add_pd(_mm256_add_pd(a[0], a[1]), _mm256_add_pd(a[2], a[3])));
    sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
#else
    double lane[LANES] = {0};
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += (double)from[i + (size_t)k];
    sum = lanes_sum(lane);
#endif
    for (; i < count; i++) sum += (double)from[i];
    return sum;
}

static double sum_f64(const double *from, size_t count)
{
    if (count > BLOCK) {
        size_t half = count / 2 / BLOCK * BLOCK;
        if (half == 0) half = BLOCK;
        return sum_f64(from, half) + sum_f64(from + half, count - half);
    }
    size_t i = 0;
    double lane[LANES] = {0}, sum;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += from[i + (size_t)k];
    sum = lanes_sum(lane);
    for (; i < count; i++) sum += from[i];
    return sum;
}

/* A product of two float32 is exact as a double. */
static double dot_f32(const float *a, const float *b, size_t count)
{
    size_t i = 0;
    double sum = 0;
#if defined(__AVX512F__)
    __m512d s[4];
    for (int k = 0; k < 4; k++) s[k] = _mm512_setzero_pd();
    for (; i + 32 <= count; i += 32)
        for (int k = 0; k < 4; k++)
            s[k] = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm256_loadu_ps(a + i + 8 * k)),
                                   _mm512_cvtps_pd(_mm256_loadu_ps(b + i + 8 * k)), s[k]);
    sum = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(s[0], s[1]), _mm512_add_pd(s[2], s[3])));
#elif defined(__AVX2__)
    __m256d s[4];
    double lane[4];
    for (int k = 0; k < 4; k++) s[k] = _mm256_setzero_pd();
    for (; i + 16 <= count; i += 16)
        for (int k = 0; k < 4; k++)
            s[k] = _mm256_add_pd(s[k], _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(a + i + 4 * k)),
                                                     _mm256_cvtps_pd(_mm_loadu_ps(b + i + 4 * k))));
    _mm256_storeu_pd(lane, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
    sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
#else
    double lane[LANES] = {0};
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += (double)a[i + (size_t)k] * (double)b[i + (size_t)k];
    sum = lanes_sum(lane);
#endif
    for (; i < count; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* min(v, low) is low when v is a NaN: those are counted beside it. */
static void bounds_f32(const float *from, size_t count, float *least, float *most)
{
    float low = from[0], high = from[0];
    uint32_t nan = 0;
    size_t i = 0;
#ifdef WIDE
    if (count >= 4 * WIDE) {
        floats lows[4], highs[4];
        float lane[WIDE];
#if defined(__AVX512F__)
        __mmask16 odd = 0;
#define VECTOR(op) _mm512_##op##_ps
#define NOTE_NAN(v) odd |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q)
#else
        __m256 odd = _mm256_setzero_ps();
#define VECTOR(op) _mm256_##op##_ps
#define NOTE_NAN(v) odd = _mm256_or_ps(odd, _mm256_cmp_ps(v, v, _CMP_UNORD_Q))
#endif
        for (int k = 0; k < 4; k++) lows[k] = highs[k] = VECTOR(set1)(low);
        for (; i + 4 * WIDE <= count; i += 4 * WIDE) {
            for (int k = 0; k < 4; k++) {
                floats v = LOAD_32(from + i + k * WIDE);
                lows[k] = VECTOR(min)(v, lows[k]);
                highs[k] = VECTOR(max)(v, highs[k]);
                NOTE_NAN(v);
            }
        }
        STORE_32(lane, VECTOR(min)(VECTOR(min)(lows[0], lows[1]), VECTOR(min)(lows[2], lows[3])));
        for (int k = 0; k < WIDE; k++) low = lane[k] < low ? lane[k] : low;
        STORE_32(lane, VECTOR(max)(VECTOR(max)(highs[0], highs[1]), VECTOR(max)(highs[2], highs[3])));
        for (int k = 0; k < WIDE; k++) high = lane[k] > high ? lane[k] : high;
#if defined(__AVX512F__)
        nan = odd;
#else
        nan = (uint32_t)_mm256_movemask_ps(odd);
#endif
    }
#endif
    for (; i < count; i++) {
        float v = from[i];
        low = v < low ? v : low;
        high = v > high ? v : high;
        nan |= v != v;
    }
    *least = nan ? float_of(0x7fc00000) : low;
    *most = nan ? float_of(0x7fc00000) : high;
}

#define QUOTED(text) #text
#define NAMED(table) QUOTED(table)
const dyn__kernels DYN__KERNELS = {
    NAMED(DYN__KERNELS_ISA),
    f32_from_bf16,
    f32_from_f16,
    bf16_from_f32,
    f16_from_f32,
    sum_f32,
    sum_f64,
    dot_f32,
    bounds_f32,
};
#endif
#endif
