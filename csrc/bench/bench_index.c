/* bench_index.c -- what the index costs: stores, removals, finds, trace replay, with everything drained inside the clock.
 *
 *   bench_index [TRACE.jsonl]     a Mooncake trace, unpacked; without one a made-up workload of the same kind
 *
 * Rates are by the CPU time of the threads, best of some passes: beside other programs wall time says more about them. Of
 * several threads the one that worked longest counts. Wall time stands beside it where threads meet.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dynamo/hash.h"
#include "dynamo/index.h"

static uint64_t seed = 88172645463325252u;
static uint64_t next_random(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed * UINT64_C(0x2545f4914f6cdd1d);
}
static double seconds_since(uint64_t start)
{
    return (double)(dyn_now_ns() - start) / 1e9;
}
/* Of this thread, on a core. */
static double busy(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
static void line(const char *what, double value, const char *unit)
{
    printf("%-52s %12.2f %s\n", what, value, unit);
}

/* ---- simple loads ---------------------------------------------------------------------------------------------- */
enum { CHAINS = 12800, LENGTH = 16 };
static uint64_t names[CHAINS * LENGTH], tokens[CHAINS * LENGTH];

static void stores(int per_event)
{
    double best_store = 0, best_remove = 0;
    char what[80];
    for (int pass = 0; pass < 5; pass++) {
        dyn_index *index = NULL;
        dyn_index_new(&index, NULL);
        double start = busy();
        for (int c = 0; c < CHAINS; c++)
            for (int i = 0; i < LENGTH; i += per_event)
                dyn_index_stored(index, (uint64_t)c % 8, 0, i > 0 ? &names[c * LENGTH + i - 1] : NULL,
                                 &names[c * LENGTH + i], &tokens[c * LENGTH + i], (size_t)per_event);
        double rate = CHAINS * LENGTH / (busy() - start) / 1e6;
        if (rate > best_store) best_store = rate;
        start = busy();
        for (int c = 0; c < CHAINS; c++)
            for (int i = LENGTH - per_event; i >= 0; i -= per_event)
                for (int k = per_event - 1; k >= 0; k--)
                    dyn_index_removed(index, (uint64_t)c % 8, 0, &names[c * LENGTH + i + k], 1);
        rate = CHAINS * LENGTH / (busy() - start) / 1e6;
        if (rate > best_remove) best_remove = rate;
        dyn_index_unref(index);
    }
    snprintf(what, sizeof(what), "stored, %d-block events, 204,800 blocks", per_event);
    line(what, best_store, "M blocks/s");
    if (per_event == 1) line("removed, one by one", best_remove, "M blocks/s");
}

static void finds(void)
{
    enum { SEQUENCES = 400, LONG = 512 };
    static uint64_t all[SEQUENCES][LONG];
    dyn_index *index = NULL;
    dyn_overlap out[16];
    dyn_index_new(&index, NULL);
    for (int s = 0; s < SEQUENCES; s++) {
        for (int i = 0; i < LONG; i++) all[s][i] = next_random();
        dyn_index_stored(index, (uint64_t)s % 8, 0, NULL, all[s], all[s], LONG);
        for (int k = 1; k < 3; k++) dyn_index_stored(index, (uint64_t)(s + k) % 8, 0, NULL, all[s], all[s], 64);
    }
    for (int n = 8; n <= LONG; n *= 8) {
        for (int hit = 0; hit <= 100; hit += 50) {
            static uint64_t query[SEQUENCES][LONG];
            char what[80];
            double best = 1e9;
            for (int s = 0; s < SEQUENCES; s++)
                for (int i = 0; i < n; i++) query[s][i] = i < n * hit / 100 ? all[s][i] : next_random();
            for (int pass = 0; pass < 30; pass++) {
                double start = busy();
                for (int s = 0; s < SEQUENCES; s++) dyn_index_find(index, query[s], (size_t)n, out, 16);
                double each = (busy() - start) / SEQUENCES * 1e9;
                if (each < best) best = each;
            }
            snprintf(what, sizeof(what), "find of %d blocks, %d %% hit", n, hit);
            line(what, best, "ns");
        }
    }
    dyn_index_unref(index);
}

/* ---- replay of a trace -----------------------------------------------------------------------------------------
 * Each request goes to a random worker, which finds, then stores what it does not hold, evicting its least recently used
 * blocks beyond 16,384 (a mock engine, prepared before the clock). A block operation is a hash that was asked for, stored or
 * removed. F: each hash becomes F hashes, as upstream stretches its traces.
 */
typedef struct op {
    uint32_t kind, worker, count;
    size_t at; /* of the hashes */
    uint64_t parent;
    bool has_parent;
} op;
enum { FIND, STORED, REMOVED, CAPACITY = 16384 };
typedef struct plan {
    op *ops;
    size_t count, room;
    uint64_t *hashes; /* sequence hashes as names at [0, used), local ones at [half, half + used) */
    uint64_t *local;
    size_t used, hash_room;
    size_t block_ops;
} plan;

static void add_op(plan *p, op o, const uint64_t *sequence, const uint64_t *local)
{
    if (p->count == p->room) p->ops = realloc(p->ops, (p->room = p->room ? p->room * 2 : 4096) * sizeof(op));
    if (p->used + o.count > p->hash_room) {
        p->hash_room = (p->used + o.count) * 2;
        p->hashes = realloc(p->hashes, p->hash_room * 8);
        p->local = realloc(p->local, p->hash_room * 8);
    }
    o.at = p->used;
    memcpy(p->hashes + p->used, sequence, o.count * 8);
    memcpy(p->local + p->used, local, o.count * 8);
    p->used += o.count;
    p->ops[p->count++] = o;
    p->block_ops += o.count;
}

/* An engine's cache: a map of sequence hashes with least-recently-used order, by a list through a table. */
typedef struct engine {
    struct slot {
        uint64_t key;
        uint32_t before, after;
    } *slot;
    uint32_t *table;
    uint32_t used, newest, oldest, free;
} engine;
enum { TABLE = 1 << 16 };

static uint32_t *engine_seek(engine *e, uint64_t key)
{
    uint32_t i = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 48);
    while (e->table[i] != 0 && e->slot[e->table[i]].key != key) i = (i + 1) % TABLE;
    return &e->table[i];
}
static void engine_unlink(engine *e, uint32_t s)
{
    struct slot *x = &e->slot[s];
    *(x->before ? &e->slot[x->before].after : &e->newest) = x->after;
    *(x->after ? &e->slot[x->after].before : &e->oldest) = x->before;
}
static void engine_front(engine *e, uint32_t s)
{
    e->slot[s].before = 0, e->slot[s].after = e->newest;
    if (e->newest) e->slot[e->newest].before = s;
    e->newest = s;
    if (!e->oldest) e->oldest = s;
}
static void engine_forget(engine *e, uint32_t s)
{
    uint32_t *hole = engine_seek(e, e->slot[s].key), i = (uint32_t)(hole - e->table);
    engine_unlink(e, s);
    for (uint32_t j = (i + 1) % TABLE; e->table[j] != 0; j = (j + 1) % TABLE) {
        uint32_t home = (uint32_t)(e->slot[e->table[j]].key * UINT64_C(0x9e3779b97f4a7c15) >> 48);
        if (((j - home) & (TABLE - 1)) < ((j - i) & (TABLE - 1))) continue;
        e->table[i] = e->table[j];
        i = j;
    }
    e->table[i] = 0;
    e->slot[s].after = e->free;
    e->free = s;
    e->used--;
}

