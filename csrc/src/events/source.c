/* source.c -- see events/source.h. */
#include <errno.h>
#include <math.h>

#include "dynamo/hash.h"
#include "events/source.h"

enum { COMPLAINTS = 3 };
static const uint64_t REPLAY_PATIENCE_NS = 2000000000; /* without an answer */

/* ---- messages --------------------------------------------------------------------------------- */

void dyn__message_init(struct dyn__message *self)
{
    self->count = 0;
}

void dyn__message_close(struct dyn__message *self)
{
    for (int i = 0; i < self->count && i < DYN__MAX_FRAMES; i++) zmq_msg_close(&self->frame[i]);
    self->count = 0;
}

int dyn__message_recv(struct dyn__message *self, void *socket)
{
    dyn__message_init(self);
    for (bool more = true; more;) {
        zmq_msg_t extra, *part = self->count < DYN__MAX_FRAMES ? &self->frame[self->count] : &extra;
        zmq_msg_init(part);
        int rc;
        do rc = zmq_msg_recv(part, socket, ZMQ_DONTWAIT);
        while (rc < 0 && errno == EINTR);
        if (rc < 0) {
            zmq_msg_close(part);
            dyn__message_close(self);
            return DYN_EAGAIN;
        }
        more = zmq_msg_more(part);
        if (self->count <= DYN__MAX_FRAMES) self->count++;
        if (part == &extra) zmq_msg_close(part);
    }
    return DYN_OK;
}

static const uint8_t *bytes_of(struct dyn__message *m, int i)
{
    return zmq_msg_data(&m->frame[i]);
}

static size_t size_of(struct dyn__message *m, int i)
{
    return zmq_msg_size(&m->frame[i]);
}

/* What a message carries, live or replayed. */
struct batch {
    bool plane, load;
    uint64_t sequence, publisher;
    const uint8_t *payload;
    size_t size;
};

static void complain(dyn_event_source *self, const char *what)
{
    DYN__ADD(self->malformed, 1);
    if (self->complaints++ < COMPLAINTS) {
        dyn_log(DYN_LOG_WARN, "events", "worker %llu, %s: a message was skipped: %s",
                (unsigned long long)self->o.worker_id, self->endpoint, what);
    }
    dyn_error_clear();
}

/* topic | [publisher] | sequence | payload, from frame `first` on. */
static bool open_batch(dyn_event_source *self, struct dyn__message *m, int first, struct batch *out)
{
    int count = m->count - first;
    if (count != 3 && count != 4) return complain(self, "it has neither 3 nor 4 frames"), false;
    *out = (struct batch){.plane = count == 4};
    int number = first + count - 2;
    if (size_of(m, number) != 8 || (out->plane && size_of(m, first + 1) != 8)) {
        return complain(self, "its number is not 8 bytes long"), false;
    }
    out->sequence = dyn__get_u64(bytes_of(m, number));
    if (out->plane) {
        size_t size = size_of(m, first), tail = strlen(DYN__TOPIC_LOAD);
        out->publisher = dyn__get_u64(bytes_of(m, first + 1));
        out->load = size >= tail && memcmp(bytes_of(m, first) + size - tail, DYN__TOPIC_LOAD, tail) == 0;
    }
    out->payload = bytes_of(m, number + 1), out->size = size_of(m, number + 1);
    return true;
}

static uint64_t hash(const struct batch *b)
{
    return dyn_hash_seed((const char *)b->payload, b->size, NULL, 0);
}

/* When the batch was published, by its own clock; NAN when it does not say. */
static double time_of(const struct batch *b)
{
    struct dyn__mp c = {b->payload, b->payload + b->size, b->payload};
    struct dyn__mp_item item;
    double when = NAN;
    if (b->plane) {
        struct dyn__envelope envelope;
        if (dyn__plane_open(b->payload, b->size, &envelope) == DYN_OK) when = (double)envelope.published_at;
    } else if (dyn__mp_next(&c, &item) == DYN_OK && item.kind == MP_ARRAY && item.size > 0 &&
               dyn__mp_next(&c, &item) == DYN_OK) {
        when = item.kind == MP_FLOAT ? item.f : item.kind == MP_UINT ? (double)item.u : NAN;
    }
    dyn_error_clear();
    return when;
}

