/* queue.c -- requests that wait while every worker they may use has too much to prefill.
 *
 * A binary heap, the first to go on top: higher strict_priority, then higher key, then earlier arrival. Whoever makes
 * room (prefill_done, free, a new worker, an expiry) drains it under the lock and calls `ready` after it.
 * I5  heap[i]->place == i.
 */
#include "router/router.h"

#define TRIES 32 /* waiting requests that one drain looks at and has to leave: a bound on time under the lock */

static bool before(const struct waiter *a, const struct waiter *b)
{
    if (a->request.strict_priority != b->request.strict_priority)
        return a->request.strict_priority > b->request.strict_priority;
    if (a->key != b->key) return a->key > b->key;
    return a->order < b->order;
}

static void put(dyn_router *self, size_t i, struct waiter *waiter)
{
    self->heap[i] = waiter;
    waiter->place = (uint32_t)i;
}

static void up(dyn_router *self, size_t i, struct waiter *waiter)
{
    while (i > 0 && before(waiter, self->heap[(i - 1) / 2])) {
        put(self, i, self->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    put(self, i, waiter);
}

static void down(dyn_router *self, size_t i, struct waiter *waiter)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= self->waiting) break;
        if (child + 1 < self->waiting && before(self->heap[child + 1], self->heap[child])) child++;
        if (!before(self->heap[child], waiter)) break;
        put(self, i, self->heap[child]);
        i = child;
    }
    put(self, i, waiter);
}

static void out_of_heap(dyn_router *self, struct waiter *waiter)
{
    size_t i = waiter->place;
    struct waiter *last = self->heap[--self->waiting];
    if (last == waiter) return;
    if (i > 0 && before(last, self->heap[(i - 1) / 2]))
        up(self, i, last);
    else
        down(self, i, last);
}

static size_t round_up(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

/* Copy `size` bytes to *at and move it on; NULL stays NULL. */
static const void *keep(char **at, const void *from, size_t size)
{
    if (from == NULL || size == 0) return NULL;
    void *to = memcpy(*at, from, size);
    *at += round_up(size);
    return to;
}

static size_t text_bytes(const char *const *texts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) size += strlen(texts[i]) + 1;
    return round_up(size) + count * sizeof(char *);
}

static const char *const *keep_texts(char **at, const char *const *texts, size_t count)
{
    if (count == 0) return NULL;
    char **copy = (char **)(void *)*at, *text = *at + count * sizeof(char *);
    *at += text_bytes(texts, count);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(texts[i]) + 1;
        copy[i] = memcpy(text, texts[i], length);
        text += length;
    }
    return (const char *const *)copy;
}

static size_t copy_bytes(const dyn_router_request *r)
{
    const dyn_router_overlap *o = &r->overlap;
    return round_up(sizeof(struct waiter)) + (r->sequence ? r->blocks * 8 : 0) + o->count * sizeof(*o->rows) +
           2 * round_up(o->count * 4) + r->allowed_count * 8 + r->preferred_taint_count * 8 +
           text_bytes(r->required_taints, r->required_taint_count) +
           text_bytes(r->preferred_taints, r->preferred_taint_count);
}

static void copy_request(struct waiter *waiter, const dyn_router_request *r)
{
    const dyn_router_overlap *o = &r->overlap;
    char *at = (char *)waiter + round_up(sizeof(*waiter));
    dyn_router_request *to = &waiter->request;
    *to = *r;
    to->name = NULL; /* the entry has it */
    to->sequence = keep(&at, r->sequence, r->blocks * 8);
    to->overlap.rows = keep(&at, o->rows, o->count * sizeof(*o->rows));
    to->overlap.host = keep(&at, o->host, o->count * 4);
    to->overlap.disk = keep(&at, o->disk, o->count * 4);
    to->allowed = keep(&at, r->allowed, r->allowed_count * 8);
    to->preferred_weights = keep(&at, r->preferred_weights, r->preferred_taint_count * 8);
    to->required_taints = keep_texts(&at, r->required_taints, r->required_taint_count);
    to->preferred_taints = keep_texts(&at, r->preferred_taints, r->preferred_taint_count);
    assert((size_t)(at - (char *)waiter) <= waiter->bytes);
}

