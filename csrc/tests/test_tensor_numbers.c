/* Conversions and sums: narrow floats against a slow definition, vectors against scalars, pieces against whole tensors. */
#include <math.h>

#include "dynamo/tensor.h"
#include "tensor/inside.h"
#include "tensor/kernels.h"
#include "tensor/narrow.h"
#include "test.h"

static uint64_t seed = 88172645463325252u;
static uint64_t next_random(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed * UINT64_C(0x2545f4914f6cdd1d);
}

/* ---- the definition: a code is a sign, an exponent and a fraction ---- */
typedef struct format {
    int dtype, bits, fraction, bias;
    uint32_t most; /* the largest finite code */
    bool infinite; /* the code after it is infinity; else NaN */
} format;
static const format formats[] = {
    {DYN_FLOAT16, 16, 10, 15, 0x7bff, true},
    {DYN_BFLOAT16, 16, 7, 127, 0x7f7f, true},
    {DYN_FLOAT8_E4M3FN, 8, 3, 7, 0x7e, false},
    {DYN_FLOAT8_E5M2, 8, 2, 15, 0x7b, true},
};

/* Also for the code after the largest, as if the format went on. */
static double value_of(const format *f, uint32_t code)
{
    int exponent = (int)(code >> f->fraction);
    double fraction = ldexp((double)(code & ((1u << f->fraction) - 1)), -f->fraction);
    return exponent == 0 ? ldexp(fraction, 1 - f->bias) : ldexp(1 + fraction, exponent - f->bias);
}

static uint32_t naive_narrow(const format *f, double d)
{
    uint32_t sign = signbit(d) ? 1u << (f->bits - 1) : 0, low = 0, high = f->most + 1;
    double a = fabs(d);
    if (a >= value_of(f, high)) return sign | high;
    while (high - low > 1) { /* value(low) <= a < value(high) */
        uint32_t middle = (low + high) / 2;
        if (value_of(f, middle) <= a)
            low = middle;
        else
            high = middle;
    }
    double below = a - value_of(f, low), above = value_of(f, high) - a; /* both exact for what is tested here */
    return sign | (below < above || (below == above && low % 2 == 0) ? low : high);
}

static uint32_t code_at(const format *f, const void *out, size_t i)
{
    return f->bits == 16 ? ((const uint16_t *)out)[i] : ((const uint8_t *)out)[i];
}
static bool is_nan(const format *f, uint32_t code)
{
    return (code & ((1u << (f->bits - 1)) - 1)) > f->most + f->infinite;
}

static dyn_tensor flat(int dtype, void *data, const int64_t *count)
{
    return (dyn_tensor){.data = data, .shape = count, .ndim = 1, .dtype = (uint8_t)dtype};
}

static void every_narrow_code_widens_to_its_value_and_comes_back(void)
{
    for (size_t k = 0; k < DYN__COUNT(formats); k++) {
        const format *f = &formats[k];
        for (uint32_t code = 0; code < 1u << f->bits; code++) {
            uint16_t narrow = (uint16_t)code, back = 0;
            float wide;
            double wide64;
            dyn_tensor t = flat(f->dtype, &narrow, (int64_t[]){1}), w;
            CHECK_EQ(dyn_tensor_convert(&t, DYN_FLOAT32, &wide), DYN_OK);
            CHECK_EQ(dyn_tensor_convert(&t, DYN_FLOAT64, &wide64), DYN_OK);
            uint32_t magnitude = code & ((1u << (f->bits - 1)) - 1);
            if (is_nan(f, code)) {
                CHECK(isnan(wide) && isnan(wide64) && !signbit(wide) == (code == magnitude));
            } else {
                double want = magnitude > f->most ? INFINITY : value_of(f, magnitude);
                if (code != magnitude) want = -want;
                CHECK((double)wide == want && wide64 == want && !signbit(wide) == !signbit(want));
            }
            w = flat(DYN_FLOAT32, &wide, (int64_t[]){1});
            CHECK_EQ(dyn_tensor_convert(&w, f->dtype, &back), DYN_OK);
            if (is_nan(f, code))
                CHECK(is_nan(f, back) && (back ^ code) >> (f->bits - 1) == 0);
            else
                CHECK_EQ(back, code);
        }
    }
}