/* ---- handing on ------------------------------------------------------------------------------- */

static void remember_rank(dyn_event_source *self, uint64_t worker, uint32_t rank)
{
    for (unsigned i = 0; i < self->rank_count; i++) {
        if (self->ranks[i].worker == worker && self->ranks[i].rank == rank) return;
    }
    if (self->rank_count < DYN__MAX_RANKS) self->ranks[self->rank_count++] = (struct dyn__rank){worker, rank};
}

static int hand_on(void *self_, const dyn_event *event)
{
    dyn_event_source *self = self_;
    const dyn_kv_sink *sink = &self->o.sink;
    uint64_t worker = self->o.worker_from_event ? event->worker_id : self->o.worker_id;
    int rc = DYN_OK;

    DYN__ADD(self->events, 1);
    DYN__ADD(self->blocks, event->count);
    remember_rank(self, worker, event->dp_rank);
    if (self->o.event) {
        dyn_event copy = *event;
        copy.worker_id = worker;
        rc = self->o.event(self->o.user, &copy);
    } else if (event->kind == DYN_EVENT_CLEARED) {
        if (sink->cleared) rc = sink->cleared(sink->user, worker, event->dp_rank);
    } else if (event->tier != DYN_TIER_DEVICE) {
        DYN__ADD(self->other_tier, 1);
    } else if (event->kind == DYN_EVENT_REMOVED) {
        if (sink->removed) rc = sink->removed(sink->user, worker, event->dp_rank, event->block_hashes, event->count);
    } else if (sink->stored) {
        rc = sink->stored(sink->user, worker, event->dp_rank, event->has_parent ? &event->parent : NULL,
                          event->block_hashes, event->tokens_hashes, event->count);
    }
    if (rc < 0) {
        DYN__ADD(self->refused, 1);
        dyn_error_clear();
    }
    return DYN_OK; /* one refused event does not stop the batch */
}

static void clear(dyn_event_source *self)
{
    for (unsigned i = 0; i < self->rank_count; i++) {
        struct dyn__rank *r = &self->ranks[i];
        if (self->o.event) {
            dyn_event cleared = {.kind = DYN_EVENT_CLEARED, .worker_id = r->worker, .dp_rank = r->rank};
            self->o.event(self->o.user, &cleared);
        } else if (self->o.sink.cleared) {
            self->o.sink.cleared(self->o.sink.user, r->worker, r->rank);
        }
    }
    self->rank_count = 0;
}

static void publish_decoder_stats(dyn_event_source *self)
{
    dyn_event_decoder_stats s;
    dyn_event_decoder_get_stats(self->decoder, &s);
    const uint64_t v[7] = {s.batches,         s.events,       s.unknown,      s.wrong_block_size,
                           s.short_of_tokens, s.ignored_kind, s.ignored_place};
    for (int i = 0; i < 7; i++) DYN__SET(self->decoder_stats[i], v[i]);
}