static plan make_plan(uint32_t *const *requests, const uint32_t *lengths, size_t count, uint32_t workers,
                      uint32_t factor)
{
    plan p = {0};
    engine *engines = calloc(workers, sizeof(*engines));
    for (uint32_t w = 0; w < workers; w++) {
        engines[w].slot = calloc(CAPACITY + 2, sizeof(struct slot));
        engines[w].table = calloc(TABLE, sizeof(uint32_t));
        for (uint32_t s = 1; s < CAPACITY + 1; s++) engines[w].slot[s].after = s + 1 <= CAPACITY ? s + 1 : 0;
        engines[w].free = 1;
    }
    for (size_t r = 0; r < count; r++) {
        size_t n = (size_t)lengths[r] * factor;
        uint64_t *local = malloc(n * 8 + 8), *sequence = malloc(n * 8 + 8), *gone = malloc(n * 8 + 8);
        for (size_t i = 0; i < n; i++) {
            uint32_t id = requests[r][i / factor] * factor + (uint32_t)(i % factor);
            dyn_hash_blocks(&id, 1, 1, false, DYN_HASH_SEED, &local[i]);
        }
        dyn_hash_chain(local, n, NULL, sequence);
        uint32_t w = (uint32_t)(next_random() >> 32) % workers;
        engine *e = &engines[w];
        add_op(&p, (op){.kind = FIND, .worker = w, .count = (uint32_t)n}, local, local);
        size_t hit = 0;
        while (hit < n && *engine_seek(e, sequence[hit]) != 0) hit++;
        for (size_t i = hit; i-- > 0;) { /* the start of a sequence stays longest */
            uint32_t s = *engine_seek(e, sequence[i]);
            engine_unlink(e, s);
            engine_front(e, s);
        }
        size_t fresh = n - hit < CAPACITY / 2 ? n - hit : CAPACITY / 2, out = 0;
        while (e->used + fresh > CAPACITY) {
            uint32_t s = e->oldest;
            gone[out++] = e->slot[s].key;
            engine_forget(e, s);
            if (out == n) add_op(&p, (op){.kind = REMOVED, .worker = w, .count = (uint32_t)out}, gone, gone), out = 0;
        }
        if (out > 0) add_op(&p, (op){.kind = REMOVED, .worker = w, .count = (uint32_t)out}, gone, gone);
        if (fresh > 0 && (hit == 0 || *engine_seek(e, sequence[hit - 1]) != 0)) {
            op o = {.kind = STORED, .worker = w, .count = (uint32_t)fresh, .has_parent = hit > 0};
            if (hit > 0) o.parent = sequence[hit - 1];
            add_op(&p, o, sequence + hit, local + hit);
            for (size_t i = hit + fresh; i-- > hit;) {
                uint32_t s = e->free;
                e->free = e->slot[s].after;
                e->slot[s].key = sequence[i];
                *engine_seek(e, sequence[i]) = s;
                engine_front(e, s);
                e->used++;
            }
        }
        free(local), free(sequence), free(gone);
    }
    for (uint32_t w = 0; w < workers; w++) free(engines[w].slot), free(engines[w].table);
    free(engines);
    return p;
}