static void floats_are_rounded_once_to_the_nearest(void)
{
    enum { N = 1 << 18 };
    static double from[N];
    static float from32[N];
    static uint16_t got[N], got32[N];
    for (size_t k = 0; k < DYN__COUNT(formats); k++) {
        const format *f = &formats[k];
        for (size_t i = 0; i < N; i++) {
            /* around codes and the middles between them, then anything */
            uint32_t code = (uint32_t)(next_random() % (f->most + 1));
            double low = value_of(f, code), high = value_of(f, code + 1), d;
            switch (i % 8) {
            case 0: d = low; break;
            case 1: d = (low + high) / 2; break;
            case 2: d = nextafter((low + high) / 2, INFINITY); break;
            case 3: d = nextafter((low + high) / 2, 0); break;
            case 4: d = (double)nextafterf((float)((low + high) / 2), INFINITY); break;
            case 5: d = (double)nextafterf((float)((low + high) / 2), 0); break;
            case 6: d = low + (high - low) * (double)(next_random() % 1000) / 1000; break;
            default: d = ldexp((double)next_random(), (int)(next_random() % 300) - 200); break;
            }
            from[i] = next_random() & 1 ? -d : d;
            from32[i] = (float)from[i];
        }
        dyn_tensor t = flat(DYN_FLOAT64, from, (int64_t[]){N}), t32 = flat(DYN_FLOAT32, from32, (int64_t[]){N});
        CHECK_EQ(dyn_tensor_convert(&t, f->dtype, got), DYN_OK);
        CHECK_EQ(dyn_tensor_convert(&t32, f->dtype, got32), DYN_OK);
        for (size_t i = 0; i < N; i++) {
            if (code_at(f, got, i) != naive_narrow(f, from[i]))
                fprintf(stderr, "%s of %a: %x\n", dyn_dtype(f->dtype)->name, from[i], code_at(f, got, i));
            CHECK_EQ(code_at(f, got, i), naive_narrow(f, from[i]));
            if (!isinf(from32[i])) CHECK_EQ(code_at(f, got32, i), naive_narrow(f, (double)from32[i]));
        }
    }
}

static void integers_are_rounded_once_too(void)
{
    for (int shift = 0; shift < 64; shift++) {
        for (int more = -2; more <= 2; more++) {
            for (int tie = 0; tie < 3; tie++) {
                uint64_t u = (UINT64_C(1) << shift) + (tie > 0 && shift > 8 ? UINT64_C(1) << (shift - 8) : 0) +
                             (tie > 1 && shift > 11 ? UINT64_C(1) << (shift - 11) : 0) + (uint64_t)(int64_t)more;
                for (size_t k = 0; k < DYN__COUNT(formats); k++) {
                    uint16_t got = 0, want = 0;
                    dyn_tensor t = flat(DYN_UINT64, &u, (int64_t[]){1});
                    CHECK_EQ(dyn_tensor_convert(&t, formats[k].dtype, &got), DYN_OK);
                    /* an odd double: 53 bits with the last one set when more came after it */
                    double d = (double)(u >> 12 << 12) + (double)((u & 4095) != 0 ? (u & 4095) : 0);
                    if (u >> 53 != 0) d = (double)(u >> 12) * 4096 + ((u & 4095) != 0 ? 2048 : 0);
                    want = (uint16_t)naive_narrow(&formats[k], d);
                    CHECK_EQ(got, want);
                }
            }
        }
    }
}

/* ---- vectors ---- */
static size_t tables(const dyn__kernels *all[3])
{
    size_t n = 0;
    const dyn__kernels *best = dyn__kernels_pick();
    all[n++] = &dyn__kernels_scalar;
#if defined(__x86_64__)
    if (best != &dyn__kernels_scalar) all[n++] = &dyn__kernels_avx2;
    if (best == &dyn__kernels_avx512) all[n++] = best;
#else
    if (best != &dyn__kernels_scalar) all[n++] = best;
#endif
    return n;
}

