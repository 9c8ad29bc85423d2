/* sub.c -- see dynamo/events.h for the contract, events/source.h for what a message means.
 *
 *   add, remove --list under `lock`, a byte into the pipe--> thread: zmq_poll over the pipe and all sources
 *
 * I1  Sockets are made by the thread that calls add and from then on used by the subscriber's thread only; the
 *     lock lies between.
 * I2  A source is freed by the thread that calls remove, after the subscriber's thread has let it go (`gone`).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "events/source.h"

enum { TURN = 256, TICK_MS = 200 }; /* messages of one source before the others have their turn */
static const uint64_t SETTLE_NS = 200000000, CATCH_UP_NS = 5000000000, CONNECT_NS = 10000000000;

enum shown { CONNECTED, SILENT, AGE, EVENTS, GAPS, LOST, RESTARTS, REFUSED, MALFORMED, SHOWN };

struct dyn_event_sub {
    pthread_mutex_t lock;
    pthread_cond_t left; /* a source is gone, or the thread has ended */
    void *context;
    int wake[2];
    pthread_t thread;
    bool has_thread, stopping;
    uint64_t silence_ns;
    dyn_metrics *registry; /* a reference, or NULL */
    dyn_metric *metrics[SHOWN];
    dyn_event_source *sources;
    unsigned count, made; /* made: for names of monitors */
    struct room {
        zmq_pollitem_t *items; /* the pipe, then two for each source */
        dyn_event_source **polled;
        unsigned size; /* sources that there is room for */
    } room, bigger;    /* the thread's; what the next turn takes instead, made by add */
};

static int make_room(struct room *room, unsigned size)
{
    room->items = dyn__calloc(1 + 2 * (size_t)size, sizeof(*room->items));
    room->polled = dyn__calloc(size, sizeof(*room->polled));
    room->size = size;
    return room->items && room->polled ? DYN_OK : DYN_ENOMEM;
}

static void free_room(struct room *room)
{
    dyn__free(room->items);
    dyn__free(room->polled);
    *room = (struct room){0};
}

static void wake(dyn_event_sub *self)
{
    ssize_t n;
    do n = write(self->wake[1], "", 1);
    while (n < 0 && errno == EINTR);
}

/* ---- the thread ------------------------------------------------------------------------------- */

static void read_monitor(dyn_event_source *s)
{
    struct dyn__message m;
    while (dyn__message_recv(&m, s->monitor) == DYN_OK) {
        if (m.count >= 1 && zmq_msg_size(&m.frame[0]) >= 2) {
            uint16_t event;
            memcpy(&event, zmq_msg_data(&m.frame[0]), sizeof(event));
            bool connected = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
            if (connected) s->fresh = true, s->idle_since = dyn_now_ns();
            DYN__SET(s->connected, connected);
        }
        dyn__message_close(&m);
    }
}

/* What time does: give up a replay, catch up when nothing comes, name who is silent. */
static void look_at_clock(dyn_event_sub *self, dyn_event_source *s, uint64_t now)
{
    unsigned long long worker = s->o.worker_id;
    if (s->replay) {
        if (now > s->replay_until) dyn__source_give_up(s, "no answer within 2 s");
    } else if (s->replay_endpoint && DYN__GET(s->connected)) {
        /* Once soon after connecting: what was published before the subscription stood was missed. Then now and
         * then: the last batch of a burst may have been dropped, and a restart may have been silent. */
        if (now - s->idle_since > (s->fresh ? SETTLE_NS : CATCH_UP_NS)) {
            s->fresh = false;
            dyn__source_ask(s, self->context);
        }
    }
    uint64_t expected = DYN__GET(s->expected_at);
    if (expected && now > expected && now - expected > self->silence_ns && !DYN__GET(s->silent)) {
        DYN__SET(s->silent, true);
        dyn_log(DYN_LOG_WARN, "events",
                "worker %llu answers requests, but no KV events come from it (%s, %s): it is routed to as if its cache "
                "were %s; start its engine with KV events on",
                worker, s->endpoint, DYN__GET(s->connected) ? "connected" : "not connected",
                DYN__GET(s->seen_any) ? "unchanged" : "empty");
    }
    if (!DYN__GET(s->connected) && now - s->added_at > CONNECT_NS && !s->connect_warned) {
        s->connect_warned = 1;
        DYN__SET(s->silent, true);
        dyn_log(DYN_LOG_WARN, "events", "worker %llu: nobody answers at its KV events endpoint %s", worker,
                s->endpoint);
    }
}

