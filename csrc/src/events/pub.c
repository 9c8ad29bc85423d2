/* pub.c -- see dynamo/events.h for the contract.
 *
 *   send --> items (packed events) --flush--> frame --> PUB socket
 *                                              |
 *     |                                     ring: the last batches, each a reference-counted buffer
 *     +--> mirror: what the worker holds       |
 *                                              |
 *                     thread: ROUTER socket <--+ a subscriber asks from a number on; it gets references, no copies;
 *                                                when the ring has lost that number, the mirror as it is and what follows
 *
 * I1  Everything but the ROUTER socket is used under `lock`; the ROUTER belongs to the thread alone.
 * I2  The ring holds the sequence numbers next_sequence - ring_count .. next_sequence - 1 without a hole.
 * I3  A number is used up only when its batch is in the ring and was given to the PUB socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <zmq.h>

#include "events/mirror.h"
#include "events/plane.h"

enum { ADDRESS = 256, BATCH_EVENTS = 128, BATCH_BLOCKS = 8192, REPLAY_STEP = 64 };

struct dyn_event_pub {
    pthread_mutex_t lock;
    void *context, *pub, *router;
    int wake[2]; /* a pipe to the thread */
    pthread_t thread;
    bool has_thread, stopping;
    enum dyn_event_wire wire;
    uint64_t publisher_id, worker_id, next_event_id, load_sequence;
    uint32_t dp_rank, block_size, batch_ms;
    char *topic, *load_topic; /* whole first frames */
    char endpoint[ADDRESS], replay_endpoint[ADDRESS];

    struct dyn__mp_out items, frame;
    size_t pending, pending_blocks; /* events and blocks in `items` */
    uint64_t pending_since;         /* dyn_now_ns() of the first */

    dyn_buf **ring;
    uint32_t ring_room, ring_count;
    size_t ring_bytes, ring_max_bytes;
    bool mirrored;
    dyn__mirror mirror; /* after all events, also those in `items` */
    dyn_event_pub_stats stats;
};

bool dyn_event_endpoint_binds(const char *endpoint)
{
    return strchr(endpoint, '*') || strstr(endpoint, "::") || !strncmp(endpoint, "ipc://", 6) ||
           !strncmp(endpoint, "inproc://", 9);
}

/* ---- the ring --------------------------------------------------------------------------------- */

static dyn_buf **ring_at(dyn_event_pub *self, uint64_t sequence)
{
    return &self->ring[sequence % self->ring_room];
}

static uint64_t ring_first(const dyn_event_pub *self)
{
    return self->stats.next_sequence - self->ring_count;
}

static void ring_drop(dyn_event_pub *self)
{
    dyn_buf **oldest = ring_at(self, ring_first(self));
    self->ring_bytes -= dyn_buf_size(*oldest);
    dyn_buf_unref(*oldest);
    *oldest = NULL;
    self->ring_count--;
}

/* ---- sending ---------------------------------------------------------------------------------- */

static int pub_send(dyn_event_pub *self, const void *bytes, size_t size, int flags)
{
    int rc;
    do rc = zmq_send(self->pub, bytes, size, flags | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? dyn__zmq_fail("cannot send to", self->endpoint) : DYN_OK;
}

static void release(void *data, void *buf)
{
    (void)data;
    dyn_buf_unref(buf);
}

/* A message that holds a reference instead of a copy. */
static int send_buf(void *socket, dyn_buf *buf, int flags)
{
    zmq_msg_t message;
    if (zmq_msg_init_data(&message, dyn_buf_data(buf), dyn_buf_size(buf), release, dyn_buf_ref(buf)) < 0) {
        dyn_buf_unref(buf);
        return -1;
    }
    int rc = zmq_msg_send(&message, socket, flags | ZMQ_DONTWAIT);
    if (rc < 0) zmq_msg_close(&message);
    return rc;
}

static int engine_frame(dyn_event_pub *self)
{
    struct dyn__mp_out *out = &self->frame;
    msgpack_packer p;
    out->size = 0;
    msgpack_packer_init(&p, out, dyn__mp_out_append);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, (double)dyn_wall_ms() / 1e3);
    msgpack_pack_array(&p, self->pending);
    dyn__mp_out_append(out, (const char *)self->items.data, self->items.size);
    msgpack_pack_uint32(&p, self->dp_rank);
    if (!out->failed) return DYN_OK;
    out->failed = false;
    return DYN_ENOMEM;
}