static void vectors_widen_as_scalars_do(void)
{
    enum { N = 65536 };
    static uint16_t codes[N];
    static float want[N], got[N];
    const dyn__kernels *all[3];
    size_t count = tables(all);
    for (size_t i = 0; i < N; i++) codes[i] = (uint16_t)i;
    for (size_t k = 1; k < count; k++) {
        all[0]->f32_from_bf16(want, codes, N), all[k]->f32_from_bf16(got, codes, N);
        CHECK(memcmp(want, got, sizeof(want)) == 0);
        all[0]->f32_from_f16(want, codes, N), all[k]->f32_from_f16(got, codes, N);
        CHECK(memcmp(want, got, sizeof(want)) == 0);
    }
}

static void vectors_narrow_as_scalars_do(void)
{
    enum { N = 1 << 16 };
    static const uint32_t tails[] = {0,      1,      0xfff,  0x1000, 0x1001, 0x1fff,
                                     0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff};
    static float from[N];
    static uint16_t want[N], got[N];
    const dyn__kernels *all[3];
    size_t count = tables(all);
    for (size_t round = 0; round < DYN__COUNT(tails) + 32; round++) {
        for (uint32_t i = 0; i < N; i++) /* every upper half with each tail (subnormals, NaNs, ties), then anything */
            from[i] = float_of(round < DYN__COUNT(tails) ? i << 16 | tails[round] : (uint32_t)(next_random() >> 32));
        for (size_t k = 1; k < count; k++) {
            all[0]->bf16_from_f32(want, from, N), all[k]->bf16_from_f32(got, from, N);
            CHECK(memcmp(want, got, sizeof(want)) == 0);
            all[0]->f16_from_f32(want, from, N), all[k]->f16_from_f32(got, from, N);
            CHECK(memcmp(want, got, sizeof(want)) == 0);
        }
    }
}

static void vectors_end_where_they_should(void)
{
    enum { BIG = 2 * DYN__STREAM_FROM };
    float *wide = malloc(BIG + 4096);
    uint16_t *narrow = malloc(BIG + 4096), *back = malloc(BIG + 4096);
    const dyn__kernels *all[3];
    size_t count = tables(all);
    for (size_t k = 0; k < count; k++) {
        for (size_t n = 0; n < 100; n++) {
            for (size_t skew = 0; skew < 3; skew++) {
                memset(narrow, 0x5a, 512), memset(wide, 0x5a, 1024);
                for (size_t i = 0; i < n; i++) narrow[skew + i] = (uint16_t)(0x3c00 + i);
                all[k]->f32_from_f16(wide + skew, narrow + skew, n);
                CHECK_EQ(bits_of(wide[skew + n]), 0x5a5a5a5a);
                memset(back, 0x5a, 512);
                all[k]->f16_from_f32(back + skew, wide + skew, n);
                CHECK_EQ(back[skew + n], 0x5a5a);
                CHECK(n == 0 || memcmp(back + skew, narrow + skew, 2 * n) == 0);
            }
        }
        /* large enough to go past the caches, beginning and ending anywhere */
        for (size_t skew = 0; skew < 2; skew++) {
            size_t n = BIG / 4 + 7 * skew;
            for (size_t i = 0; i < n; i++) narrow[i + skew] = (uint16_t)(i % 0x7c00);
            all[k]->f32_from_f16(wide + skew, narrow + skew, n);
            bool same = true;
            for (size_t i = 0; i < n; i++) same &= wide[i + skew] == f32_of_f16(narrow[i + skew]);
            CHECK(same);
            n = BIG / 4;
            all[k]->f32_from_bf16(wide + skew, narrow + skew, n);
            for (size_t i = 0; i < n; i++) same &= wide[i + skew] == f32_of_bf16(narrow[i + skew]);
            CHECK(same);
        }
        size_t n = BIG / 2 + 3; /* of which only the first quarter of a float buffer is read twice */
        float *values = malloc(n * 4 + 64);
        for (size_t i = 0; i < n; i++) values[i] = f32_of_bf16((uint16_t)(i % 0x7f80));
        all[k]->bf16_from_f32(back + 1, values, n);
        bool same = true;
        for (size_t i = 0; i < n; i++) same &= back[i + 1] == (uint16_t)(i % 0x7f80);
        for (size_t i = 0; i < n; i++) values[i] = f32_of_f16((uint16_t)(i % 0x7c01));
        all[k]->f16_from_f32(back + 1, values, n);
        for (size_t i = 0; i < n; i++) same &= back[i + 1] == (uint16_t)(i % 0x7c01);
        CHECK(same);
        free(values);
    }
    free(wide), free(narrow), free(back);
}

