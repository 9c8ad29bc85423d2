/* events.h -- what engines say about their cache: read, written, sent, received.
 *
 *   engine --msgpack over ZMQ (vLLM, SGLang)--+
 *   our engines --event plane over ZMQ--------+--> dyn_event --> dyn_kv_sink (an index)
 *   Dynamo JSON (apply_event, dumps) ---------+
 *
 * Units    sizes count bytes, counts say what they count; hashes and ids are u64, ranks u32.
 * Errors   int results are DYN_OK or a negative enum dyn_error; malformed input is DYN_EPROTO with a sentence
 *          that says what and where.
 * Limits   no reader takes more memory than a small multiple of its input, nor more than 64 levels of nesting.
 * Source   wire formats: docs/design/events.md.
 */
#ifndef DYNAMO_EVENTS_H
#define DYNAMO_EVENTS_H

#include "dynamo/common.h"
#include "dynamo/kv_sink.h"
#include "dynamo/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- one event ---------------------------------------------------------------------------------- */
enum dyn_event_kind { DYN_EVENT_STORED, DYN_EVENT_REMOVED, DYN_EVENT_CLEARED };
enum dyn_event_tier { DYN_TIER_DEVICE, DYN_TIER_HOST, DYN_TIER_DISK, DYN_TIER_EXTERNAL };

/* One change of a cache. Made to be filled again and again: the arrays keep their room.
 * A sender may point the arrays at memory of its own and leave `room` 0: they are borrowed then. */
typedef struct dyn_event {
    enum dyn_event_kind kind;
    enum dyn_event_tier tier;
    uint64_t worker_id; /* where the form carries one (RouterEvent, event plane), else 0 */
    uint64_t event_id;
    uint32_t dp_rank;
    bool has_parent;         /* stored: `parent` is meant; else the blocks start a sequence */
    bool has_start_position; /* stored: `start_position` is meant */
    uint64_t parent;
    uint32_t start_position;
    size_t count;            /* blocks */
    uint64_t *block_hashes;  /* count of them, for stored and removed */
    uint64_t *tokens_hashes; /* count of them, for stored */
    size_t room;             /* blocks that the two arrays have room for; 0: borrowed or absent */
} dyn_event;

/* An event with nothing in it: all zero is one, too. */
DYN_API void dyn_event_init(dyn_event *self);
/* Free the arrays (unless borrowed) and leave an empty event. */
DYN_API void dyn_event_reset(dyn_event *self);
/* Make room for `count` blocks, keeping what is there. Never on an event with borrowed arrays.
 * errors  DYN_ENOMEM. */
DYN_API int dyn_event_reserve(dyn_event *self, size_t count);
/* The name of a tier in JSON: "device", "host_pinned", "disk", "external". Static. */
DYN_API const char *dyn_event_tier_name(enum dyn_event_tier tier);

/* ---- Dynamo JSON --------------------------------------------------------------------------------
 *   inner   {"event_id":7,"data":{"stored":{"parent_hash":null,"blocks":[{"block_hash":1,"tokens_hash":2}]}}}
 *           data is also {"removed":{"block_hashes":[1,2]}} or "cleared"; dp_rank, storage_tier may follow
 *   router  {"worker_id":1,"event":<inner>}
 */
enum dyn_event_form { DYN_EVENT_INNER, DYN_EVENT_ROUTER };
/* Read one event. Unknown fields are skipped, negative hashes and worker ids reinterpreted as u64.
 * self    keeps its room; on failure its kind and numbers are undefined and count is 0.
 * text    borrowed, need not end in NUL.
 * errors  DYN_EPROTO with line and column; DYN_ENOMEM. */
DYN_API int dyn_event_read_json(dyn_event *self, enum dyn_event_form form, const char *text, size_t size);
/* Bytes that dyn_event_write_json() may need for this event. */
DYN_API size_t dyn_event_json_bound(const dyn_event *self);
/* Write one event as compact JSON; returns the bytes written (no NUL).
 * out     room for dyn_event_json_bound() bytes. */
