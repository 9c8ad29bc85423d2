/* bench_wire.c -- frames of the RPC protocol and of Quill's: written, read, with the items inside. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/common.h"
#include "dynamo/wire.h"

enum { ROUNDS = 3000000, ITEM = 31, ITEMS = 16 };
static volatile size_t sink;

static void rpc_items(void)
{
    char item[ITEM];
    memset(item, 'x', sizeof item);
    dyn_bytes body = {0}, out = {0};
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS / ITEMS; i++) {
        body.size = out.size = 0;
        for (int j = 0; j < ITEMS; j++)
            if (dyn_items_add(&body, item, ITEM) < 0) abort();
        if (dyn_frame_write(&out, DYN_FRAME_ITEMS, 7, body.data, body.size) < 0) abort();
    }
    printf("items: written %6.1f ns each", (double)(dyn_now_ns() - start) / ROUNDS);
    size_t total = 0, used;
    start = dyn_now_ns();
    for (int i = 0; i < ROUNDS / ITEMS; i++) {
        dyn_frame frame;
        dyn_slice one;
        if (dyn_frame_read(out.data, out.size, DYN_WIRE_MAX_FRAME, &frame, &used) < 0) abort();
        dyn_slice rest = {frame.body, frame.size};
        while (dyn_items_next(&rest, &one)) total += one.size;
    }
    sink = total;
    printf(", read %6.1f ns each\n", (double)(dyn_now_ns() - start) / ROUNDS);
    dyn_bytes_free(&body);
    dyn_bytes_free(&out);
}

static void quill(size_t size, int rounds)
{
    char *payload = calloc(1, size);
    dyn_bytes out = {0};
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < rounds; i++) {
        out.size = 0;
        if (dyn_quill_write(&out, DYN_QUILL_DATA, payload, size) < 0) abort();
    }
    printf("quill frame of %7zu bytes: written %8.1f ns", size, (double)(dyn_now_ns() - start) / rounds);
    size_t total = 0, used;
    start = dyn_now_ns();
    for (int i = 0; i < rounds; i++) {
        dyn_quill_frame frame;
        if (dyn_quill_read(out.data, out.size, &frame, &used) < 0) abort();
        total += frame.payload.size;
    }
    sink = total;
    printf(", read %6.1f ns\n", (double)(dyn_now_ns() - start) / rounds);
    dyn_bytes_free(&out);
    free(payload);
}

int main(void)
{
    rpc_items();
    quill(100, ROUNDS);
    quill(1 << 10, ROUNDS);
    quill(1 << 20, 20000);
    return 0;
}