/* Copy the list for one turn; let go who wants to leave. Returns the number of sources. */
static unsigned gather(dyn_event_sub *self, unsigned *item_count)
{
    unsigned n = 0;
    *item_count = 0;
    pthread_mutex_lock(&self->lock);
    if (self->bigger.size > 0) {
        free_room(&self->room);
        self->room = self->bigger;
        self->bigger = (struct room){0};
    }
    for (dyn_event_source **at = &self->sources; *at;) {
        dyn_event_source *s = *at;
        if (s->leaving) {
            *at = s->next;
            s->gone = true;
            self->count--;
            pthread_cond_broadcast(&self->left);
            continue;
        }
        self->room.polled[n++] = s;
        at = &s->next;
    }
    bool stopping = self->stopping;
    pthread_mutex_unlock(&self->lock);
    if (stopping) return 0;
    self->room.items[(*item_count)++] = (zmq_pollitem_t){.fd = self->wake[0], .events = ZMQ_POLLIN};
    for (unsigned i = 0; i < n; i++) {
        dyn_event_source *s = self->room.polled[i];
        self->room.items[(*item_count)++] = (zmq_pollitem_t){.socket = s->monitor, .events = ZMQ_POLLIN};
        /* I2 of source.h: live messages wait while a replay runs */
        self->room.items[(*item_count)++] =
            (zmq_pollitem_t){.socket = s->replay ? s->replay : s->live, .events = ZMQ_POLLIN};
    }
    return n;
}

static void *listen_to_all(void *self_)
{
    dyn_event_sub *self = self_;
    char drain[64];
    struct dyn__message m;
    uint64_t looked = 0;
    for (;;) {
        unsigned item_count;
        unsigned n = gather(self, &item_count);
        if (item_count == 0) break;
        if (zmq_poll(self->room.items, (int)item_count, n ? TICK_MS : -1) < 0 && errno != EINTR) break;
        if (self->room.items[0].revents) {
            while (read(self->wake[0], drain, sizeof(drain)) > 0) continue;
        }
        for (unsigned i = 0; i < n; i++) {
            dyn_event_source *s = self->room.polled[i];
            if (self->room.items[1 + 2 * i].revents) read_monitor(s);
            if (!self->room.items[2 + 2 * i].revents) continue;
            for (int k = 0; k < TURN; k++) {
                bool replay = s->replay != NULL;
                if (dyn__message_recv(&m, replay ? s->replay : s->live) < 0) break;
                if (replay)
                    dyn__source_replayed(s, self->context, &m);
                else
                    dyn__source_live(s, self->context, &m);
            }
        }
        uint64_t now = dyn_now_ns();
        if (now - looked > TICK_MS * UINT64_C(1000000) / 2) {
            for (unsigned i = 0; i < n; i++) look_at_clock(self, self->room.polled[i], now);
            looked = now;
        }
    }
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------- */

int dyn_event_sub_new(dyn_event_sub **out, uint32_t silence_ms)
{
    dyn_event_sub *self = dyn__calloc(1, sizeof(*self));
    int rc = DYN_ENOMEM;
    if (self == NULL) return rc;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->left, NULL);
    self->wake[0] = self->wake[1] = -1;
    self->silence_ns = (silence_ms ? silence_ms : 10000) * UINT64_C(1000000);
    if (make_room(&self->room, 4) < 0 || (self->context = zmq_ctx_new()) == NULL) goto fail;
    zmq_ctx_set(self->context, ZMQ_MAX_SOCKETS, zmq_ctx_get(self->context, ZMQ_SOCKET_LIMIT));
    if (pipe(self->wake) < 0) {
        rc = dyn_error_from_errno(errno);
        goto fail;
    }
    for (int i = 0; i < 2; i++) {
        fcntl(self->wake[i], F_SETFD, FD_CLOEXEC);
        fcntl(self->wake[i], F_SETFL, O_NONBLOCK);
    }
    if (pthread_create(&self->thread, NULL, listen_to_all, self) != 0) {
        rc = dyn__fail(DYN_EIO, "no thread could be started to listen to events");
        goto fail;
    }
    self->has_thread = true;
    *out = self;
    return DYN_OK;
fail:
    dyn_event_sub_free(self);
    return rc;
}