static int flush(dyn_event_pub *self)
{
    uint8_t number[8], id[8];
    uint64_t sequence = self->stats.next_sequence;
    dyn_buf *kept;
    int rc;

    if (self->pending == 0) return DYN_OK;
    if (self->wire == DYN_WIRE_ENGINE) {
        rc = engine_frame(self);
    } else {
        rc = dyn__plane_frame(&self->frame, self->publisher_id, sequence, DYN__TOPIC_EVENTS, true, self->pending,
                              &self->items);
    }
    if (rc < 0 || (rc = dyn_buf_new(&kept, self->frame.size)) < 0) return rc;
    memcpy(dyn_buf_data(kept), self->frame.data, self->frame.size);

    dyn__put_u64(number, sequence);
    rc = pub_send(self, self->topic, strlen(self->topic), ZMQ_SNDMORE);
    if (rc == DYN_OK && self->wire == DYN_WIRE_PLANE) {
        dyn__put_u64(id, self->publisher_id);
        rc = pub_send(self, id, sizeof(id), ZMQ_SNDMORE);
    }
    if (rc == DYN_OK) rc = pub_send(self, number, sizeof(number), ZMQ_SNDMORE);
    if (rc == DYN_OK && send_buf(self->pub, kept, 0) < 0) rc = dyn__zmq_fail("cannot send to", self->endpoint);
    if (rc < 0) {
        dyn_buf_unref(kept);
        return rc;
    }
    while (self->ring_count > 0 &&
           (self->ring_count == self->ring_room || self->ring_bytes + self->frame.size > self->ring_max_bytes)) {
        ring_drop(self);
    }
    *ring_at(self, sequence) = kept;
    self->ring_count++;
    self->ring_bytes += self->frame.size;
    self->stats.next_sequence++;
    self->stats.events += self->pending;
    self->stats.blocks += self->pending_blocks;
    self->stats.bytes += self->frame.size;
    self->items.size = 0;
    self->pending = self->pending_blocks = 0;
    return DYN_OK;
}

static void wake(dyn_event_pub *self)
{
    ssize_t n;
    do n = write(self->wake[1], "", 1);
    while (n < 0 && errno == EINTR);
}

/* One event as vLLM writes it: a map with its defaults left out. */
static void pack_engine(msgpack_packer *p, const dyn_event *e, uint32_t block_size, const uint32_t *tokens,
                        const char *lora)
{
    static const char *const media[] = {"GPU", "CPU", "STORAGE", "EXTERNAL"};
    if (e->kind == DYN_EVENT_CLEARED) {
        msgpack_pack_map(p, 1);
        dyn__mp_text(p, "type");
        dyn__mp_text(p, "AllBlocksCleared");
        return;
    }
    bool stored = e->kind == DYN_EVENT_STORED;
    msgpack_pack_map(p, stored ? 7 + (lora != NULL) : 3);
    dyn__mp_text(p, "type");
    dyn__mp_text(p, stored ? "BlockStored" : "BlockRemoved");
    dyn__mp_text(p, "block_hashes");
    msgpack_pack_array(p, e->count);
    for (size_t i = 0; i < e->count; i++) msgpack_pack_uint64(p, e->block_hashes[i]);
    if (stored) {
        dyn__mp_text(p, "parent_block_hash");
        if (e->has_parent)
            msgpack_pack_uint64(p, e->parent);
        else
            msgpack_pack_nil(p);
        dyn__mp_text(p, "token_ids");
        msgpack_pack_array(p, e->count * block_size);
        for (size_t i = 0; i < e->count * block_size; i++) msgpack_pack_uint32(p, tokens[i]);
        dyn__mp_text(p, "block_size");
        msgpack_pack_uint32(p, block_size);
        dyn__mp_text(p, "lora_id");
        msgpack_pack_nil(p);
        if (lora != NULL) {
            dyn__mp_text(p, "lora_name");
            dyn__mp_text(p, lora);
        }
    }
    dyn__mp_text(p, "medium");
    dyn__mp_text(p, media[e->tier]);
}