DYN_API size_t dyn_event_write_json(const dyn_event *self, enum dyn_event_form form, char *out);

/* ---- msgpack of vLLM and SGLang -----------------------------------------------------------------
 * A decoder belongs to one source (one engine process): it remembers which kv-cache groups to ignore, which
 * sequences are salted, and what it has complained about.
 * Threads  one at a time.
 */
enum { DYN_EVENT_MAX_BLOCKS = 1 << 20 }; /* of one msgpack event */

typedef struct dyn_event_decoder dyn_event_decoder;
typedef struct dyn_event_decoder_stats {
    uint64_t batches, events;
    uint64_t unknown;          /* events of a name that we do not know */
    uint64_t wrong_block_size; /* stores of another block size; the first 3 are warned of */
    uint64_t short_of_tokens;  /* blocks that came without their token ids */
    uint64_t ignored_kind;     /* events about sliding windows, states and the like */
    uint64_t ignored_place;    /* events about remote blocks or unknown media; the first 3 media are warned of */
} dyn_event_decoder_stats;

/* block_size  tokens in a block; stores with another size are ignored and counted.
 * out         receives a new decoder.
 * errors      DYN_EINVAL (size 0), DYN_ENOMEM. */
DYN_API int dyn_event_decoder_new(dyn_event_decoder **out, uint32_t block_size);
DYN_API void dyn_event_decoder_free(dyn_event_decoder *self); /* NULL is allowed */
/* Read one batch, [ts, events, rank?] or a map of these, of tagged arrays or tagged maps; call `each` for every
 * event that can be indexed. Local hashes are made from the token ids, LoRA, salt and multimodal keys.
 * dp_rank  of a batch that names none.
 * each     borrows the event for the call; its negative result ends the reading and is returned.
 * errors   DYN_EPROTO (nothing was delivered when the bytes are not msgpack; else what came before), DYN_ENOMEM. */
DYN_API int dyn_event_decode(dyn_event_decoder *self, const uint8_t *bytes, size_t size, uint32_t dp_rank,
                             int (*each)(void *user, const dyn_event *event), void *user);
DYN_API void dyn_event_decoder_get_stats(const dyn_event_decoder *self, dyn_event_decoder_stats *out);
/* The u64 of a block hash that came as bytes: its last 8, big-endian, which is also what engines send as an integer. */
DYN_API uint64_t dyn_event_hash_of_bytes(const uint8_t *bytes, size_t size);

/* ---- load ---------------------------------------------------------------------------------------
 * How busy a worker is; topic kv_metrics of the event plane. `known` says which numbers were given. */
enum dyn_load_field {
    DYN_LOAD_ACTIVE_DECODE_BLOCKS, /* ActiveLoad */
    DYN_LOAD_ACTIVE_PREFILL_TOKENS,
    DYN_LOAD_KV_USED_BLOCKS,
    DYN_LOAD_REQUEST_ACTIVE_SLOTS, /* ForwardPassMetrics, worker_stats */
    DYN_LOAD_REQUEST_TOTAL_SLOTS,
    DYN_LOAD_NUM_REQUESTS_WAITING,
    DYN_LOAD_KV_ACTIVE_BLOCKS, /* ForwardPassMetrics, kv_stats */
    DYN_LOAD_KV_TOTAL_BLOCKS,
    DYN_LOAD_GPU_CACHE_USAGE_PERC, /* these two in millionths */
    DYN_LOAD_GPU_PREFIX_CACHE_HIT_RATE,
    DYN_LOAD_FIELDS
};
typedef struct dyn_load {
    uint64_t worker_id;
    uint32_t dp_rank;
    uint32_t known; /* bit i: value[i] was given */
    uint64_t value[DYN_LOAD_FIELDS];
} dyn_load;
/* The name of a number as it stands in messages. Static. */
DYN_API const char *dyn_load_field_name(enum dyn_load_field field);