typedef struct lane {
    const plan *p;
    dyn_index **index;
    uint32_t lanes, mine;
    pthread_barrier_t *gate;
    size_t block_ops, refused;
    double busy;
} lane;

/* With several lanes each has an index of its own for its workers, and a find asks all. */
static void *run_lane(void *argument)
{
    lane *l = argument;
    static _Thread_local dyn_overlap out[1024];
    if (l->gate != NULL) pthread_barrier_wait(l->gate);
    double start = busy();
    for (size_t i = 0; i < l->p->count; i++) {
        const op *o = &l->p->ops[i];
        if (o->worker % l->lanes != l->mine) continue;
        dyn_index *own = l->index[l->mine];
        const uint64_t *hashes = l->p->hashes + o->at;
        int rc = DYN_OK;
        if (o->kind == FIND)
            for (uint32_t k = 0; k < l->lanes; k++)
                dyn_index_find(l->index[k], l->p->local + o->at, o->count, out, 1024);
        else if (o->kind == STORED)
            rc = dyn_index_stored(own, o->worker, 0, o->has_parent ? &o->parent : NULL, hashes, l->p->local + o->at,
                                  o->count);
        else
            rc = dyn_index_removed(own, o->worker, 0, hashes, o->count);
        if (rc < 0) l->refused++;
        l->block_ops += o->count;
    }
    l->busy = busy() - start;
    return NULL;
}

static void replay(const plan *p, const char *name, uint32_t lanes)
{
    double best = 0, best_wall = 0;
    size_t refused = 0, blocks = 0, bytes = 0;
    for (int pass = 0; pass < 7; pass++) {
        dyn_index *index[8];
        lane lane_of[8];
        pthread_t thread[8];
        pthread_barrier_t gate;
        pthread_barrier_init(&gate, NULL, lanes + 1);
        for (uint32_t k = 0; k < lanes; k++) dyn_index_new(&index[k], NULL);
        for (uint32_t k = 0; k < lanes; k++) lane_of[k] = (lane){p, index, lanes, k, lanes > 1 ? &gate : NULL, 0, 0, 0};
        for (uint32_t k = 0; k < lanes && lanes > 1; k++) pthread_create(&thread[k], NULL, run_lane, &lane_of[k]);
        if (lanes > 1) pthread_barrier_wait(&gate);
        uint64_t start = dyn_now_ns();
        if (lanes == 1) run_lane(&lane_of[0]);
        for (uint32_t k = 0; k < lanes && lanes > 1; k++) pthread_join(thread[k], NULL);
        double rate = (double)p->block_ops / seconds_since(start) / 1e6, longest = 0;
        if (rate > best_wall) best_wall = rate;
        for (uint32_t k = 0; k < lanes; k++)
            if (lane_of[k].busy > longest) longest = lane_of[k].busy;
        rate = (double)p->block_ops / longest / 1e6;
        if (rate > best) best = rate;
        refused = blocks = bytes = 0;
        for (uint32_t k = 0; k < lanes; k++) {
            dyn_index_stats stats;
            dyn_index_stats_get(index[k], &stats);
            blocks += stats.blocks, bytes += stats.bytes, refused += lane_of[k].refused;
            dyn_index_unref(index[k]);
        }
        pthread_barrier_destroy(&gate);
    }
    char what[160];
    snprintf(what, sizeof(what), "replay %s, %u thread%s", name, lanes, lanes > 1 ? "s" : "");
    line(what, best, "M block operations/s");
    printf("    by the wall clock %.2f; %.2f M operations, %zu refused, %zu blocks at the end, %.1f bytes each\n",
           best_wall, (double)p->block_ops / 1e6, refused, blocks, (double)bytes / (double)(blocks ? blocks : 1));
}