/* Under the lock: one event behind what waits. */
static int append(dyn_event_pub *self, const dyn_event *event, const uint32_t *tokens, const char *lora)
{
    msgpack_packer p;
    size_t before = self->items.size;
    dyn_event copy = *event;
    msgpack_packer_init(&p, &self->items, dyn__mp_out_append);
    copy.event_id = self->next_event_id;
    if (self->wire == DYN_WIRE_ENGINE) {
        pack_engine(&p, &copy, self->block_size, tokens, lora);
    } else {
        copy.worker_id = self->worker_id;
        dyn__plane_pack_event(&p, &copy);
    }
    if (self->items.failed) {
        self->items.failed = false;
        self->items.size = before;
        return DYN_ENOMEM;
    }
    self->next_event_id++;
    self->pending++;
    self->pending_blocks += event->count;
    return DYN_OK;
}

static int send_some(dyn_event_pub *self, const dyn_event *events, size_t count, const uint32_t *tokens,
                     const char *lora)
{
    int rc = DYN_OK;
    pthread_mutex_lock(&self->lock);
    size_t size = self->items.size, pending = self->pending, blocks = self->pending_blocks;
    uint64_t id = self->next_event_id;
    for (size_t i = 0; i < count && rc == DYN_OK; i++) rc = append(self, &events[i], tokens, lora);
    if (rc == DYN_OK) {
        bool full = self->pending >= BATCH_EVENTS || self->pending_blocks >= BATCH_BLOCKS;
        if (self->batch_ms == 0 || full) {
            rc = flush(self);
        } else if (pending == 0 && self->pending > 0) {
            self->pending_since = dyn_now_ns();
            wake(self);
        }
    }
    for (size_t i = 0; i < count && rc == DYN_OK && self->mirrored; i++) dyn__mirror_apply(&self->mirror, &events[i]);
    if (rc < 0) { /* as if it had not been tried; what waited before goes on waiting */
        self->items.size = size, self->pending = pending, self->pending_blocks = blocks, self->next_event_id = id;
    }
    pthread_mutex_unlock(&self->lock);
    return rc;
}

int dyn_event_pub_send(dyn_event_pub *self, const dyn_event *event, const uint32_t *tokens, const char *lora)
{
    if (self->wire == DYN_WIRE_ENGINE && event->kind == DYN_EVENT_STORED && tokens == NULL && event->count > 0) {
        return dyn__fail(DYN_EINVAL, "a store without token ids cannot be written as an engine writes it");
    }
    return send_some(self, event, 1, tokens, lora);
}

int dyn_event_pub_send_many(dyn_event_pub *self, const dyn_event *events, size_t count)
{
    if (self->wire == DYN_WIRE_ENGINE)
        return dyn__fail(DYN_EINVAL, "this publisher writes as an engine: send one by one");
    return send_some(self, events, count, NULL, NULL);
}

int dyn_event_pub_send_load(dyn_event_pub *self, const dyn_load *load)
{
    struct dyn__mp_out item = {0}, frame = {0};
    msgpack_packer p;
    uint8_t number[8], id[8];
    int rc = DYN_ENOMEM;
    if (self->wire == DYN_WIRE_ENGINE) return dyn__fail(DYN_EINVAL, "load is not part of what engines send");
    msgpack_packer_init(&p, &item, dyn__mp_out_append);
    dyn__plane_pack_load(&p, load);
    pthread_mutex_lock(&self->lock);
    if (!item.failed) {
        rc = dyn__plane_frame(&frame, self->publisher_id, self->load_sequence, DYN__TOPIC_LOAD, false, 1, &item);
    }
    if (rc == DYN_OK) {
        dyn__put_u64(id, self->publisher_id);
        dyn__put_u64(number, self->load_sequence);
        rc = pub_send(self, self->load_topic, strlen(self->load_topic), ZMQ_SNDMORE);
        if (rc == DYN_OK) rc = pub_send(self, id, sizeof(id), ZMQ_SNDMORE);
        if (rc == DYN_OK) rc = pub_send(self, number, sizeof(number), ZMQ_SNDMORE);
        if (rc == DYN_OK) rc = pub_send(self, frame.data, frame.size, 0);
        self->load_sequence++;
    }
    pthread_mutex_unlock(&self->lock);
    dyn__mp_out_free(&item);
    dyn__mp_out_free(&frame);
    return rc;
}