static void sums_and_bounds_agree_on_every_instruction_set(void)
{
    enum { N = 5000 };
    static float f[N];
    static double d[N];
    const dyn__kernels *all[3];
    size_t count = tables(all);
    for (size_t i = 0; i < N; i++) {
        f[i] = (float)((int64_t)next_random() >> 40);
        d[i] = (double)f[i]; /* whole numbers: every order of adding gives the same */
    }
    for (size_t k = 0; k < count; k++) {
        for (size_t n = 0; n < N; n = n < 200 ? n + 1 : n * 2 + 1) {
            double sum = 0, dot = 0;
            float low = f[0], high = f[0], a, b;
            for (size_t i = 0; i < n; i++) {
                sum += d[i], dot += d[i] * d[n - 1 - i];
                low = fminf(low, f[i]), high = fmaxf(high, f[i]);
            }
            CHECK(all[k]->sum_f32(f, n) == sum);
            CHECK(all[k]->sum_f64(d, n) == sum);
            float back[N];
            for (size_t i = 0; i < n; i++) back[i] = f[n - 1 - i];
            CHECK(fabs(all[k]->dot_f32(f, back, n) - dot) <= fabs(dot) * 1e-12 + 1);
            if (n == 0) continue;
            all[k]->bounds_f32(f, n, &a, &b);
            CHECK(a == low && b == high);
            float kept = f[n / 2];
            f[n / 2] = NAN;
            all[k]->bounds_f32(f, n, &a, &b);
            CHECK(isnan(a) && isnan(b));
            f[n / 2] = kept;
        }
    }
}

/* ---- tensors ---- */
static void everything_becomes_everything(void)
{
    /* 0, 1 and 2 are in every type but bool */
    uint8_t from[64], back[64], there[64];
    static const uint8_t numbers[3] = {0, 1, 2};
    for (int a = 1; a < DYN_DTYPE_COUNT; a++) {
        dyn_tensor t = flat(DYN_UINT8, (void *)(uintptr_t)numbers, (int64_t[]){3});
        CHECK_EQ(dyn_tensor_convert(&t, a, from), DYN_OK);
        for (int b = 1; b < DYN_DTYPE_COUNT; b++) {
            dyn_tensor x = flat(a, from, (int64_t[]){3}), y = flat(b, there, (int64_t[]){3});
            int rc = dyn_tensor_convert(&x, b, there);
            if (a == DYN_COMPLEX64 && b != a && b != DYN_BOOL) {
                CHECK_EQ(rc, DYN_EINVAL);
                continue;
            }
            CHECK_EQ(rc, DYN_OK);
            if (b == DYN_COMPLEX64) continue;
            CHECK_EQ(dyn_tensor_convert(&y, DYN_UINT8, back), DYN_OK);
            CHECK_EQ(back[0], 0);
            CHECK_EQ(back[1], 1);
            CHECK_EQ(back[2], a == DYN_BOOL || b == DYN_BOOL ? 1 : 2);
        }
    }
}