/* ---- publisher ----------------------------------------------------------------------------------
 * A PUB socket, a sequence number that grows by one for each batch, and the last batches kept for a ROUTER socket
 * from which subscribers fetch what they missed. On PLANE the publisher also knows which blocks its worker holds on the
 * device: who misses more than is kept gets that, and then what follows.
 *
 *   PLANE    subject | publisher id u64 BE | sequence u64 BE | version 1, length u32 BE, msgpack envelope
 *   ENGINE   topic | sequence u64 BE | msgpack [ts, [event, ...], dp_rank], as vLLM writes it
 *
 * Threads  send, flush, stats: any thread. A slow subscriber never holds a sender up: what its queue cannot take is
 *          lost to it, which it sees by the numbers and fetches.
 */
enum dyn_event_wire { DYN_WIRE_PLANE, DYN_WIRE_ENGINE };
#define DYN_EVENT_NO_MIRROR UINT32_MAX
typedef struct dyn_event_pub dyn_event_pub;
/* All zero is a good start; texts are borrowed for the call. */
typedef struct dyn_event_pub_options {
    const char *endpoint;        /* "tcp://127.0.0.1:0" when NULL; port 0 or *: any free one */
    const char *replay_endpoint; /* NULL: nothing can be fetched */
    bool connect;                /* connect to `endpoint` instead of binding it */
    enum dyn_event_wire wire;
    const char *topic;      /* ENGINE: first frame ("" when NULL). PLANE: subject without its last part */
    uint64_t publisher_id;  /* PLANE; another one after every start, so that a restart is seen */
    uint64_t worker_id;     /* PLANE; of every event */
    uint32_t dp_rank;       /* ENGINE: of every batch */
    uint32_t block_size;    /* ENGINE: of every store; not 0 */
    uint32_t hwm;           /* batches queued for one slow subscriber; 0: 100,000 */
    uint32_t ring_batches;  /* kept for replay; 0: 10,000 */
    size_t ring_bytes;      /* kept for replay at most; 0: 256 MiB */
    uint32_t mirror_blocks; /* PLANE: known of the worker's cache at most, 43 to 86 bytes each; 0: 4 Mi; with more, or
                             * DYN_EVENT_NO_MIRROR, what left the ring is lost to who comes late */
    uint32_t batch_ms;      /* wait as long for more events before sending; 0: one batch for each send */
} dyn_event_pub_options;
typedef struct dyn_event_pub_stats {
    uint64_t next_sequence, events, blocks, bytes, replays, replayed_batches;
    uint64_t ring_first; /* the oldest sequence number that can be fetched */
    uint64_t ring_batches, ring_bytes;
    uint64_t snapshots; /* answers with what the worker holds */
    uint64_t mirror_blocks, mirror_bytes;
} dyn_event_pub_stats;

/* out     receives a new publisher.
 * errors  DYN_EINVAL, DYN_ECONN (the endpoint cannot be bound or is malformed), DYN_ENOMEM. */
DYN_API int dyn_event_pub_new(dyn_event_pub **out, const dyn_event_pub_options *options);
/* Send what waits, stop, free. NULL is allowed. */
DYN_API void dyn_event_pub_free(dyn_event_pub *self);
/* Where subscribers find it, with the port that was chosen; the replay endpoint is "" when there is none. Borrowed. */
DYN_API const char *dyn_event_pub_endpoint(const dyn_event_pub *self);
DYN_API const char *dyn_event_pub_replay_endpoint(const dyn_event_pub *self);
/* Send one event; it gets the next event id, on PLANE also the publisher's worker id.
 * tokens  ENGINE, stored: event->count * block_size token ids, borrowed. Else NULL.
 * lora    ENGINE, stored: name of the adapter, or NULL.
 * errors  DYN_EINVAL (ENGINE: a store without token ids), DYN_ENOMEM; nothing was sent then. */