static int sink_stored(void *self, uint64_t worker, uint32_t dp_rank, const uint64_t *parent,
                       const uint64_t *block_hashes, const uint64_t *tokens_hashes, size_t count)
{
    dyn_event e = {.kind = DYN_EVENT_STORED,
                   .dp_rank = dp_rank,
                   .has_parent = parent != NULL,
                   .count = count,
                   .parent = parent ? *parent : 0,
                   .block_hashes = (uint64_t *)block_hashes,
                   .tokens_hashes = (uint64_t *)tokens_hashes};
    (void)worker;
    return dyn_event_pub_send(self, &e, NULL, NULL);
}

static int sink_removed(void *self, uint64_t worker, uint32_t dp_rank, const uint64_t *block_hashes, size_t count)
{
    dyn_event e = {
        .kind = DYN_EVENT_REMOVED, .dp_rank = dp_rank, .count = count, .block_hashes = (uint64_t *)block_hashes};
    (void)worker;
    return dyn_event_pub_send(self, &e, NULL, NULL);
}

static int sink_cleared(void *self, uint64_t worker, uint32_t dp_rank)
{
    dyn_event e = {.kind = DYN_EVENT_CLEARED, .dp_rank = dp_rank};
    (void)worker;
    return dyn_event_pub_send(self, &e, NULL, NULL);
}

dyn_kv_sink dyn_event_pub_sink(dyn_event_pub *self)
{
    return (dyn_kv_sink){self, sink_stored, sink_removed, sink_cleared};
}

