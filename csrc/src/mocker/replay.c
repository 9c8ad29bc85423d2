/* replay.c -- see dynamo/replay.h for the contract.
 *
 * One worker is busy from the begin of a step to its end; what the step gives (tokens, changes of its cache) is
 * kept and takes effect at the end, as a real engine's would.
 *
 * I1  `due` is a heap of the ends of the steps under way, one for each busy worker.
 * I2  a request is booked in the router exactly from its pick to its last token.
 */
#include "dynamo/replay.h"
#include "common/common.h"
#include "dynamo/hash.h"
#include "dynamo/index.h"

_Static_assert(sizeof(dyn_overlap) == sizeof(dyn_router_held) &&
                   offsetof(dyn_overlap, blocks) == offsetof(dyn_router_held, blocks) &&
                   offsetof(dyn_overlap, held) == offsetof(dyn_router_held, tree),
               "what the index finds is what the router takes");

/* A change of a cache that waits for the end of its step. */
struct change {
    size_t count;
    bool stored, has_parent;
    uint64_t parent;
    size_t hashes; /* where they begin in worker.hashes: sequence, then (stored) local */
};

struct worker {
    struct replay *replay;
    dyn_mocker *mocker;
    dyn_mocker_token *tokens;
    struct change *changes;
    uint64_t *hashes;
    size_t token_count, change_count, change_room, hash_count, hash_room;
    uint32_t number;
    bool busy;
};

struct due {
    double at;
    struct worker *worker;
};

struct waiting { /* in the router's queue */
    struct replay *replay;
    size_t request;
};

struct replay {
    const dyn_replay_config *config;
    const dyn_replay_trace *trace;
    dyn_replay_result *results;
    dyn_replay_summary *summary;
    dyn_router *router;
    dyn_index *index;
    struct worker *workers;
    struct due *due;
    size_t due_count, done;
    double now;
    double *first_token;
    uint64_t *tickets;
    uint32_t *generated, *tokens; /* tokens: scratch for one prompt */
    uint64_t *locals, *sequences; /* scratch */
    dyn_overlap *overlaps;
    int failed; /* what a callback could not return */
};

void dyn_replay_config_init(dyn_replay_config *config)
{
    *config = (dyn_replay_config){.workers = 4, .arrival_speedup = 1.0};
    dyn_mocker_config_init(&config->engine);
    dyn_router_config_init(&config->router, (uint32_t)config->engine.block_size);
    config->router.silent_seconds = 0;
}

static uint64_t simulated_clock(void *user)
{
    const struct replay *self = user;
    return (uint64_t)(self->now * 1e6) + 1;
}

/* ---- the heap of step ends ------------------------------------------------------------------------ */

static bool sooner(const struct due *a, const struct due *b)
{
    return a->at < b->at || (a->at == b->at && a->worker->number < b->worker->number);
}

static void due_push(struct replay *self, struct due item)
{
    size_t i = self->due_count++;
    for (; i > 0 && sooner(&item, &self->due[(i - 1) / 2]); i = (i - 1) / 2) self->due[i] = self->due[(i - 1) / 2];
    self->due[i] = item;
}

static struct due due_pop(struct replay *self)
{
    struct due top = self->due[0], last = self->due[--self->due_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < self->due_count; i = child) {
        if (child + 1 < self->due_count && sooner(&self->due[child + 1], &self->due[child])) child++;
        if (!sooner(&self->due[child], &last)) break;
        self->due[i] = self->due[child];
    }
    self->due[i] = last;
    return top;
}

/* ---- what a step gives, kept until its end --------------------------------------------------------- */

static void keep_token(void *user, const dyn_mocker_token *token)
{
    struct worker *self = user;
    self->tokens[self->token_count++] = *token;
}

static bool more_room(void **memory, size_t *room, size_t need, size_t size)
{
    size_t want = *room ? *room : 64;
    if (need <= *room) return true;
    while (want < need) want *= 2;
    void *grown = dyn__realloc(*memory, want * size);
    if (grown == NULL) return false;
    *memory = grown;
    *room = want;
    return true;
}

