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

#ifdef __cplusplus
}
#endif
#endif