static void floats_become_integers_toward_zero_and_within_bounds(void)
{
    double from[] = {-1.9, 1.9, NAN, INFINITY, -INFINITY, 300, 0x1p63, -0x1p63, 0x1p64};
    enum { N = 9 };
    dyn_tensor t = flat(DYN_FLOAT64, from, (int64_t[]){N});
    int8_t i8[N];
    uint8_t u8[N];
    int64_t i64[N];
    uint64_t u64[N];
    CHECK_EQ(dyn_tensor_convert(&t, DYN_INT8, i8), DYN_OK);
    CHECK_EQ(dyn_tensor_convert(&t, DYN_UINT8, u8), DYN_OK);
    CHECK_EQ(dyn_tensor_convert(&t, DYN_INT64, i64), DYN_OK);
    CHECK_EQ(dyn_tensor_convert(&t, DYN_UINT64, u64), DYN_OK);
    static const int8_t want8[N] = {-1, 1, 0, 127, -128, 127, 127, -128, 127};
    static const uint8_t want_u8[N] = {0, 1, 0, 255, 0, 255, 255, 0, 255};
    for (int i = 0; i < N; i++) {
        CHECK_EQ(i8[i], want8[i]);
        CHECK_EQ(u8[i], want_u8[i]);
    }
    CHECK(i64[0] == -1 && i64[6] == INT64_MAX && i64[7] == INT64_MIN && i64[3] == INT64_MAX);
    CHECK(u64[0] == 0 && u64[1] == 1 && u64[6] == UINT64_C(1) << 63 && u64[8] == UINT64_MAX && u64[4] == 0);
}

static void strided_and_misaligned_tensors_count_the_same(void)
{
    enum { ROWS = 37, COLUMNS = 61 };
    static double store[ROWS * COLUMNS + 1];
    for (int dtype = 1; dtype < DYN_DTYPE_COUNT; dtype++) {
        int64_t size = dyn_dtype(dtype)->size, shape[2] = {COLUMNS, ROWS}, packed_shape[2] = {COLUMNS, ROWS};
        int64_t strides[2] = {size, size * COLUMNS};
        static double source[ROWS * COLUMNS], packed[ROWS * COLUMNS];
        for (size_t i = 0; i < ROWS * COLUMNS; i++) source[i] = (double)((i * 7 + i / 50) % 100);
        dyn_tensor d = flat(DYN_FLOAT64, source, (int64_t[]){ROWS * COLUMNS});
        for (int skew = 0; skew < 2; skew++) {
            uint8_t *at = (uint8_t *)store + skew;
            uint8_t *made = malloc(sizeof(store));
            CHECK_EQ(dyn_tensor_convert(&d, dtype, made), DYN_OK);
            memcpy(at, made, ROWS * COLUMNS * (size_t)size);
            free(made);
            dyn_tensor t = {.data = at, .shape = shape, .strides = strides, .ndim = 2, .dtype = (uint8_t)dtype};
            dyn_tensor_copy(&t, packed);
            dyn_tensor p = {.data = packed, .shape = packed_shape, .ndim = 2, .dtype = (uint8_t)dtype};
            dyn_number a, b, c, e;
            uint64_t i, j;
            dyn_tensor_sum(&t, &a), dyn_tensor_sum(&p, &b);
            CHECK(memcmp(&a.as, &b.as, sizeof(a.as)) == 0 || a.as.real == b.as.real);
            CHECK(dyn_tensor_equal(&t, &p, false));
            CHECK_EQ(dyn_tensor_close(&t, &p, 0, 0, false), 1);
            CHECK_EQ(dyn_tensor_dot(&t, &p, &a), DYN_OK);
            CHECK_EQ(dyn_tensor_dot(&p, &t, &b), DYN_OK);
            CHECK(a.as.real == b.as.real);
            if (dtype == DYN_COMPLEX64) {
                CHECK_EQ(dyn_tensor_argmax(&t, &i), DYN_EINVAL);
                CHECK_EQ(dyn_tensor_bounds(&t, &a, &b), DYN_EINVAL);
                continue;
            }
            CHECK_EQ(dyn_tensor_bounds(&t, &a, &b), DYN_OK);
            CHECK_EQ(dyn_tensor_argmax(&t, &i), DYN_OK);
            CHECK_EQ(dyn_tensor_argmax(&p, &j), DYN_OK);
            CHECK_EQ(i, j);
            dyn_tensor_item(dtype, (uint8_t *)packed + i * (uint64_t)size, &c);
            CHECK(memcmp(&c.as.real, &b.as.real, sizeof(double)) == 0);
            CHECK_EQ(dyn_tensor_argmin(&t, &i), DYN_OK);
            dyn_tensor_item(dtype, (uint8_t *)packed + i * (uint64_t)size, &e);
            CHECK(memcmp(&e.as.real, &a.as.real, sizeof(double)) == 0);
            uint8_t *odd = malloc((size_t)ROWS * COLUMNS * 8);
            CHECK_EQ(dyn_tensor_convert(&t, DYN_FLOAT64, odd), DYN_OK);
            double last;
            memcpy(&last, odd + (ROWS * COLUMNS - 1) * 8, 8);
            double want = dtype == DYN_BOOL ? 1 : dtype == DYN_FLOAT8_E5M2 ? last : source[ROWS * COLUMNS - 1];
            if (dtype != DYN_FLOAT8_E4M3FN) CHECK(last == want);
            free(odd);
        }
    }
}