static void keep_change(struct worker *self, bool stored, const uint64_t *parent, const uint64_t *sequences,
                        const uint64_t *locals, size_t count)
{
    size_t need = self->hash_count + count * (stored ? 2 : 1);
    if (!more_room((void **)&self->changes, &self->change_room, self->change_count + 1, sizeof(*self->changes)) ||
        !more_room((void **)&self->hashes, &self->hash_room, need, sizeof(*self->hashes))) {
        self->replay->failed = DYN_ENOMEM;
        return;
    }
    self->changes[self->change_count++] =
        (struct change){count, stored, parent != NULL, parent ? *parent : 0, self->hash_count};
    memcpy(self->hashes + self->hash_count, sequences, count * sizeof(*sequences));
    if (stored) memcpy(self->hashes + self->hash_count + count, locals, count * sizeof(*locals));
    self->hash_count = need;
}

static void keep_stored(void *user, const uint64_t *parent, const uint64_t *sequences, const uint64_t *locals,
                        size_t count)
{
    keep_change(user, true, parent, sequences, locals, count);
}

static void keep_removed(void *user, const uint64_t *sequences, size_t count)
{
    keep_change(user, false, NULL, sequences, NULL, count);
}

static void apply_changes(struct replay *self, struct worker *w)
{
    for (size_t i = 0; i < w->change_count; i++) {
        const struct change *c = &w->changes[i];
        const uint64_t *names = w->hashes + c->hashes;
        int rc;
        if (c->stored) {
            rc = dyn_index_stored(self->index, w->number, 0, c->has_parent ? &c->parent : NULL, names, names + c->count,
                                  c->count);
            self->summary->stored_blocks += c->count;
        } else {
            rc = dyn_index_removed(self->index, w->number, 0, names, c->count);
            self->summary->removed_blocks += c->count;
        }
        if (rc == DYN_ENOMEM) self->failed = rc;
        if (rc < 0) self->summary->index_refusals++;
    }
    w->change_count = w->hash_count = 0;
}

/* ---- steps ----------------------------------------------------------------------------------------- */

static void begin_step(struct replay *self, struct worker *w)
{
    double ms = 0.0;
    if (w->busy || dyn_mocker_idle(w->mocker)) return;
    int rc = dyn_mocker_step(w->mocker, &ms);
    if (rc < 0) self->failed = rc;
    w->busy = true;
    due_push(self, (struct due){self->now + ms, w});
}

static void end_step(struct replay *self, struct worker *w)
{
    w->busy = false;
    apply_changes(self, w);
    for (size_t i = 0; i < w->token_count; i++) {
        const dyn_mocker_token *token = &w->tokens[i];
        size_t r = (size_t)token->request;
        dyn_replay_result *result = &self->results[r];
        if (token->index == 0) {
            self->first_token[r] = self->now;
            result->ttft_ms = self->now - self->trace->arrival_ms[r] / self->config->arrival_speedup;
            result->cached_tokens = (uint32_t)token->cached_tokens;
            dyn_router_prefill_done(self->router, self->tickets[r]);
        }
        self->generated[r]++;
        if (!token->finished) continue;
        result->total_ms = self->now - self->trace->arrival_ms[r] / self->config->arrival_speedup;
        if (self->generated[r] > 1) result->itl_ms = (self->now - self->first_token[r]) / (self->generated[r] - 1);
        self->summary->finished++;
        self->done++;
        dyn_router_free(self->router, self->tickets[r]);
    }
    w->token_count = 0;
    begin_step(self, w);
}

/* ---- arrivals -------------------------------------------------------------------------------------- */

static void refuse(struct replay *self, size_t r, int rc)
{
    self->results[r].status = rc;
    self->summary->refused++;
    self->done++;
}

static size_t write_prompt(struct replay *self, size_t r)
{
    size_t count = self->trace->input_tokens[r], block = self->trace->trace_block;
    const uint32_t *ids = self->trace->ids + self->trace->first[r];
    for (size_t i = 0; i < count; i++) self->tokens[i] = ids[i / block];
    return count;
}

static void hand_over(struct replay *self, size_t r, const dyn_router_choice *choice)
{
    struct worker *w = &self->workers[choice->worker];
    size_t count = write_prompt(self, r), output = self->trace->output_tokens[r];
    self->tickets[r] = choice->ticket;
    self->results[r].worker = (uint32_t)choice->worker;
    self->results[r].overlap_blocks = choice->overlap_blocks;
    int rc = dyn_mocker_submit(w->mocker, r, self->tokens, count, output ? output : 1);
    if (rc < 0) {
        dyn_router_free(self->router, choice->ticket);
        refuse(self, r, rc);
        return;
    }
    begin_step(self, w);
}