DYN_API int dyn_event_pub_send(dyn_event_pub *self, const dyn_event *event, const uint32_t *tokens, const char *lora);
/* Send many as one batch (PLANE). */
DYN_API int dyn_event_pub_send_many(dyn_event_pub *self, const dyn_event *events, size_t count);
DYN_API int dyn_event_pub_send_load(dyn_event_pub *self, const dyn_load *load); /* PLANE only */
DYN_API int dyn_event_pub_flush(dyn_event_pub *self);                           /* send what batch_ms holds back */
DYN_API void dyn_event_pub_get_stats(dyn_event_pub *self, dyn_event_pub_stats *out);
/* A sink whose changes are published (PLANE): stored, removed and cleared send one event of that rank, whatever the
 * worker is. Borrows the publisher. */
DYN_API dyn_kv_sink dyn_event_pub_sink(dyn_event_pub *self);
/* vLLM's rule for an endpoint: bound when it has "*" or "::" or is ipc:// or inproc://, else connected to. */
DYN_API bool dyn_event_endpoint_binds(const char *endpoint);

/* ---- subscriber ---------------------------------------------------------------------------------
 * One thread that listens to many sources, knows for each which batch comes next, fetches what it missed, and hands
 * events on in order.
 *
 *   gap       a number too high: what lies between is fetched from the replay endpoint; what that no longer has is
 *             counted as lost, unless the publisher tells what its worker holds now (PLANE): then the source's ranks
 *             are cleared and rebuilt from that, and nothing is lost
 *   restart   a number too low, another publisher, or another batch under the last number: the source's ranks are
 *             cleared and rebuilt from what replay has
 *   silence   dyn_event_sub_expect() said that events must come and none did, or nobody answers at the endpoint:
 *             a warning names the worker once, and stats say so
 *
 * Queues   a source's own ZMQ queue (hwm batches) is the only one; it also holds live batches back during a replay.
 * Threads  all calls from any thread but the subscriber's own (not from callbacks).
 */
typedef struct dyn_event_sub dyn_event_sub;
typedef struct dyn_event_source dyn_event_source;
/* All zero is a good start; texts are borrowed for the call. Either `event` or the functions of `sink` may be NULL. */
typedef struct dyn_event_source_options {
    const char *endpoint;
    const char *replay_endpoint;                      /* NULL: what was missed is lost */
    const char *topic;                                /* prefix of the first frame; NULL: all */
    uint64_t worker_id;                               /* whose events these are */
    bool worker_from_event;                           /* PLANE: take the worker from each event instead */
    uint32_t dp_rank;                                 /* of engine batches that name none */
    uint32_t block_size;                              /* for engine batches; 0: only PLANE is understood */
    uint32_t hwm;                                     /* batches; 0: 100,000 */
    dyn_kv_sink sink;                                 /* gets what lies on the device */
    int (*event)(void *user, const dyn_event *event); /* instead of `sink`: gets everything */
    void *user;                                       /* of event */
    void (*load)(void *user, const dyn_load *load);   /* PLANE, topic kv_metrics */
    void *load_user;                                  /* of load */
} dyn_event_source_options;
typedef struct dyn_event_source_stats {
    uint64_t worker_id;
    bool connected, silent, replaying;
    bool known;             /* a batch has come: next_sequence is meant */
    uint64_t next_sequence; /* of the batch that is expected */
    uint64_t batches, events, blocks, loads;
    uint64_t gaps, lost; /* times that numbers were missing; batches that could not be fetched */
    uint64_t restarts;   /* of the publisher */
    uint64_t replays, replayed, replay_failures;
    uint64_t snapshots;     /* times that the ranks were rebuilt from what the worker holds */
    uint64_t malformed;     /* messages that could not be read; the first 3 are warned of */
    uint64_t refused;       /* events that the sink refused: an unknown parent or block */
    uint64_t other_tier;    /* events about other places than the device, which `sink` does not get */
    uint64_t last_event_ns; /* dyn_now_ns() of the last event, 0: none yet */
    dyn_event_decoder_stats decoder;
} dyn_event_source_stats;

/* silence_ms  after which an expected event is missed; 0: 10,000.
 * out         receives a new subscriber with no source.
 * errors      DYN_ENOMEM, DYN_EIO (no thread, no descriptor). */
