/* What memory speed is: conversions and sums beside memcpy of the same bytes, by turns.
 *
 *   bench_tensor [MiB of the float32 side ...]     default 1 and 64
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dynamo/tensor.h"
#include "dynamo/tensor_frames.h"
#include "tensor/kernels.h"

enum { ROUNDS = 31 };
static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double median(double *v)
{
    qsort(v, ROUNDS, sizeof(*v), order);
    return v[ROUNDS / 2];
}

/* CPU time: of this thread alone. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void size_of(size_t mib)
{
    size_t n = (mib << 20) / 4;
    dyn_buf *wide, *narrow, *a, *b;
    if (dyn_buf_new(&wide, n * 4) < 0 || dyn_buf_new(&narrow, n * 2) < 0) exit(1);
    if (dyn_buf_new(&a, n * 4) < 0 || dyn_buf_new(&b, n * 4) < 0) exit(1);
    float *f = (float *)dyn_buf_data(wide);
    for (size_t i = 0; i < n; i++) f[i] = (float)i * 1e-3f;
    memset(dyn_buf_data(narrow), 0x3c, n * 2);
    memset(dyn_buf_data(a), 1, n * 4);
    memset(dyn_buf_data(b), 2, n * 4);
    int64_t shape[1] = {(int64_t)n};
    dyn_tensor w = {.data = f, .shape = shape, .ndim = 1, .dtype = DYN_FLOAT32}, h = w;
    h.data = dyn_buf_data(narrow);
    static const struct {
        const char *name;
        int from, to;
    } rows[] = {{"bfloat16 -> float32", DYN_BFLOAT16, DYN_FLOAT32},
                {"float32 -> bfloat16", DYN_FLOAT32, DYN_BFLOAT16},
                {"float16 -> float32", DYN_FLOAT16, DYN_FLOAT32},
                {"float32 -> float16", DYN_FLOAT32, DYN_FLOAT16},
                {"sum of float32", DYN_FLOAT32, 0}};
    int repeat = mib < 16 ? (int)(64 / mib) : 1;
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        double ours[ROUNDS], copies[ROUNDS], ratio[ROUNDS];
        double moved = rows[k].to == 0 ? (double)n * 4 : (double)n * 6;
        for (int r = 0; r < ROUNDS; r++) { /* memcpy moves each byte twice: half of it makes as many bytes moved */
            uint64_t t0 = cpu_ns();
            for (int i = 0; i < repeat; i++)
                memcpy(dyn_buf_data(a), dyn_buf_data(b) + (i & 1) * 64, (size_t)(moved / 2) - 64);
            uint64_t t1 = cpu_ns();
            h.dtype = (uint8_t)rows[k].from;
            dyn_number sum;
            for (int i = 0; i < repeat; i++) {
                if (rows[k].to == 0)
                    dyn_tensor_sum(&w, &sum);
                else if (rows[k].to == DYN_FLOAT32)
                    dyn_tensor_convert(&h, DYN_FLOAT32, dyn_buf_data(a));
                else
                    dyn_tensor_convert(&w, rows[k].to, dyn_buf_data(a));
            }
            uint64_t t2 = cpu_ns();
            copies[r] = moved * repeat / (double)(t1 - t0);
            ours[r] = moved * repeat / (double)(t2 - t1);
            ratio[r] = ours[r] / copies[r];
        }
        printf("%3zu MiB  %-22s %7.2f GB/s moved   memcpy %7.2f   ratio %.2f\n", mib, rows[k].name, median(ours),
               median(copies), median(ratio));
    }
    dyn_buf_unref(wide), dyn_buf_unref(narrow), dyn_buf_unref(a), dyn_buf_unref(b);
}

static void frames(void)
{
    dyn_tensor_meta meta = {.dtype = DYN_FLOAT32, .ndim = 1, .shape = {1 << 18}, .name = "w", .name_size = 1};
    static uint8_t data[1 << 20], heads[256];
    struct iovec iov[64];
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < 100000; i++)
        if (dyn_tensor_iov(&meta, data, DYN_TENSOR_CHUNK, heads, iov) < 0) exit(1);
    printf("1 MiB as iovecs                 %7.1f ns\n", (double)(dyn_now_ns() - start) / 1e5);
}

int main(int argc, char **argv)
{
    printf("instruction set: %s\n", dyn_tensor_simd());
    if (argc < 2) size_of(1), size_of(64);
    for (int i = 1; i < argc; i++) size_of(strtoul(argv[i], NULL, 10));
    frames();
    return 0;
}