int dyn_event_pub_flush(dyn_event_pub *self)
{
    pthread_mutex_lock(&self->lock);
    int rc = flush(self);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

/* ---- the thread: replay, and batches whose time has come --------------------------------------- */

static int router_send(dyn_event_pub *self, const void *bytes, size_t size, int flags)
{
    return zmq_send(self->router, bytes, size, flags | ZMQ_DONTWAIT);
}

struct snapshot {
    dyn_event_pub *self;
    zmq_msg_t *identity;
    uint64_t sequence; /* the last that it includes */
    struct dyn__mp_out items, frame;
    size_t events, blocks;
    bool sent;
};

/* [identity, "", topic, publisher, sequence, frame, "snapshot"] */
static int send_part(struct snapshot *s)
{
    dyn_event_pub *self = s->self;
    uint8_t number[8], id[8];
    int rc =
        dyn__plane_frame(&s->frame, self->publisher_id, s->sequence, DYN__TOPIC_EVENTS, true, s->events, &s->items);
    if (rc < 0) return rc;
    dyn__put_u64(id, self->publisher_id);
    dyn__put_u64(number, s->sequence);
    router_send(self, zmq_msg_data(s->identity), zmq_msg_size(s->identity), ZMQ_SNDMORE);
    router_send(self, "", 0, ZMQ_SNDMORE);
    router_send(self, self->topic, strlen(self->topic), ZMQ_SNDMORE);
    router_send(self, id, sizeof(id), ZMQ_SNDMORE);
    router_send(self, number, sizeof(number), ZMQ_SNDMORE);
    router_send(self, s->frame.data, s->frame.size, ZMQ_SNDMORE);
    router_send(self, DYN__SNAPSHOT, strlen(DYN__SNAPSHOT), 0);
    s->items.size = 0, s->events = s->blocks = 0, s->sent = true;
    return DYN_OK;
}

static int add_to_part(void *snapshot, const dyn_event *event)
{
    struct snapshot *s = snapshot;
    msgpack_packer p;
    dyn_event piece = *event;
    piece.worker_id = s->self->worker_id;
    for (size_t from = 0; from < event->count; from += piece.count) { /* a long chain goes in pieces */
        piece.block_hashes = event->block_hashes + from, piece.tokens_hashes = event->tokens_hashes + from;
        piece.count = event->count - from < BATCH_BLOCKS ? event->count - from : BATCH_BLOCKS;
        if (from > 0) piece.has_parent = true, piece.parent = event->block_hashes[from - 1];
        msgpack_packer_init(&p, &s->items, dyn__mp_out_append);
        dyn__plane_pack_event(&p, &piece);
        if (s->items.failed) return DYN_ENOMEM;
        s->events++;
        s->blocks += piece.count;
        int rc = s->blocks >= BATCH_BLOCKS ? send_part(s) : DYN_OK;
        if (rc < 0) return rc;
    }
    return DYN_OK;
}

/* What the worker holds, in place of batches from `from` on that are gone. Then the rest is to be sent from the last
 * batch that it includes, which comes along so that the subscriber knows it by its bytes. */
static void send_snapshot(dyn_event_pub *self, zmq_msg_t *identity, uint64_t *from)
{
    dyn__mirror copy = {0};
    pthread_mutex_lock(&self->lock);
    int rc = DYN_EUNAVAIL;
    bool gone = ring_first(self) > 0 && (*from == 0 || *from + 1 < ring_first(self));
    if (gone && self->mirrored && (rc = flush(self)) == DYN_OK) rc = dyn__mirror_copy(&copy, &self->mirror);
    struct snapshot s = {.self = self, .identity = identity, .sequence = self->stats.next_sequence - 1};
    pthread_mutex_unlock(&self->lock);
    if (rc == DYN_OK) rc = dyn__mirror_walk(&copy, add_to_part, &s);
    if (rc == DYN_OK && (s.blocks > 0 || !s.sent)) rc = send_part(&s); /* an empty cache is told, too */
    dyn__mirror_free(&copy);
    dyn__mp_out_free(&s.items);
    dyn__mp_out_free(&s.frame);
    dyn_error_clear();
    if (rc == DYN_OK) {
        *from = s.sequence;
        pthread_mutex_lock(&self->lock);
        self->stats.snapshots++;
        pthread_mutex_unlock(&self->lock);
    }
}

/* [identity, "", topic, (publisher,) sequence, frame] for each batch from `from` on, then the end marker. */
static void replay(dyn_event_pub *self, zmq_msg_t *identity, uint64_t from)
{
    static const uint8_t end[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const void *who = zmq_msg_data(identity);
    size_t who_size = zmq_msg_size(identity), sent = 0;
    dyn_buf *step[REPLAY_STEP];
    uint8_t number[8], id[8];

    dyn__put_u64(id, self->publisher_id);
    for (;;) {
        unsigned n = 0;
        pthread_mutex_lock(&self->lock); /* for a few references at a time, so that senders go on */
        if (from < ring_first(self)) from = ring_first(self);
        for (; n < REPLAY_STEP && from + n < self->stats.next_sequence; n++) {
            step[n] = dyn_buf_ref(*ring_at(self, from + n));
        }
        pthread_mutex_unlock(&self->lock);
        if (n == 0) break;
        for (unsigned i = 0; i < n; i++) {
            dyn__put_u64(number, from + i);
            router_send(self, who, who_size, ZMQ_SNDMORE);
            router_send(self, "", 0, ZMQ_SNDMORE);
            router_send(self, self->topic, strlen(self->topic), ZMQ_SNDMORE);
            if (self->wire == DYN_WIRE_PLANE) router_send(self, id, sizeof(id), ZMQ_SNDMORE);
            router_send(self, number, sizeof(number), ZMQ_SNDMORE);
            send_buf(self->router, step[i], 0);
            dyn_buf_unref(step[i]);
        }
        from += n, sent += n;
    }
    router_send(self, who, who_size, ZMQ_SNDMORE);
    router_send(self, "", 0, ZMQ_SNDMORE);
    router_send(self, "", 0, ZMQ_SNDMORE);
    router_send(self, end, sizeof(end), ZMQ_SNDMORE);
    router_send(self, "", 0, 0);
    pthread_mutex_lock(&self->lock);
    self->stats.replays++, self->stats.replayed_batches += sent;
    pthread_mutex_unlock(&self->lock);
}

/* One request, [identity, "", start 8 bytes], and "snapshot" from who understands one. Anything else is dropped: there is
 * nobody to tell. */
static bool request(dyn_event_pub *self)
{
    zmq_msg_t identity, part;
    uint64_t from = 0;
    int parts = 1, valid = 0;
    zmq_msg_init(&identity);
    if (zmq_msg_recv(&identity, self->router, ZMQ_DONTWAIT) < 0) return zmq_msg_close(&identity), false;
    for (bool more = zmq_msg_more(&identity); more; parts++) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, self->router, 0) < 0) {
            zmq_msg_close(&part);
            break;
        }
        if (parts == 1 && zmq_msg_size(&part) == 0) valid++;
        if (parts == 2 && zmq_msg_size(&part) == 8) valid++, from = dyn__get_u64(zmq_msg_data(&part));
        if (parts == 3 && zmq_msg_size(&part) == strlen(DYN__SNAPSHOT) &&
            memcmp(zmq_msg_data(&part), DYN__SNAPSHOT, strlen(DYN__SNAPSHOT)) == 0)
            valid++;
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    if (valid == parts - 1 && (parts == 3 || parts == 4)) {
        if (parts == 4) send_snapshot(self, &identity, &from);
        replay(self, &identity, from);
    }
    zmq_msg_close(&identity);
    return true;
}