DYN_API int dyn_event_sub_new(dyn_event_sub **out, uint32_t silence_ms);
DYN_API void dyn_event_sub_free(dyn_event_sub *self); /* removes all sources; NULL is allowed */
/* Listen to a source.
 * out     receives it, owned by the subscriber, until dyn_event_sub_remove().
 * errors  DYN_EINVAL, DYN_ECONN (malformed endpoint), DYN_ENOMEM. */
DYN_API int dyn_event_sub_add(dyn_event_sub *self, const dyn_event_source_options *options, dyn_event_source **out);
/* Stop listening; when it returns no callback of this source runs or will run. What the sink holds stays. */
DYN_API void dyn_event_sub_remove(dyn_event_sub *self, dyn_event_source *source);
/* A request that must cause events was sent to the worker of this source. Costs one load when it was said before. */
DYN_API void dyn_event_sub_expect(dyn_event_sub *self, dyn_event_source *source);
DYN_API void dyn_event_sub_get_stats(dyn_event_sub *self, const dyn_event_source *source, dyn_event_source_stats *out);
/* Show the sources in a registry at each scrape, by label worker_id: dynamo_kv_events_connected, _silent,
 * _age_seconds (since the last event), _total, _gaps_total, _lost_batches_total, _restarts_total, _refused_total,
 * _malformed_total. At most one registry.
 * errors  DYN_EBUSY (one is there), those of dyn_metrics_define(). */
DYN_API int dyn_event_sub_show(dyn_event_sub *self, dyn_metrics *registry);

/* ---- queue --------------------------------------------------------------------------------------
 * Events kept as JSON for a reader that comes by now and then. At its bound the newest are dropped and counted.
 * Threads  on_event: any thread. take: one thread at a time.
 */
typedef struct dyn_event_queue dyn_event_queue;
typedef struct dyn_event_text {
    struct dyn_event_text *next;
    size_t size;
    char text[]; /* size bytes, no NUL */
} dyn_event_text;
/* bound   events; 0: 100,000.
 * errors  DYN_ENOMEM, or the code of a refused file descriptor. */
DYN_API int dyn_event_queue_new(dyn_event_queue **out, enum dyn_event_form form, size_t bound);
DYN_API void dyn_event_queue_free(dyn_event_queue *self); /* NULL is allowed */
/* Has the shape of dyn_event_source_options.event. errors  DYN_EOVERLOAD, DYN_ENOMEM: dropped. */
DYN_API int dyn_event_queue_on_event(void *queue, const dyn_event *event);
DYN_API int dyn_event_queue_fd(const dyn_event_queue *self); /* readable while something waits; borrowed */
/* All that waits, oldest first; each to be passed to dyn_event_text_free(). NULL: nothing. */
DYN_API dyn_event_text *dyn_event_queue_take(dyn_event_queue *self);
DYN_API void dyn_event_text_free(dyn_event_text *self);
DYN_API uint64_t dyn_event_queue_dropped(const dyn_event_queue *self);

/* ---- loads --------------------------------------------------------------------------------------
 * The latest load of each (worker, dp_rank).
 * Threads  all calls from any thread.
 */
typedef struct dyn_load_table dyn_load_table;
DYN_API int dyn_load_table_new(dyn_load_table **out);   /* errors  DYN_ENOMEM */
DYN_API void dyn_load_table_free(dyn_load_table *self); /* NULL is allowed */
/* Has the shape of dyn_event_source_options.load; numbers that a report leaves out keep their value. Beyond 65,536
 * ranks, or without memory, a new one is not kept. */
DYN_API void dyn_load_table_on_load(void *table, const dyn_load *load);
DYN_API void dyn_load_table_remove(dyn_load_table *self, uint64_t worker_id); /* all its ranks */
/* Copy at most `room` loads; returns how many there are. */
DYN_API size_t dyn_load_table_get(dyn_load_table *self, dyn_load *out, size_t room);

#ifdef __cplusplus
}
#endif
#endif
