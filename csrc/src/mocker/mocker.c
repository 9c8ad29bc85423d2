/* mocker.c -- see dynamo/mocker.h for the contract.
 *
 *   request:  tokens  | prompt ............... | generated ... |      count tokens known
 *                     |<------ computed ------>|                      of which the cache holds these
 *             blocks  | b0 | b1 | b2 | ...                            held, one reference each
 *             locals, sequences: hashes of its complete blocks, `hashed` of them
 *
 * I1  a waiting request holds no block and has computed == 0.
 * I2  a running request holds exactly ceil(computed / block_size) blocks between steps.
 * I3  no function but submit allocates: a step cannot fail half-way.
 */
#include <math.h>

#include "dynamo/hash.h"
#include "dynamo/mocker.h"
#include "mocker/pool.h"

struct request {
    uint64_t id, state;                  /* state: of the token generator, over all tokens so far */
    struct request *chain, *prev, *next; /* in its bucket; in the waiting or running list */
    uint32_t *tokens, *blocks;
    uint64_t *locals, *sequences;
    size_t count, computed, prompt, output_left, held, hashed, cached, chunk;
    uint32_t index;
    bool running, admitted_once;
};

struct list {
    struct request *first, *last;
    size_t count;
};

enum { REMOVED_BATCH = 256 };
struct dyn_mocker {
    dyn_mocker_config config;
    dyn_mocker_sink sink;
    dyn__pool pool;
    struct list waiting, running;
    struct request **buckets;
    size_t bucket_mask, request_bytes;
    uint64_t removed[REMOVED_BATCH];
    size_t removed_count;
    dyn_mocker_stats stats;
};

void dyn_mocker_config_init(dyn_mocker_config *config)
{
    *config = (dyn_mocker_config){.blocks = 16384,
                                  .block_size = 64,
                                  .max_sequences = 256,
                                  .max_batched_tokens = 8192,
                                  .max_waiting = 65536,
                                  .prefix_caching = true,
                                  .chunked_prefill = true,
                                  .watermark = 0.01,
                                  .token_low = 1000,
                                  .token_high = 32000};
}

/* ---- telling ------------------------------------------------------------------------------------ */

static void flush_removed(dyn_mocker *self)
{
    if (self->removed_count > 0 && self->sink.removed != NULL)
        self->sink.removed(self->sink.user, self->removed, self->removed_count);
    self->removed_count = 0;
}

static void on_evict(void *user, uint64_t hash)
{
    dyn_mocker *self = user;
    self->removed[self->removed_count++] = hash;
    if (self->removed_count == REMOVED_BATCH) flush_removed(self);
}

/* ---- lists and the table of requests -------------------------------------------------------------- */

static void list_remove(struct list *list, struct request *r)
{
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        list->first = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    else
        list->last = r->prev;
    r->prev = r->next = NULL;
    list->count--;
}

static void list_append(struct list *list, struct request *r)
{
    r->prev = list->last;
    r->next = NULL;
    if (list->last != NULL)
        list->last->next = r;
    else
        list->first = r;
    list->last = r;
    list->count++;
}