/* ---- metrics ---------------------------------------------------------------------------------- */

static void hide(dyn_event_sub *self, const dyn_event_source *s)
{
    char worker[24];
    const char *labels[] = {worker};
    if (self->registry == NULL) return;
    snprintf(worker, sizeof(worker), "%llu", (unsigned long long)s->o.worker_id);
    for (int i = 0; i < SHOWN; i++) dyn_metric_remove(self->metrics[i], labels);
    dyn_error_clear();
}

/* At a scrape, on its thread. */
static void show(void *self_)
{
    dyn_event_sub *self = self_;
    uint64_t now = dyn_now_ns();
    pthread_mutex_lock(&self->lock);
    for (dyn_event_source *s = self->sources; s; s = s->next) {
        char worker[24];
        const char *labels[] = {worker};
        uint64_t last = DYN__GET(s->last_event_ns), since = last ? last : s->added_at;
        const double values[SHOWN] = {
            [CONNECTED] = DYN__GET(s->connected),
            [SILENT] = DYN__GET(s->silent),
            [AGE] = now > since ? (double)(now - since) / 1e9 : 0,
            [EVENTS] = (double)DYN__GET(s->events),
            [GAPS] = (double)DYN__GET(s->gaps),
            [LOST] = (double)DYN__GET(s->lost),
            [RESTARTS] = (double)DYN__GET(s->restarts),
            [REFUSED] = (double)DYN__GET(s->refused),
            [MALFORMED] = (double)DYN__GET(s->malformed),
        };
        snprintf(worker, sizeof(worker), "%llu", (unsigned long long)s->o.worker_id);
        for (int i = 0; i < SHOWN; i++) {
            dyn_series *series = NULL;
            if (dyn_metric_series(self->metrics[i], labels, &series) < 0 && series == NULL) continue;
            double shown = dyn_series_value(series);
            if (i < EVENTS)
                dyn_series_set(series, values[i]);
            else if (values[i] > shown)
                dyn_series_count(series, (uint64_t)(values[i] - shown));
            dyn_series_unref(series);
        }
    }
    pthread_mutex_unlock(&self->lock);
}

int dyn_event_sub_show(dyn_event_sub *self, dyn_metrics *registry)
{
    static const struct {
        const char *name, *help;
    } shown[SHOWN] = {
        [CONNECTED] = {"dynamo_kv_events_connected", "Whether the worker's KV events endpoint is connected."},
        [SILENT] = {"dynamo_kv_events_silent", "1 when KV events are expected from the worker and none come."},
        [AGE] = {"dynamo_kv_events_age_seconds", "Time since the worker's last KV event."},
        [EVENTS] = {"dynamo_kv_events_total", "KV events of the worker."},
        [GAPS] = {"dynamo_kv_events_gaps_total", "Times that numbers of batches were missing."},
        [LOST] = {"dynamo_kv_events_lost_batches_total", "Batches that could not be fetched any more."},
        [RESTARTS] = {"dynamo_kv_events_restarts_total", "Restarts of the worker's publisher."},
        [REFUSED] = {"dynamo_kv_events_refused_total", "Events that the index refused."},
        [MALFORMED] = {"dynamo_kv_events_malformed_total", "Messages that could not be read."},
    };
    const char *const labels[] = {"worker_id"};
    int rc = DYN_OK;
    if (self->registry) return dyn__fail(DYN_EBUSY, "these event sources are shown in a registry already");
    for (int i = 0; i < SHOWN && rc == DYN_OK; i++) {
        rc = dyn_metrics_define(registry, i < EVENTS ? DYN_GAUGE : DYN_COUNTER, shown[i].name, shown[i].help, labels, 1,
                                NULL, 0, &self->metrics[i]);
    }
    if (rc < 0 || (rc = dyn_metrics_on_scrape(registry, show, self)) < 0) return rc;
    self->registry = dyn_metrics_ref(registry);
    return DYN_OK;
}