static void *serve(void *self_)
{
    dyn_event_pub *self = self_;
    char drain[64];
    for (;;) {
        zmq_pollitem_t items[] = {{.fd = self->wake[0], .events = ZMQ_POLLIN},
                                  {.socket = self->router, .events = ZMQ_POLLIN}};
        long timeout = -1;
        pthread_mutex_lock(&self->lock);
        bool stopping = self->stopping;
        if (self->pending > 0 && self->batch_ms > 0) {
            uint64_t age = (dyn_now_ns() - self->pending_since) / 1000000;
            if (stopping || age >= self->batch_ms) {
                if (flush(self) < 0) self->pending_since = dyn_now_ns(); /* no memory: again later */
            }
            if (self->pending > 0) timeout = self->batch_ms;
            age = self->pending > 0 ? (dyn_now_ns() - self->pending_since) / 1000000 : 0;
            if (timeout > 0) timeout = age >= self->batch_ms ? 1 : (long)(self->batch_ms - age);
        }
        pthread_mutex_unlock(&self->lock);
        if (stopping) return NULL;
        if (zmq_poll(items, self->router ? 2 : 1, timeout) < 0 && errno != EINTR) return NULL;
        if (items[0].revents) {
            while (read(self->wake[0], drain, sizeof(drain)) > 0) continue;
        }
        if (self->router && items[1].revents) {
            for (int i = 0; i < 16 && request(self); i++) continue; /* then look at the clock again */
        }
    }
}

/* ---- life ------------------------------------------------------------------------------------- */

static int open_socket(dyn_event_pub *self, int type, const char *endpoint, bool connect, int hwm, char *address,
                       void **out)
{
    int linger = 500, size_limit = 4096, timeout = 5000;
    size_t room = ADDRESS;
    void *socket = zmq_socket(self->context, type);
    if (socket == NULL) return dyn__zmq_fail("cannot make a socket for", endpoint);
    *out = socket;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof(hwm));
    zmq_setsockopt(socket, ZMQ_HANDSHAKE_IVL, &timeout, sizeof(timeout));
    if (type == ZMQ_ROUTER) { /* requests are tiny */
        int64_t max = size_limit;
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max, sizeof(max));
    }
    if ((connect ? zmq_connect : zmq_bind)(socket, endpoint) < 0) {
        return dyn__zmq_fail(connect ? "cannot connect to" : "cannot bind", endpoint);
    }
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, address, &room) < 0) snprintf(address, ADDRESS, "%s", endpoint);
    return DYN_OK;
}

static char *joined(const char *subject, const char *topic)
{
    size_t size = strlen(subject) + strlen(topic) + 2;
    char *text = dyn__malloc(size);
    if (text) snprintf(text, size, "%s%s%s", subject, *subject ? "." : "", topic);
    return text;
}