static double key_of(const dyn_router *self, const dyn_router_request *request, uint64_t now)
{
    double jump = request->priority_jump > 0 ? request->priority_jump : 0;
    double arrival = (double)(now - self->start_ns) * 1e-9;
    uint32_t overlap = 0;

    switch (self->config.queue_policy) {
    case DYN_ROUTER_LCFS: return jump + arrival;
    case DYN_ROUTER_WSPT: {
        /* The least uncached tokens of any worker that it may use: prepare() has just listed them. */
        for (uint32_t i = 0; i < self->slot_used; i++)
            if (self->slots[i].alive && self->scores[i].verdict == DYN_ROUTER_ELIGIBLE &&
                self->scores[i].overlap > overlap)
                overlap = self->scores[i].overlap;
        uint64_t cached = (uint64_t)overlap * self->config.block_size;
        return (1 + jump) / (double)(request->tokens > cached ? request->tokens - cached : 1);
    }
    case DYN_ROUTER_FCFS:
    default: return jump - arrival;
    }
}

int dyn__router_wait(dyn_router *self, const dyn_router_request *request, uint32_t entry, uint64_t now)
{
    size_t bytes = copy_bytes(request);
    int rc;

    if (self->waiting == self->heap_room) {
        size_t want = self->heap_room ? self->heap_room * 2 : 16;
        if ((rc = dyn__router_grow(self, &self->heap, sizeof(*self->heap), self->heap_room, want)) < 0) return rc;
        self->heap_room = want;
    }
    struct waiter *waiter = dyn__router_take(self, bytes, &rc);
    if (waiter == NULL) return rc;
    *waiter = (struct waiter){.bytes = bytes,
                              .entry = entry,
                              .key = key_of(self, request, now),
                              .order = self->order++,
                              .ticket = dyn__router_ticket_of(self, entry)};
    copy_request(waiter, request);
    self->entries[entry].waiter = waiter;
    self->waiting++;
    self->waits++;
    up(self, self->waiting - 1, waiter);
    return DYN_OK;
}

struct waiter *dyn__router_leave(dyn_router *self, uint32_t entry, int rc)
{
    struct waiter *waiter = self->entries[entry].waiter;
    out_of_heap(self, waiter);
    self->bytes -= waiter->bytes;
    dyn__router_entry_drop(self, entry);
    waiter->rc = rc;
    return waiter;
}

struct waiter *dyn__router_drain(dyn_router *self, uint64_t now)
{
    struct waiter *done = NULL, **tail = &done, *aside[TRIES];
    size_t left = 0;

    while (self->waiting > 0 && left < TRIES) {
        struct waiter *waiter = self->heap[0];
        const dyn_router_request *r = &waiter->request;
        uint32_t entry = waiter->entry;
        out_of_heap(self, waiter);
        int rc = dyn__router_place(self, r, now, &entry, &waiter->choice);
        if (rc == DYN_EAGAIN || rc == DYN_EOVERLOAD) {
            aside[left++] = waiter;
            /* No worker has room for one that may go anywhere: nobody behind it can be luckier. */
            if (!r->pinned && !r->only_allowed && r->rank_count == 0 && r->required_taint_count == 0) break;
            continue;
        }
        waiter->rc = rc;
        self->bytes -= waiter->bytes;
        self->entries[entry].waiter = NULL;
        if (rc < 0) dyn__router_entry_drop(self, entry);
        *tail = waiter;
        tail = &waiter->next;
    }
    for (size_t i = 0; i < left; i++) up(self, self->waiting++, aside[i]);
    return done;
}

void dyn__router_finish(struct waiter *done)
{
    while (done != NULL) {
        struct waiter *next = done->next;
        done->request.ready(done->request.user, done->rc, done->rc == DYN_OK ? &done->choice : NULL);
        dyn__free(done);
        done = next;
    }
}
