/* bench_events.c -- what reading and writing one event costs. */
#include <stdio.h>
#include <time.h>

#include "common/common.h"
#include "dynamo/events.h"
#include "events/plane.h"

/* Of this thread, so that a busy machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void report(const char *what, uint64_t start, unsigned rounds, size_t bytes)
{
    double ns = (double)(cpu_ns() - start) / rounds;
    printf("%-40s %9.0f ns  %7.2f GB/s  %9.0f /s\n", what, ns, (double)bytes / ns, 1e9 / ns);
}

static int nothing(void *user, const dyn_event *event)
{
    (void)user, (void)event;
    return DYN_OK;
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
    uint64_t start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_event_read_json(&in, DYN_EVENT_INNER, compact, n);
    report("read JSON, 16 blocks, compact", start, ROUNDS, n);
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) {
        if (dyn_event_read_json(&in, DYN_EVENT_INNER, spaced, m) < 0) return 1;
    }
    report("read JSON, 16 blocks, json.dumps", start, ROUNDS, m);
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) n = dyn_event_write_json(&e, DYN_EVENT_INNER, compact);
    report("write JSON, 16 blocks", start, ROUNDS, n);
    struct dyn__mp_out items = {0}, frame = {0};
    struct dyn__envelope envelope;
    msgpack_packer p;
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) {
        items.size = 0;
        msgpack_packer_init(&p, &items, dyn__mp_out_append);
        dyn__plane_pack_event(&p, &e);
        dyn__plane_frame(&frame, 1, (uint64_t)i, "kv-events", true, 1, &items);
    }
    report("write event plane, 16 blocks", start, ROUNDS, frame.size);
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) {
        if (dyn__plane_open(frame.data, frame.size, &envelope) < 0 ||
            dyn__plane_events(envelope.payload, envelope.size, &in, nothing, NULL) < 0) {
            return 1;
        }
    }
    report("read event plane, 16 blocks", start, ROUNDS, frame.size);

    dyn_event_decoder *decoder;
    if (dyn_event_decoder_new(&decoder, 16) < 0) return 1;
    items.size = 0;
    msgpack_packer_init(&p, &items, dyn__mp_out_append);
    msgpack_pack_array(&p, 2), msgpack_pack_double(&p, 0), msgpack_pack_array(&p, 1), msgpack_pack_array(&p, 6);
    dyn__mp_text(&p, "BlockStored"), msgpack_pack_array(&p, BLOCKS);
    for (int i = 0; i < BLOCKS; i++) msgpack_pack_uint64(&p, hashes[i]);
    msgpack_pack_nil(&p), msgpack_pack_array(&p, BLOCKS * 16);
    for (int i = 0; i < BLOCKS * 16; i++) msgpack_pack_uint32(&p, (uint32_t)(tokens[i / 16] >> i % 16) % 150000);
    msgpack_pack_int(&p, 16), msgpack_pack_nil(&p);
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) {
        if (dyn_event_decode(decoder, items.data, items.size, 0, nothing, NULL) < 0) return 1;
    }
    report("read vLLM, 16 blocks of 16 tokens", start, ROUNDS, items.size);
    dyn_event_decoder_free(decoder);

    dyn_event_pub *pub;
    dyn_event_pub_options options = {.publisher_id = 1};
    if (dyn_event_pub_new(&pub, &options) < 0) return 1;
    start = cpu_ns();
    for (int i = 0; i < ROUNDS; i++) dyn_event_pub_send(pub, &e, NULL, NULL);
    report("publish, 16 blocks, nobody listens", start, ROUNDS, frame.size);
    dyn_event_pub_free(pub);
    dyn__mp_out_free(&items);
    dyn__mp_out_free(&frame);
    dyn_event_reset(&in);
    dyn__free(compact);
    dyn__free(spaced);
    return 0;
}