static void on_ready(void *user, int rc, const dyn_router_choice *choice)
{
    struct waiting *waiting = user;
    if (rc == DYN_OK)
        hand_over(waiting->replay, waiting->request, choice);
    else
        refuse(waiting->replay, waiting->request, rc);
    dyn__free(waiting);
}

static void arrive(struct replay *self, size_t r)
{
    size_t count = write_prompt(self, r), size = self->config->engine.block_size;
    size_t blocks = dyn_hash_block_count(count, size, false), found = 0;
    dyn_router_choice choice;
    dyn_router_request request = {.book = true, .tokens = count, .blocks = blocks, .sequence = self->sequences};

    dyn_hash_blocks(self->tokens, count, size, false, DYN_HASH_SEED, self->locals);
    dyn_hash_chain(self->locals, blocks, NULL, self->sequences);
    if (self->config->router.policy == DYN_ROUTER_KV)
        found = dyn_index_find(self->index, self->locals, blocks, self->overlaps, self->config->workers);
    /* router.h promises that its rows are index.h's. */
    request.overlap = (dyn_router_overlap){.count = found, .rows = (const dyn_router_held *)self->overlaps};
    struct waiting *waiting = dyn__malloc(sizeof(*waiting));
    if (waiting == NULL) {
        self->failed = DYN_ENOMEM;
        return;
    }
    *waiting = (struct waiting){self, r};
    request.ready = on_ready;
    request.user = waiting;
    int rc = dyn_router_pick(self->router, &request, &choice, NULL, 0, NULL);
    if (rc == DYN_EAGAIN) return; /* on_ready has it */
    dyn__free(waiting);
    if (rc < 0)
        refuse(self, r, rc);
    else
        hand_over(self, r, &choice);
}

/* ---- all of it ------------------------------------------------------------------------------------- */

static int check_trace(const dyn_replay_config *config, const dyn_replay_trace *trace, size_t *longest)
{
    if (config->workers == 0) return dyn__fail(DYN_EINVAL, "0 workers: there must be 1 or more");
    if (!(config->arrival_speedup > 0.0))
        return dyn__fail(DYN_EINVAL, "arrival_speedup %g: must be above 0", config->arrival_speedup);
    if (config->engine.block_size == 0) return dyn__fail(DYN_EINVAL, "block_size 0: must be 1 or more");
    if (trace->trace_block == 0) return dyn__fail(DYN_EINVAL, "trace_block 0: must be 1 or more");
    *longest = 1;
    for (size_t i = 0; i < trace->count; i++) {
        if (i > 0 && trace->arrival_ms[i] < trace->arrival_ms[i - 1])
            return dyn__fail(DYN_EINVAL, "request %zu arrives before the one above it", i);
        size_t have = (trace->first[i + 1] - trace->first[i]) * trace->trace_block;
        if (trace->input_tokens[i] == 0 || trace->input_tokens[i] > have)
            return dyn__fail(DYN_EINVAL, "request %zu has %u input tokens but blocks for %zu", i,
                             trace->input_tokens[i], have);
        if (trace->input_tokens[i] > *longest) *longest = trace->input_tokens[i];
    }
    return DYN_OK;
}

static int set_up(struct replay *self, size_t longest)
{
    const dyn_replay_config *config = self->config;
    size_t n = self->trace->count, blocks = longest / config->engine.block_size + 1;
    dyn_router_config router = config->router;
    int rc;

    self->workers = dyn__calloc(config->workers, sizeof(*self->workers));
    self->due = dyn__calloc(config->workers, sizeof(*self->due));
    self->first_token = dyn__calloc(n, sizeof(*self->first_token));
    self->tickets = dyn__calloc(n, sizeof(*self->tickets));
    self->generated = dyn__calloc(n, sizeof(*self->generated));
    self->tokens = dyn__calloc(longest, sizeof(*self->tokens));
    self->locals = dyn__calloc(blocks, sizeof(*self->locals));
    self->sequences = dyn__calloc(blocks, sizeof(*self->sequences));
    self->overlaps = dyn__calloc(config->workers, sizeof(*self->overlaps));
    if (!self->workers || !self->due || !self->first_token || !self->tickets || !self->generated || !self->tokens ||
        !self->locals || !self->sequences || !self->overlaps)
        return DYN_ENOMEM;
    router.block_size = (uint32_t)config->engine.block_size;
    router.clock = simulated_clock;
    router.clock_user = self;
    router.expiry_seconds = 0; /* simulated requests do not get lost */
    if ((rc = dyn_router_new(&self->router, &router)) < 0 || (rc = dyn_index_new(&self->index, NULL)) < 0) return rc;
    for (size_t i = 0; i < config->workers; i++) {
        struct worker *w = &self->workers[i];
        const dyn_mocker_sink sink = {w, keep_token, keep_stored, keep_removed, NULL};
        const dyn_router_worker row = {.worker = i,
                                       .total_kv_blocks = config->engine.blocks,
                                       .max_num_batched_tokens = config->engine.max_batched_tokens};
        w->replay = self;
        w->number = (uint32_t)i;
        w->tokens = dyn__malloc(config->engine.max_sequences * sizeof(*w->tokens));
        if (w->tokens == NULL) return DYN_ENOMEM;
        if ((rc = dyn_mocker_new(&w->mocker, &config->engine, &sink)) < 0) return rc;
        if ((rc = dyn_router_put_worker(self->router, &row)) < 0) return rc;
    }
    return DYN_OK;
}