static void list_prepend(struct list *list, struct request *r)
{
    r->next = list->first;
    r->prev = NULL;
    if (list->first != NULL)
        list->first->prev = r;
    else
        list->last = r;
    list->first = r;
    list->count++;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30, x *= UINT64_C(0xBF58476D1CE4E5B9);
    x ^= x >> 27, x *= UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* A rolling hash of all tokens so far: one multiplication each, mixed only when a token is made from it. */
static uint64_t absorb(uint64_t state, uint32_t token)
{
    return state * UINT64_C(0xD1342543DE82EF95) + token + 1;
}

static struct request **place_of(const dyn_mocker *self, uint64_t id)
{
    struct request **place = &self->buckets[mix(id) & self->bucket_mask];
    while (*place != NULL && (*place)->id != id) place = &(*place)->chain;
    return place;
}

static size_t request_size(size_t tokens, size_t blocks)
{
    return sizeof(struct request) + blocks * (2 * sizeof(uint64_t) + sizeof(uint32_t)) + tokens * sizeof(uint32_t);
}

static void request_free(dyn_mocker *self, struct request *r)
{
    struct request **place = place_of(self, r->id);
    *place = r->chain;
    list_remove(r->running ? &self->running : &self->waiting, r);
    size_t room = r->count + r->output_left;
    self->request_bytes -= request_size(room, room / self->config.block_size + 1);
    dyn__free(r);
}

/* ---- life ----------------------------------------------------------------------------------------- */

static int refuse(const dyn_mocker_config *c)
{
    if (c->block_size == 0) return dyn__fail(DYN_EINVAL, "block_size 0: must be 1 or more");
    if (c->max_sequences == 0) return dyn__fail(DYN_EINVAL, "max_sequences 0: must be 1 or more");
    if (c->max_batched_tokens == 0) return dyn__fail(DYN_EINVAL, "max_batched_tokens 0: must be 1 or more");
    if (!(c->watermark >= 0.0 && c->watermark < 1.0))
        return dyn__fail(DYN_EINVAL, "watermark %g: must be 0 or more and below 1", c->watermark);
    if (c->token_low >= c->token_high)
        return dyn__fail(DYN_EINVAL, "token range [%u, %u): must not be empty", c->token_low, c->token_high);
    if (c->timing > DYN_MOCKER_2026) return dyn__fail(DYN_EINVAL, "timing %d: not known", (int)c->timing);
    return DYN_OK;
}

int dyn_mocker_new(dyn_mocker **out, const dyn_mocker_config *config, const dyn_mocker_sink *sink)
{
    int rc = refuse(config);
    if (rc < 0) return rc;
    dyn_mocker *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->config = *config;
    if (sink != NULL) self->sink = *sink;
    self->bucket_mask = 1023;
    self->buckets = dyn__calloc(self->bucket_mask + 1, sizeof(struct request *));
    rc = self->buckets == NULL ? DYN_ENOMEM : dyn__pool_init(&self->pool, config->blocks);
    if (rc < 0) {
        dyn__free(self->buckets);
        dyn__free(self);
        return rc;
    }
    self->pool.user = self;
    self->pool.on_evict = on_evict;
    *out = self;
    return DYN_OK;
}

void dyn_mocker_free(dyn_mocker *self)
{
    if (self == NULL) return;
    while (self->waiting.first != NULL) request_free(self, self->waiting.first);
    while (self->running.first != NULL) request_free(self, self->running.first);
    dyn__pool_fini(&self->pool);
    dyn__free(self->buckets);
    dyn__free(self);
}

/* ---- requests ------------------------------------------------------------------------------------- */

static void hash_complete_blocks(dyn_mocker *self, struct request *r)
{
    size_t size = self->config.block_size, complete = r->count / size, from = r->hashed;
    if (complete == from) return;
    dyn_hash_blocks(r->tokens + from * size, (complete - from) * size, size, false, DYN_HASH_SEED, r->locals + from);
    dyn_hash_chain(r->locals + from, complete - from, from > 0 ? &r->sequences[from - 1] : NULL, r->sequences + from);
    r->hashed = complete;
}

int dyn_mocker_submit(dyn_mocker *self, uint64_t request, const uint32_t *tokens, size_t count, size_t output)
{
    if (count == 0 || output == 0)
        return dyn__fail(DYN_EINVAL, "a prompt of %zu tokens and %zu to generate: both must be 1 or more", count,
                         output);
    size_t room = count + output, blocks = room / self->config.block_size + 1;
    if (room < count || blocks > self->config.blocks)
        return dyn__fail(DYN_EINVAL, "%zu prompt tokens and %zu to generate need %zu blocks, the pool has %zu", count,
                         output, blocks, self->config.blocks);
    if (self->waiting.count >= self->config.max_waiting)
        return dyn__fail(DYN_EOVERLOAD, "%zu requests wait already: the bound", self->waiting.count);
    struct request **place = place_of(self, request);
    if (*place != NULL) return dyn__fail(DYN_EEXIST, "request %llu is not finished yet", (unsigned long long)request);

    struct request *r = dyn__malloc(request_size(room, blocks));
    if (r == NULL) return DYN_ENOMEM;
    *r = (struct request){.id = request, .count = count, .prompt = count, .output_left = output};
    r->locals = (uint64_t *)(r + 1);
    r->sequences = r->locals + blocks;
    r->tokens = (uint32_t *)(r->sequences + blocks);
    r->blocks = r->tokens + room;
    memcpy(r->tokens, tokens, count * sizeof(*tokens));
    for (size_t i = 0; i < count; i++) r->state = absorb(r->state, tokens[i]);
    hash_complete_blocks(self, r);
    *place = r;
    list_append(&self->waiting, r);
    self->request_bytes += request_size(room, blocks);
    self->stats.prompt_tokens += count;
    return DYN_OK;
}

/* The tail first, so that it is the first to be evicted: a prefix without its tail is of use, not the other way. */
static void release_blocks(dyn_mocker *self, struct request *r)
{
    while (r->held > 0) dyn__pool_unref(&self->pool, r->blocks[--r->held]);
    r->computed = 0;
}

int dyn_mocker_cancel(dyn_mocker *self, uint64_t request)
{
    struct request *r = *place_of(self, request);
    if (r == NULL) return dyn__fail(DYN_ENOENT, "request %llu is not here", (unsigned long long)request);
    release_blocks(self, r);
    request_free(self, r);
    self->stats.cancelled++;
    flush_removed(self);
    return DYN_OK;
}

static void preempt(dyn_mocker *self, struct request *r)
{
    release_blocks(self, r);
    r->chunk = 0;
    r->running = false;
    list_remove(&self->running, r);
    list_prepend(&self->waiting, r);
    self->stats.preemptions++;
}

/* ---- a step --------------------------------------------------------------------------------------- */

static size_t blocks_for(const dyn_mocker *self, size_t tokens)
{
    return (tokens + self->config.block_size - 1) / self->config.block_size;
}

/* Hold blocks for `tokens` tokens; false when the pool is empty before. */
static bool hold(dyn_mocker *self, struct request *r, size_t tokens)
{
    for (size_t want = blocks_for(self, tokens); r->held < want; r->held++)
        if ((r->blocks[r->held] = dyn__pool_take(&self->pool)) == DYN__NO_BLOCK) return false;
    return true;
}

static struct request *victim(const dyn_mocker *self)
{
    return self->config.preemption == DYN_MOCKER_OLDEST ? self->running.first : self->running.last;
}

/* Give every running request its share of the batch; who finds no block preempts. */
static bool schedule_running(dyn_mocker *self, size_t *budget)
{
    bool preempted = false;
    for (struct request *r = self->running.first, *next; r != NULL; r = next) {
        next = r->next;
        size_t chunk = r->count - r->computed;
        if (chunk > *budget) chunk = *budget;
        r->chunk = chunk;
        if (chunk == 0) continue;
        while (r->running && !hold(self, r, r->computed + chunk)) {
            struct request *out = victim(self);
            *budget += out->chunk; /* what it got in this step, unless it comes later: then 0 */
            if (out == r) *budget -= chunk;
            if (out == next) next = next->next;
            preempt(self, out);
            preempted = true;
        }
        if (r->running) *budget -= chunk;
    }
    return preempted;
}

static size_t cached_blocks(const dyn_mocker *self, const struct request *r)
{
    size_t n = 0, limit = (r->count - 1) / self->config.block_size; /* one token at least is computed */
    if (!self->config.prefix_caching) return 0;
    while (n < limit && dyn__pool_find(&self->pool, r->sequences[n]) != DYN__NO_BLOCK) n++;
    return n;
}

static bool admit(dyn_mocker *self, struct request *r, size_t *budget)
{
    size_t cached = cached_blocks(self, r), fresh = r->count - cached * self->config.block_size;
    size_t chunk = fresh < *budget ? fresh : *budget;
    if (!self->config.chunked_prefill && chunk < fresh) {
        if (self->running.count > 0) return false;
        chunk = fresh; /* larger than any batch: alone, in one piece */
    }
    size_t spare = self->running.count > 0 ? (size_t)ceil(self->config.watermark * (double)self->config.blocks) : 0;
    /* Blocks to reference that lie on the LRU leave it: they are not available for the rest. */
    size_t idle = 0;
    for (size_t i = 0; i < cached; i++)
        idle += self->pool.blocks[dyn__pool_find(&self->pool, r->sequences[i])].refs == 0;
    size_t need = blocks_for(self, cached * self->config.block_size + chunk) - cached;
    if (need + idle + spare > dyn__pool_available(&self->pool)) return false;

    for (size_t i = 0; i < cached; i++) {
        r->blocks[i] = dyn__pool_find(&self->pool, r->sequences[i]);
        dyn__pool_ref(&self->pool, r->blocks[i]);
    }
    r->held = cached;
    r->computed = cached * self->config.block_size;
    bool held = hold(self, r, r->computed + chunk);
    assert(held);
    (void)held;
    r->chunk = chunk;
    r->running = true;
    list_remove(&self->waiting, r);
    list_append(&self->running, r);
    *budget -= chunk < *budget ? chunk : *budget;
    if (!r->admitted_once) {
        r->admitted_once = true;
        r->cached = r->computed;
        self->stats.cached_tokens += r->computed;
        if (self->sink.admitted != NULL) self->sink.admitted(self->sink.user, r->id, r->cached, r->count - r->cached);
    }
    return true;
}

/* The complete blocks among those just computed get their names; new names are told in runs. */
static void name_blocks(dyn_mocker *self, struct request *r, size_t from, size_t to)
{
    size_t run = from;
    if (!self->config.prefix_caching) return;
    for (size_t i = from; i <= to; i++) {
        bool is_new = false;
        if (i < to) r->blocks[i] = dyn__pool_name(&self->pool, r->blocks[i], r->sequences[i], &is_new);
        if (is_new) continue;
        if (i > run && self->sink.stored != NULL) {
            flush_removed(self); /* what was evicted for them goes first */
            self->sink.stored(self->sink.user, run > 0 ? &r->sequences[run - 1] : NULL, r->sequences + run,
                              r->locals + run, i - run);
        }
        run = i + 1;
    }
}

static uint32_t next_token(dyn_mocker *self, struct request *r)
{
    uint32_t token =
        self->config.token_low + (uint32_t)(mix(r->state) % (self->config.token_high - self->config.token_low));
    r->state = absorb(r->state, token);
    return token;
}

static void finish_chunk(dyn_mocker *self, struct request *r)
{
    size_t before = r->computed / self->config.block_size;
    r->computed += r->chunk;
    r->chunk = 0;
    name_blocks(self, r, before, r->computed / self->config.block_size);
    if (r->computed < r->count) return; /* more of the prompt to come */

    dyn_mocker_token told = {.request = r->id, .index = r->index++, .cached_tokens = r->cached};
    told.token = next_token(self, r);
    told.finished = r->output_left == 1;
    self->stats.generated_tokens++;
    if (told.finished) {
        release_blocks(self, r);
        request_free(self, r);
        self->stats.finished++;
    } else {
        r->tokens[r->count++] = told.token;
        r->output_left--;
        hash_complete_blocks(self, r);
    }
    flush_removed(self);
    if (self->sink.token != NULL) self->sink.token(self->sink.user, &told);
}

int dyn_mocker_step(dyn_mocker *self, double *duration_ms)
{
    size_t budget = self->config.max_batched_tokens, decoding = 0;
    double ms = 0.0;

    *duration_ms = 0.0;
    bool preempted = schedule_running(self, &budget);
    /* Who was preempted would only be admitted again at the cost of another. */
    while (!preempted && budget > 0 && self->waiting.first != NULL && self->running.count < self->config.max_sequences)
        if (!admit(self, self->waiting.first, &budget)) break;
    if (self->running.count == 0) {
        flush_removed(self);
        return DYN_OK;
    }
    for (struct request *r = self->running.first; r != NULL; r = r->next) {
        if (r->chunk == 0) continue;
        if (r->chunk == 1 && r->index > 0 && r->computed + 1 == r->count) {
            decoding++;
        } else {
            ms += dyn_mocker_prefill_ms(self->config.timing, r->chunk);
            self->stats.prefilled_tokens += r->chunk;
        }
    }
    if (decoding > 0) {
        size_t active = self->config.blocks - dyn__pool_available(&self->pool);
        ms += dyn_mocker_decode_ms(self->config.timing, (double)active / (double)self->config.blocks);
    }
    for (struct request *r = self->running.first, *next; r != NULL; r = next) {
        next = r->next;
        if (r->chunk > 0) finish_chunk(self, r);
    }
    flush_removed(self);
    self->stats.steps++;
    *duration_ms = ms;
    return DYN_OK;
}

/* ---- asking --------------------------------------------------------------------------------------- */

bool dyn_mocker_idle(const dyn_mocker *self)
{
    return self->waiting.count == 0 && self->running.count == 0;
}

void dyn_mocker_clear(dyn_mocker *self)
{
    dyn__pool_clear(&self->pool);
    flush_removed(self);
}

void dyn_mocker_get_stats(const dyn_mocker *self, dyn_mocker_stats *out)
{
    *out = self->stats;
    out->waiting = self->waiting.count;
    out->running = self->running.count;
    out->total_blocks = self->config.blocks;
    out->inactive_blocks = self->pool.inactive_count;
    out->active_blocks = self->config.blocks - dyn__pool_available(&self->pool);
    out->evicted_blocks = self->pool.evicted;
}

size_t dyn_mocker_bytes(const dyn_mocker *self)
{
    return sizeof(*self) + dyn__pool_bytes(&self->pool) + (self->bucket_mask + 1) * sizeof(struct request *) +
           self->request_bytes;
}