/* Use a batch: it is the next one, or the first. What cannot be read is skipped: its number is used up. */
static void use(dyn_event_source *self, const struct batch *b)
{
    uint64_t now = dyn_now_ns();
    int rc;
    self->known = true;
    self->next_sequence = b->sequence + 1;
    self->last_hash = hash(b);
    self->last_time = time_of(b);
    if (b->plane) self->publisher = b->publisher;
    if (b->plane) {
        struct dyn__envelope envelope;
        rc = dyn__plane_open(b->payload, b->size, &envelope);
        if (rc == DYN_OK) rc = dyn__plane_events(envelope.payload, envelope.size, &self->scratch, hand_on, self);
    } else if (self->decoder == NULL) {
        rc = dyn__fail(DYN_EPROTO, "it comes from an engine, and no block size was given for this source");
    } else {
        rc = dyn_event_decode(self->decoder, b->payload, b->size, self->o.dp_rank, hand_on, self);
        publish_decoder_stats(self);
    }
    if (rc < 0) complain(self, dyn_error_detail()[0] ? dyn_error_detail() : dyn_strerror(rc));
    DYN__ADD(self->batches, 1);
    DYN__SET(self->a_next, self->next_sequence);
    DYN__SET(self->seen_any, true);
    DYN__SET(self->last_event_ns, now);
    DYN__SET(self->expected_at, 0);
    if (DYN__GET(self->silent)) {
        DYN__SET(self->silent, false);
        dyn_log(DYN_LOG_INFO, "events", "worker %llu, %s: events come again", (unsigned long long)self->o.worker_id,
                self->endpoint);
    }
}

static void use_load(dyn_event_source *self, const struct batch *b)
{
    struct dyn__envelope envelope;
    dyn_load load;
    int rc = dyn__plane_open(b->payload, b->size, &envelope);
    if (rc == DYN_OK) rc = dyn__plane_load(envelope.payload, envelope.size, &load);
    if (rc < 0) {
        complain(self, dyn_error_detail());
        return;
    }
    if (!self->o.worker_from_event) load.worker_id = self->o.worker_id;
    DYN__ADD(self->loads, 1);
    if (self->o.load) self->o.load(self->o.load_user, &load);
}

static void lose(dyn_event_source *self, uint64_t from, uint64_t to)
{
    DYN__ADD(self->lost, to - from);
    dyn_log(DYN_LOG_WARN, "events",
            "worker %llu, %s: batches %llu to %llu of its events are lost%s: what is known of its cache may be wrong",
            (unsigned long long)self->o.worker_id, self->endpoint, (unsigned long long)from, (unsigned long long)to - 1,
            self->replay_endpoint ? "" : " (no replay endpoint was given)");
}

static void restarted(dyn_event_source *self)
{
    DYN__ADD(self->restarts, 1);
    dyn_log(DYN_LOG_WARN, "events", "worker %llu, %s: its publisher was started again; its blocks are cleared",
            (unsigned long long)self->o.worker_id, self->endpoint);
    clear(self);
    self->known = self->live_known = false;
    self->next_sequence = 0;
    DYN__SET(self->a_next, 0);
}

/* ---- replay ----------------------------------------------------------------------------------- */

static void end_replay(dyn_event_source *self)
{
    self->snapshot = self->told = false;
    if (self->replay) zmq_close(self->replay);
    self->replay = NULL;
    self->idle_since = dyn_now_ns();
    DYN__SET(self->replaying, false);
}