static void tear_down(struct replay *self)
{
    self->now = 0;
    dyn_router_unref(self->router);
    dyn_index_unref(self->index);
    for (size_t i = 0; self->workers != NULL && i < self->config->workers; i++) {
        dyn_mocker_free(self->workers[i].mocker);
        dyn__free(self->workers[i].tokens);
        dyn__free(self->workers[i].changes);
        dyn__free(self->workers[i].hashes);
    }
    dyn__free(self->workers);
    dyn__free(self->due);
    dyn__free(self->first_token);
    dyn__free(self->tickets);
    dyn__free(self->generated);
    dyn__free(self->tokens);
    dyn__free(self->locals);
    dyn__free(self->sequences);
    dyn__free(self->overlaps);
}

static int run(struct replay *self)
{
    const dyn_replay_trace *trace = self->trace;
    const dyn_replay_config *config = self->config;
    size_t next = 0, told = 0;
    while (next < trace->count || self->due_count > 0) {
        double arrival = next < trace->count ? trace->arrival_ms[next] / config->arrival_speedup : 0.0;
        if (next < trace->count && (self->due_count == 0 || arrival <= self->due[0].at)) {
            self->now = arrival;
            arrive(self, next++);
        } else {
            struct due due = due_pop(self);
            self->now = due.at;
            end_step(self, due.worker);
        }
        if (self->failed < 0) return self->failed;
        if (config->progress != NULL && self->done >= told + 64) {
            int rc = config->progress(config->user, told = self->done, trace->count);
            if (rc < 0) return rc;
        }
    }
    return DYN_OK;
}

int dyn_replay_run(const dyn_replay_config *config, const dyn_replay_trace *trace, dyn_replay_result *results,
                   dyn_replay_summary *summary)
{
    struct replay self = {.config = config, .trace = trace, .results = results, .summary = summary};
    size_t longest = 1;
    int rc = check_trace(config, trace, &longest);
    if (rc < 0) return rc;
    memset(summary, 0, sizeof(*summary));
    for (size_t i = 0; i < trace->count; i++)
        results[i] = (dyn_replay_result){.ttft_ms = -1.0, .itl_ms = -1.0, .total_ms = -1.0};
    rc = set_up(&self, longest);
    if (rc == DYN_OK) rc = run(&self);
    if (rc == DYN_OK) {
        double start = trace->count > 0 ? trace->arrival_ms[0] / config->arrival_speedup : 0.0;
        dyn_index_stats stats;
        dyn_index_stats_get(self.index, &stats);
        summary->duration_ms = self.now - start;
        summary->index_bytes = stats.bytes;
        for (size_t i = 0; i < config->workers; i++) {
            dyn_mocker_stats engine;
            dyn_mocker_get_stats(self.workers[i].mocker, &engine);
            summary->prompt_tokens += engine.prompt_tokens;
            summary->cached_tokens += engine.cached_tokens;
            summary->prefilled_tokens += engine.prefilled_tokens;
            summary->generated_tokens += engine.generated_tokens;
            summary->preemptions += engine.preemptions;
            summary->evicted_blocks += engine.evicted_blocks;
        }
    }
    /* Only when progress() or memory ended it early: who still waits in the queue is told as refused. */
    tear_down(&self);
    return rc;
}
