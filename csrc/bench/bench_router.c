/* What a decision costs: pick and book, prefill done, free, with so many workers and running requests. */
#include <stdio.h>

#include "common/common.h"
#include "dynamo/router.h"

enum { BLOCKS = 64, ROUNDS = 20000 };

static void run(uint32_t workers, uint32_t running)
{
    static uint64_t tickets[4096];
    uint64_t sequence[BLOCKS], random = 88172645463325252u;
    dyn_router_config config;
    dyn_router_held *held = dyn__calloc(workers, sizeof(*held));
    dyn_router_choice choice;
    dyn_router_stats stats;
    dyn_router *router;

    dyn_router_config_init(&config, 16);
    config.seed = 1;
    if (held == NULL || dyn_router_new(&router, &config) < 0) exit(1);
    for (uint32_t i = 0; i < workers; i++) {
        dyn_router_worker worker = {.worker = i};
        if (dyn_router_put_worker(router, &worker) < 0) exit(1);
        held[i] = (dyn_router_held){.worker = i};
    }
    uint64_t asked = 0, booked = 0, done = 0, freed = 0;
    for (uint32_t i = 0; i < ROUNDS + running; i++) {
        /* The first quarter of the blocks is one of 16 system prompts, the rest is its own. */
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        for (uint32_t j = 0; j < BLOCKS; j++)
            sequence[j] = (j < BLOCKS / 4 ? random % 16 : i + 100) * UINT64_C(0x9E3779B97F4A7C15) +
                          j * UINT64_C(0xD6E8FEB86659FD93);
        for (uint32_t j = 0; j < workers; j++) held[j].blocks = (uint32_t)(random >> (j % 32)) % (BLOCKS / 4);
        dyn_router_request r = {.tokens = BLOCKS * 16 + 7,
                                .sequence = sequence,
                                .blocks = BLOCKS,
                                .overlap = {.count = workers, .rows = held}};
        uint64_t t0 = dyn_now_ns();
        if (dyn_router_pick(router, &r, &choice, NULL, 0, NULL) < 0) exit(1);
        uint64_t t1 = dyn_now_ns();
        r.book = true;
        if (dyn_router_pick(router, &r, &choice, NULL, 0, NULL) < 0) exit(1);
        uint64_t t2 = dyn_now_ns();
        dyn_router_prefill_done(router, choice.ticket);
        uint64_t t3 = dyn_now_ns();
        if (i >= running) dyn_router_free(router, tickets[i % running]);
        uint64_t t4 = dyn_now_ns();
        tickets[i % running] = choice.ticket;
        if (i < running) continue;
        asked += t1 - t0, booked += t2 - t1, done += t3 - t2, freed += t4 - t3;
    }
    dyn_router_get_stats(router, &stats);
    printf("router %5u workers %5u running: ask %6.0f ns, pick and book %6.0f ns, prefill done %4.0f ns, free %5.0f "
           "ns, %5.1f bytes/block\n",
           workers, running, (double)asked / ROUNDS, (double)booked / ROUNDS, (double)done / ROUNDS,
           (double)freed / ROUNDS, (double)stats.bytes / (double)stats.blocks);
    dyn_router_unref(router);
    dyn__free(held);
}

int main(void)
{
    run(2, 64);
    run(8, 64);
    run(8, 4096);
    run(128, 1024);
    run(1000, 4096);
    return 0;
}