int dyn_event_pub_new(dyn_event_pub **out, const dyn_event_pub_options *options)
{
    const char *endpoint = options->endpoint ? options->endpoint : "tcp://127.0.0.1:0";
    const char *topic = options->topic ? options->topic : "";
    dyn_event_pub *self;
    int rc = DYN_ENOMEM;

    if (options->wire == DYN_WIRE_ENGINE && options->block_size == 0) {
        return dyn__fail(DYN_EINVAL, "block size 0: an engine's stores name their block size");
    }
    if (strlen(endpoint) >= ADDRESS || (options->replay_endpoint && strlen(options->replay_endpoint) >= ADDRESS)) {
        return dyn__fail(DYN_EINVAL, "the endpoint is longer than %d characters", ADDRESS - 1);
    }
    if ((self = dyn__calloc(1, sizeof(*self))) == NULL) return DYN_ENOMEM;
    pthread_mutex_init(&self->lock, NULL);
    self->wake[0] = self->wake[1] = -1;
    self->wire = options->wire;
    self->publisher_id = options->publisher_id;
    self->worker_id = options->worker_id;
    self->dp_rank = options->dp_rank;
    self->block_size = options->block_size;
    self->batch_ms = options->batch_ms;
    self->ring_room = options->ring_batches ? options->ring_batches : 10000;
    self->ring_max_bytes = options->ring_bytes ? options->ring_bytes : (size_t)256 << 20;
    self->topic = self->wire == DYN_WIRE_ENGINE ? dyn__strdup(topic) : joined(topic, DYN__TOPIC_EVENTS);
    self->load_topic = joined(topic, DYN__TOPIC_LOAD);
    self->ring = dyn__calloc(self->ring_room, sizeof(*self->ring));
    if (self->topic == NULL || self->load_topic == NULL || self->ring == NULL) goto fail;
    if ((self->context = zmq_ctx_new()) == NULL) goto fail;

    int hwm = (int)(options->hwm ? options->hwm : 100000);
    rc = open_socket(self, ZMQ_PUB, endpoint, options->connect, hwm, self->endpoint, &self->pub);
    if (rc < 0) goto fail;
    if (options->replay_endpoint) { /* room for a whole replay, which is references to what is there anyway */
        self->mirrored = self->wire == DYN_WIRE_PLANE && options->mirror_blocks != DYN_EVENT_NO_MIRROR;
        self->mirror.most = options->mirror_blocks ? options->mirror_blocks : 4 << 20;
        rc = open_socket(self, ZMQ_ROUTER, options->replay_endpoint, false,
                         (int)(self->ring_room + self->mirror.most / BATCH_BLOCKS) + 64, self->replay_endpoint,
                         &self->router);
        if (rc < 0) goto fail;
    }
    if (self->router || self->batch_ms > 0) {
        if (pipe(self->wake) < 0) {
            rc = dyn_error_from_errno(errno);
            goto fail;
        }
        for (int i = 0; i < 2; i++) {
            fcntl(self->wake[i], F_SETFD, FD_CLOEXEC);
            fcntl(self->wake[i], F_SETFL, O_NONBLOCK);
        }
        if (pthread_create(&self->thread, NULL, serve, self) != 0) {
            rc = dyn__fail(DYN_EIO, "no thread could be started for the replay of events");
            goto fail;
        }
        self->has_thread = true;
    }
    *out = self;
    return DYN_OK;
fail:
    dyn_event_pub_free(self);
    return rc;
}

void dyn_event_pub_free(dyn_event_pub *self)
{
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    if (self->pub) flush(self);
    pthread_mutex_unlock(&self->lock);
    if (self->has_thread) {
        wake(self);
        pthread_join(self->thread, NULL);
    }
    if (self->router) zmq_close(self->router);
    if (self->pub) zmq_close(self->pub);
    if (self->context) zmq_ctx_term(self->context);
    for (int i = 0; i < 2; i++) {
        if (self->wake[i] >= 0) close(self->wake[i]);
    }
    while (self->ring_count > 0) ring_drop(self);
    dyn__free(self->ring);
    dyn__mirror_free(&self->mirror);
    dyn__mp_out_free(&self->items);
    dyn__mp_out_free(&self->frame);
    dyn__free(self->topic);
    dyn__free(self->load_topic);
    pthread_mutex_destroy(&self->lock);
    dyn__free(self);
}

const char *dyn_event_pub_endpoint(const dyn_event_pub *self)
{
    return self->endpoint;
}

const char *dyn_event_pub_replay_endpoint(const dyn_event_pub *self)
{
    return self->replay_endpoint;
}

void dyn_event_pub_get_stats(dyn_event_pub *self, dyn_event_pub_stats *out)
{
    pthread_mutex_lock(&self->lock);
    *out = self->stats;
    out->ring_first = ring_first(self);
    out->ring_batches = self->ring_count;
    out->ring_bytes = self->ring_bytes;
    out->mirror_blocks = self->mirror.count;
    out->mirror_bytes = self->mirror.room * sizeof(*self->mirror.slots);
    pthread_mutex_unlock(&self->lock);
}
