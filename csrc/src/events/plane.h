/* events/plane.h -- inside events: the bytes of the event plane, and helpers for its sockets. */
#ifndef DYN_SRC_EVENTS_PLANE_H
#define DYN_SRC_EVENTS_PLANE_H

#include "dynamo/events.h"
#include "events/pack.h"

#define DYN__TOPIC_EVENTS "kv-events"
#define DYN__TOPIC_LOAD "kv_metrics"
#define DYN__SNAPSHOT "snapshot"

struct dyn__envelope {
    uint64_t publisher_id, sequence, published_at; /* the last in ms since 1970 */
    const uint8_t *payload;                        /* borrowed */
    size_t size;
};

/* One RouterEvent as a msgpack map. */
void dyn__plane_pack_event(msgpack_packer *p, const dyn_event *event);
void dyn__plane_pack_load(msgpack_packer *p, const dyn_load *load);
/* The whole of the last frame, replacing what is in `out`: version, length, envelope around a payload of `count`
 * packed items (`many`: as an array of them). */
int dyn__plane_frame(struct dyn__mp_out *out, uint64_t publisher_id, uint64_t sequence, const char *topic, bool many,
                     size_t count, const struct dyn__mp_out *items);
int dyn__plane_open(const uint8_t *frame, size_t size, struct dyn__envelope *out);
/* The events of a payload: one RouterEvent or an array of them, as maps or by place. `scratch` keeps its room. */
int dyn__plane_events(const uint8_t *payload, size_t size, dyn_event *scratch,
                      int (*each)(void *user, const dyn_event *event), void *user);
int dyn__plane_load(const uint8_t *payload, size_t size, dyn_load *out);

static inline void dyn__put_u64(uint8_t *out, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8) out[i] = (uint8_t)v;
}
static inline uint64_t dyn__get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

int dyn__zmq_fail(const char *what, const char *endpoint); /* errno of libzmq as ours, with a sentence */

#endif