static size_t read_trace(const char *path, uint32_t ***requests, uint32_t **lengths)
{
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t room = 0, count = 0, space = 0;
    if (file == NULL) return 0;
    while (getline(&text, &room, file) > 0) {
        char *at = strstr(text, "hash_ids");
        if (at == NULL || (at = strchr(at, '[')) == NULL) continue;
        if (count == space) {
            space = space ? space * 2 : 1024;
            *requests = realloc(*requests, space * sizeof(**requests));
            *lengths = realloc(*lengths, space * sizeof(**lengths));
        }
        uint32_t n = 0, limit = 0, *ids = NULL;
        for (at++; *at != ']' && *at != '\0';) {
            char *end;
            unsigned long id = strtoul(at, &end, 10);
            if (end == at) {
                at++;
                continue;
            }
            if (n == limit) ids = realloc(ids, (limit = limit ? limit * 2 : 64) * sizeof(*ids));
            ids[n++] = (uint32_t)id;
            at = end;
        }
        (*requests)[count] = ids;
        (*lengths)[count++] = n;
    }
    free(text);
    fclose(file);
    return count;
}

/* Conversations that come back longer, behind one of a few system prompts. */
static size_t make_trace(uint32_t ***requests, uint32_t **lengths)
{
    enum { REQUESTS = 12000, TALKS = 3000 };
    static uint32_t talk[TALKS][256];
    static uint32_t size[TALKS];
    uint32_t next = 1000;
    *requests = calloc(REQUESTS, sizeof(**requests));
    *lengths = calloc(REQUESTS, sizeof(**lengths));
    for (size_t r = 0; r < REQUESTS; r++) {
        uint32_t t = (uint32_t)(next_random() >> 32) % TALKS;
        if (size[t] == 0 || size[t] > 200)
            for (size[t] = 0; size[t] < 6; size[t]++) talk[t][size[t]] = t % 5 * 6 + size[t];
        for (uint32_t more = 4 + (uint32_t)(next_random() >> 60); more > 0; more--) talk[t][size[t]++] = next++;
        (*requests)[r] = malloc(size[t] * sizeof(uint32_t));
        memcpy((*requests)[r], talk[t], size[t] * sizeof(uint32_t));
        (*lengths)[r] = size[t];
    }
    return REQUESTS;
}

int main(int argc, char **argv)
{
    uint32_t **requests = NULL, *lengths = NULL;
    for (size_t i = 0; i < CHAINS * LENGTH; i++) names[i] = next_random(), tokens[i] = next_random();
    stores(1);
    stores(16);
    finds();
    size_t count = argc > 1 ? read_trace(argv[1], &requests, &lengths) : make_trace(&requests, &lengths);
    if (count == 0) {
        fprintf(stderr, "bench_index: no requests in %s\n", argv[1]);
        return 1;
    }
    const char *trace =
        argc > 1 ? strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1] : "made-up conversations";
    static const uint32_t shapes[][2] = {{8, 1}, {128, 1}, {1000, 1}, {8, 4}, {128, 4}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        char name[120];
        plan p = make_plan(requests, lengths, count, shapes[s][0], shapes[s][1]);
        snprintf(name, sizeof(name), "%s W=%u F=%u", trace, shapes[s][0], shapes[s][1]);
        replay(&p, name, 1);
        replay(&p, name, 2);
        free(p.ops), free(p.hashes), free(p.local);
    }
    for (size_t r = 0; r < count; r++) free(requests[r]);
    free(requests), free(lengths);
    return 0;
}
