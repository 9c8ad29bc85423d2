/* bench_events.c -- what reading and writing one event costs. */
#include <stdio.h>

#include "common/common.h"
#include "dynamo/events.h"

static void report(const char *what, uint64_t start, unsigned rounds, size_t bytes)
{
    double ns = (double)(dyn_now_ns() - start) / rounds;
    printf("%-40s %9.0f ns  %7.2f GB/s  %9.0f /s\n", what, ns, (double)bytes / ns, 1e9 / ns);
}

int main(void)
{
    enum { BLOCKS = 16, ROUNDS = 300000 };
    uint64_t hashes[BLOCKS], tokens[BLOCKS], x = 88172645463325252;
    for (int i = 0; i < BLOCKS; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17, hashes[i] = x;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17, tokens[i] = x;
    }
    dyn_event e = {.kind = DYN_EVENT_STORED, .count = BLOCKS, .block_hashes = hashes, .tokens_hashes = tokens},
              in = {0};
    char *compact = dyn__malloc(dyn_event_json_bound(&e)), *spaced = dyn__malloc(2 * dyn_event_json_bound(&e));
    size_t n = dyn_event_write_json(&e, DYN_EVENT_INNER, compact), m = 0;
    for (size_t i = 0; i < n; i++) { /* as Python's json.dumps spaces it */
        spaced[m++] = compact[i];
        if (compact[i] == ',' || compact[i] == ':') spaced[m++] = ' ';
    }
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_event_read_json(&in, DYN_EVENT_INNER, compact, n);
    report("read JSON, 16 blocks, compact", start, ROUNDS, n);
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        if (dyn_event_read_json(&in, DYN_EVENT_INNER, spaced, m) < 0) return 1;
    }
    report("read JSON, 16 blocks, json.dumps", start, ROUNDS, m);
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) n = dyn_event_write_json(&e, DYN_EVENT_INNER, compact);
    report("write JSON, 16 blocks", start, ROUNDS, n);
    dyn_event_reset(&in);
    dyn__free(compact);
    dyn__free(spaced);
    return 0;
}