void dyn__source_ask(dyn_event_source *self, void *context)
{
    int zero = 0, hwm = 0;
    int64_t max = INT64_C(64) << 20;
    uint8_t number[8];
    bool plane = self->decoder == NULL; /* an engine understands two frames only */
    if (self->replay_endpoint == NULL || self->replay) return;
    /* The last one that we have comes along: if it is another now, so is the publisher. */
    self->verify = self->known;
    self->verified = false;
    dyn__put_u64(number, self->known ? self->next_sequence - 1 : 0);
    if ((self->replay = zmq_socket(context, ZMQ_DEALER)) == NULL) return;
    zmq_setsockopt(self->replay, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(self->replay, ZMQ_RCVHWM, &hwm, sizeof(hwm)); /* the publisher's ring is the bound */
    zmq_setsockopt(self->replay, ZMQ_MAXMSGSIZE, &max, sizeof(max));
    if (zmq_connect(self->replay, self->replay_endpoint) < 0 ||
        zmq_send(self->replay, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(self->replay, number, sizeof(number), ZMQ_DONTWAIT | (plane ? ZMQ_SNDMORE : 0)) < 0 ||
        (plane && zmq_send(self->replay, DYN__SNAPSHOT, strlen(DYN__SNAPSHOT), ZMQ_DONTWAIT) < 0)) {
        dyn__source_give_up(self, zmq_strerror(errno));
        return;
    }
    self->replay_until = dyn_now_ns() + REPLAY_PATIENCE_NS;
    DYN__ADD(self->replays, 1);
    DYN__SET(self->replaying, true);
}

/* The live message that made us ask is due now: nothing more can be fetched before it. */
static void release_held(dyn_event_source *self)
{
    struct batch b;
    if (!self->holding) return;
    self->holding = false;
    if (open_batch(self, &self->held, 0, &b)) {
        if (b.sequence > self->next_sequence && self->known) {
            lose(self, self->next_sequence, b.sequence);
        } else if (!self->known && b.sequence > 0) {
            lose(self, 0, b.sequence);
        }
        self->last_live = b.sequence, self->live_known = true;
        if (!self->known || b.sequence >= self->next_sequence) use(self, &b);
    }
    dyn__message_close(&self->held);
}

void dyn__source_give_up(dyn_event_source *self, const char *why)
{
    if (DYN__ADD(self->replay_failures, 1) == 0) {
        dyn_log(DYN_LOG_WARN, "events", "worker %llu: no replay of its events from %s: %s",
                (unsigned long long)self->o.worker_id, self->replay_endpoint, why);
    }
    if (self->snapshot) { /* half of it is worse than none */
        clear(self);
        self->known = self->live_known = false;
        self->next_sequence = 0;
    }
    end_replay(self);
    release_held(self);
}

/* A part of what the worker holds, in place of batches that are gone. */
static void use_snapshot(dyn_event_source *self, const struct batch *b)
{
    struct dyn__envelope envelope;
    if (!self->snapshot) {
        clear(self);
        DYN__ADD(self->snapshots, 1);
        dyn_log(DYN_LOG_INFO, "events", "worker %llu, %s: too much was missed to be replayed; its blocks are told anew",
                (unsigned long long)self->o.worker_id, self->endpoint);
    }
    self->snapshot = self->told = self->known = self->verified = true;
    self->publisher = b->publisher;
    self->next_sequence = b->sequence + 1;
    int rc = dyn__plane_open(b->payload, b->size, &envelope);
    if (rc == DYN_OK) rc = dyn__plane_events(envelope.payload, envelope.size, &self->scratch, hand_on, self);
    if (rc < 0) complain(self, dyn_error_detail()[0] ? dyn_error_detail() : dyn_strerror(rc));
    DYN__SET(self->a_next, self->next_sequence);
    DYN__SET(self->seen_any, true);
    DYN__SET(self->last_event_ns, dyn_now_ns());
}

static void rebuild(dyn_event_source *self, void *context)
{
    end_replay(self); /* with a new socket no late answer of the old replay can come */
    restarted(self);
    dyn__source_ask(self, context);
}

/* Batches are missing inside a replay: the ring went on while it was sent. A publisher of ours can tell more. */
static bool ask_again(dyn_event_source *self, void *context)
{
    if (self->decoder != NULL || !self->known || self->asked_again >= (self->told ? 5u : 1u)) return false;
    self->asked_again++;
    end_replay(self);
    dyn__source_ask(self, context);
    return self->replay != NULL;
}

void dyn__source_replayed(dyn_event_source *self, void *context, struct dyn__message *m)
{
    struct batch b;
    /* ["", (topic, (publisher,)) number, payload]: engines to 2025 send no topic */
    int first = m->count == 3 ? 0 : 1;
    if (m->count == 6 && size_of(m, 0) == 0 && size_of(m, 5) == strlen(DYN__SNAPSHOT) &&
        memcmp(bytes_of(m, 5), DYN__SNAPSHOT, strlen(DYN__SNAPSHOT)) == 0) {
        zmq_msg_close(&m->frame[--m->count]);
        if (open_batch(self, m, first, &b)) use_snapshot(self, &b);
        self->replay_until = dyn_now_ns() + REPLAY_PATIENCE_NS;
        self->answered = true;
    } else if (m->count < 3 || m->count > 5 || size_of(m, 0) != 0 || size_of(m, m->count - 2) != 8) {
        complain(self, "an answer of its replay has the wrong frames");
    } else if (dyn__get_u64(bytes_of(m, m->count - 2)) == UINT64_MAX) {
        /* All is here. If not even our last one came, the publisher has never heard of it. */
        if (self->verify && !self->verified && self->answered) {
            rebuild(self, context);
        } else {
            self->asked_again = 0;
            end_replay(self);
            release_held(self);
        }
    } else if (open_batch(self, m, first, &b)) {
        self->replay_until = dyn_now_ns() + REPLAY_PATIENCE_NS;
        self->answered = true;
        if (self->snapshot && b.sequence + 1 == self->next_sequence) { /* the last one that it includes: it is whole */
            self->last_hash = hash(&b);
            self->last_time = time_of(&b);
            self->snapshot = self->verify = false;
            DYN__SET(self->expected_at, 0);
            dyn__message_close(m);
            return;
        }
        if (self->verify && ((self->known && b.plane && b.publisher != self->publisher) ||
                             (b.sequence + 1 == self->next_sequence && hash(&b) != self->last_hash))) {
            dyn__message_close(m);
            rebuild(self, context);
            return;
        }
        if (b.sequence > self->next_sequence && ask_again(self, context)) {
            dyn__message_close(m);
            return;
        }
        if (b.sequence + 1 >= self->next_sequence) self->verified = true;
        if (b.sequence >= self->next_sequence) {
            if (b.sequence > self->next_sequence) lose(self, self->next_sequence, b.sequence);
            use(self, &b);
            DYN__ADD(self->replayed, 1);
        }
    }
    dyn__message_close(m);
}

/* ---- live ------------------------------------------------------------------------------------- */

static void hold_and_ask(dyn_event_source *self, void *context, struct dyn__message *m)
{
    self->held.count = m->count;
    for (int i = 0; i < m->count; i++) {
        zmq_msg_init(&self->held.frame[i]);
        zmq_msg_move(&self->held.frame[i], &m->frame[i]);
    }
    self->holding = true;
    dyn__source_ask(self, context);
    if (self->replay == NULL) release_held(self); /* there is nowhere to ask */
}

void dyn__source_live(dyn_event_source *self, void *context, struct dyn__message *m)
{
    struct batch b;
    self->idle_since = dyn_now_ns();
    if (!open_batch(self, m, 0, &b)) {
        dyn__message_close(m);
        return;
    }
    if (b.load) {
        use_load(self, &b);
        dyn__message_close(m);
        return;
    }
    if (self->known && b.plane && b.publisher != self->publisher) {
        restarted(self);
    } else if (self->known && b.sequence < self->next_sequence) {
        /* Backwards in what comes live: a restart. Otherwise a replay has brought it before its turn, unless it was
         * published after what we had. */
        if ((self->live_known && b.sequence <= self->last_live) || time_of(&b) > self->last_time) {
            restarted(self);
        } else {
            self->last_live = b.sequence, self->live_known = true;
            dyn__message_close(m);
            return;
        }
    }
    if (b.sequence > self->next_sequence) {
        if (self->known) DYN__ADD(self->gaps, 1);
        hold_and_ask(self, context, m);
    } else {
        self->last_live = b.sequence, self->live_known = true;
        use(self, &b);
    }
    dyn__message_close(m);
}

void dyn__source_free(dyn_event_source *self)
{
    if (self == NULL) return;
    if (self->holding) dyn__message_close(&self->held);
    if (self->monitor) zmq_close(self->monitor);
    if (self->live) zmq_close(self->live);
    if (self->replay) zmq_close(self->replay);
    dyn_event_decoder_free(self->decoder);
    dyn_event_reset(&self->scratch);
    dyn__free(self->endpoint);
    dyn__free(self->replay_endpoint);
    dyn__free(self->topic);
    dyn__free(self);
}