static void integer_sums_do_not_wrap(void)
{
    int64_t big[4] = {INT64_MAX, INT64_MAX, INT64_MAX, -1};
    uint64_t large[2] = {UINT64_MAX, UINT64_MAX};
    dyn_number n;
    dyn_tensor t = flat(DYN_INT64, big, (int64_t[]){4});
    dyn_tensor_sum(&t, &n);
    CHECK(n.as.integer.high == 1 && n.as.integer.low == 0x7ffffffffffffffcu);
    t = flat(DYN_UINT64, large, (int64_t[]){2});
    dyn_tensor_sum(&t, &n);
    CHECK(n.as.integer.high == 1 && n.as.integer.low == UINT64_MAX - 1);
    big[0] = INT64_MIN, big[1] = INT64_MIN;
    t = flat(DYN_INT64, big, (int64_t[]){2});
    dyn_tensor_sum(&t, &n);
    CHECK(n.as.integer.high == -1 && n.as.integer.low == 0);
    dyn_tensor_sum(&(dyn_tensor){.shape = (int64_t[]){0}, .ndim = 1, .dtype = DYN_FLOAT32}, &n);
    CHECK(n.kind == DYN_KIND_FLOAT && n.as.real == 0);
}

static void nan_and_zero_compare_as_they_should(void)
{
    float a[3] = {0, NAN, 1}, b[3] = {-0.0f, NAN, 1};
    uint64_t i;
    dyn_tensor x = flat(DYN_FLOAT32, a, (int64_t[]){3}), y = flat(DYN_FLOAT32, b, (int64_t[]){3});
    CHECK(!dyn_tensor_equal(&x, &y, false));
    CHECK(dyn_tensor_equal(&x, &y, true));
    CHECK_EQ(dyn_tensor_close(&x, &y, 0, 0, false), 0);
    CHECK_EQ(dyn_tensor_close(&x, &y, 0, 0, true), 1);
    CHECK_EQ(dyn_tensor_argmax(&x, &i), DYN_OK);
    CHECK_EQ(i, 1);
    CHECK_EQ(dyn_tensor_argmin(&x, &i), DYN_OK);
    CHECK_EQ(i, 1);
    uint8_t yes[2] = {1, 0}, also[2] = {7, 0};
    dyn_tensor one = flat(DYN_BOOL, yes, (int64_t[]){2}), seven = flat(DYN_BOOL, also, (int64_t[]){2});
    CHECK(dyn_tensor_equal(&one, &seven, false));
    y.shape = (int64_t[]){2};
    CHECK_EQ(dyn_tensor_close(&x, &y, 0, 0, false), DYN_EINVAL);
    CHECK_EQ(dyn_tensor_argmin(&(dyn_tensor){.shape = (int64_t[]){0}, .ndim = 1, .dtype = DYN_FLOAT32}, &i),
             DYN_EINVAL);
}

TEST_MAIN(TEST(every_narrow_code_widens_to_its_value_and_comes_back), TEST(floats_are_rounded_once_to_the_nearest),
          TEST(integers_are_rounded_once_too), TEST(vectors_widen_as_scalars_do), TEST(vectors_narrow_as_scalars_do),
          TEST(vectors_end_where_they_should), TEST(sums_and_bounds_agree_on_every_instruction_set),
          TEST(everything_becomes_everything), TEST(floats_become_integers_toward_zero_and_within_bounds),
          TEST(strided_and_misaligned_tensors_count_the_same), TEST(integer_sums_do_not_wrap),
          TEST(nan_and_zero_compare_as_they_should))