void dyn_event_sub_free(dyn_event_sub *self)
{
    if (self == NULL) return;
    if (self->registry) {
        dyn_metrics_off_scrape(self->registry, show, self);
        for (dyn_event_source *s = self->sources; s; s = s->next) hide(self, s);
        dyn_metrics_unref(self->registry);
    }
    if (self->has_thread) {
        pthread_mutex_lock(&self->lock);
        self->stopping = true;
        pthread_mutex_unlock(&self->lock);
        wake(self);
        pthread_join(self->thread, NULL);
    }
    while (self->sources) {
        dyn_event_source *s = self->sources;
        self->sources = s->next;
        dyn__source_free(s);
    }
    if (self->context) zmq_ctx_term(self->context);
    for (int i = 0; i < 2; i++) {
        if (self->wake[i] >= 0) close(self->wake[i]);
    }
    free_room(&self->room);
    free_room(&self->bigger);
    pthread_cond_destroy(&self->left);
    pthread_mutex_destroy(&self->lock);
    dyn__free(self);
}

static int open_live(dyn_event_sub *self, dyn_event_source *s, unsigned nth)
{
    int zero = 0, hwm = (int)(s->o.hwm ? s->o.hwm : 100000), first = 100, most = 5000, beat = 5000, dead = 15000;
    int64_t max = INT64_C(64) << 20;
    char name[64];
    if ((s->live = zmq_socket(self->context, ZMQ_SUB)) == NULL ||
        (s->monitor = zmq_socket(self->context, ZMQ_PAIR)) == NULL) {
        return dyn__zmq_fail("cannot make a socket for", s->endpoint);
    }
    zmq_setsockopt(s->monitor, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(s->live, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(s->live, ZMQ_RCVHWM, &hwm, sizeof(hwm));
    zmq_setsockopt(s->live, ZMQ_MAXMSGSIZE, &max, sizeof(max));
    zmq_setsockopt(s->live, ZMQ_RECONNECT_IVL, &first, sizeof(first));
    zmq_setsockopt(s->live, ZMQ_RECONNECT_IVL_MAX, &most, sizeof(most));
    zmq_setsockopt(s->live, ZMQ_HEARTBEAT_IVL, &beat, sizeof(beat));
    zmq_setsockopt(s->live, ZMQ_HEARTBEAT_TIMEOUT, &dead, sizeof(dead));
    zmq_setsockopt(s->live, ZMQ_SUBSCRIBE, s->topic, strlen(s->topic));
    snprintf(name, sizeof(name), "inproc://monitor-%u", nth);
    if (zmq_socket_monitor(s->live, name, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) < 0 ||
        zmq_connect(s->monitor, name) < 0) {
        return dyn__zmq_fail("cannot watch", s->endpoint);
    }
    return zmq_connect(s->live, s->endpoint) < 0 ? dyn__zmq_fail("cannot connect to", s->endpoint) : DYN_OK;
}

int dyn_event_sub_add(dyn_event_sub *self, const dyn_event_source_options *options, dyn_event_source **out)
{
    dyn_event_source *s;
    struct room bigger = {0};
    int rc = DYN_ENOMEM;

    if (options->endpoint == NULL || *options->endpoint == 0) {
        return dyn__fail(DYN_EINVAL, "a source without an endpoint: give one as \"tcp://127.0.0.1:5557\"");
    }
    if ((s = dyn__calloc(1, sizeof(*s))) == NULL) return DYN_ENOMEM;
    s->o = *options;
    s->o.endpoint = s->o.replay_endpoint = s->o.topic = NULL;
    s->endpoint = dyn__strdup(options->endpoint);
    s->topic = dyn__strdup(options->topic ? options->topic : "");
    if (s->endpoint == NULL || s->topic == NULL) goto fail;
    if (options->replay_endpoint && *options->replay_endpoint &&
        (s->replay_endpoint = dyn__strdup(options->replay_endpoint)) == NULL) {
        goto fail;
    }
    if (options->block_size > 0 && (rc = dyn_event_decoder_new(&s->decoder, options->block_size)) < 0) goto fail;
    pthread_mutex_lock(&self->lock);
    unsigned nth = self->made++;
    pthread_mutex_unlock(&self->lock);
    if ((rc = open_live(self, s, nth)) < 0) goto fail;
    s->added_at = s->idle_since = dyn_now_ns();
    s->last_time = -1;
    dyn__source_ask(s, self->context);

    pthread_mutex_lock(&self->lock);
    unsigned room = self->bigger.size ? self->bigger.size : self->room.size;
    if (self->count + 1 > room) {
        if ((rc = make_room(&bigger, 2 * room)) < 0) {
            pthread_mutex_unlock(&self->lock);
            free_room(&bigger);
            goto fail;
        }
        free_room(&self->bigger);
        self->bigger = bigger;
    }
    self->count++;
    s->next = self->sources;
    self->sources = s;
    pthread_mutex_unlock(&self->lock);
    wake(self);
    *out = s;
    return DYN_OK;
fail:
    dyn__source_free(s);
    return rc;
}

void dyn_event_sub_remove(dyn_event_sub *self, dyn_event_source *source)
{
    pthread_mutex_lock(&self->lock);
    source->leaving = true;
    wake(self);
    while (!source->gone) pthread_cond_wait(&self->left, &self->lock);
    pthread_mutex_unlock(&self->lock);
    hide(self, source);
    dyn__source_free(source);
}

void dyn_event_sub_expect(dyn_event_sub *self, dyn_event_source *source)
{
    uint_fast64_t never = 0;
    (void)self;
    if (DYN__GET(source->expected_at) != 0) return;
    atomic_compare_exchange_strong(&source->expected_at, &never, dyn_now_ns());
}

void dyn_event_sub_get_stats(dyn_event_sub *self, const dyn_event_source *source, dyn_event_source_stats *out)
{
    const dyn_event_source *s = source;
    (void)self;
    *out = (dyn_event_source_stats){
        .worker_id = s->o.worker_id,
        .connected = DYN__GET(s->connected),
        .silent = DYN__GET(s->silent),
        .replaying = DYN__GET(s->replaying),
        .known = DYN__GET(s->seen_any),
        .next_sequence = DYN__GET(s->a_next),
        .batches = DYN__GET(s->batches),
        .events = DYN__GET(s->events),
        .blocks = DYN__GET(s->blocks),
        .loads = DYN__GET(s->loads),
        .gaps = DYN__GET(s->gaps),
        .lost = DYN__GET(s->lost),
        .restarts = DYN__GET(s->restarts),
        .replays = DYN__GET(s->replays),
        .replayed = DYN__GET(s->replayed),
        .replay_failures = DYN__GET(s->replay_failures),
        .snapshots = DYN__GET(s->snapshots),
        .malformed = DYN__GET(s->malformed),
        .refused = DYN__GET(s->refused),
        .other_tier = DYN__GET(s->other_tier),
        .last_event_ns = DYN__GET(s->last_event_ns),
        .decoder = {.batches = DYN__GET(s->decoder_stats[0]),
                    .events = DYN__GET(s->decoder_stats[1]),
                    .unknown = DYN__GET(s->decoder_stats[2]),
                    .wrong_block_size = DYN__GET(s->decoder_stats[3]),
                    .short_of_tokens = DYN__GET(s->decoder_stats[4]),
                    .ignored_kind = DYN__GET(s->decoder_stats[5]),
                    .ignored_place = DYN__GET(s->decoder_stats[6])},
    };
}
