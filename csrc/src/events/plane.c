/* plane.c -- see events/plane.h. Maps are written, maps and arrays (serde's compact form) are read.
 *
 *   | 1 | length u32 BE | {publisher_id, sequence, published_at, topic, payload: bin}
 *                          payload = [{worker_id, event: {event_id, data, dp_rank}}, ...] or one load
 */
#include <errno.h>
#include <stdio.h>
#include <zmq.h>

#include "events/plane.h"

enum { VERSION = 1, HEAD = 5 };

int dyn__zmq_fail(const char *what, const char *endpoint)
{
    int err = errno;
    int rc = err == ENOMEM ? DYN_ENOMEM : err == EINVAL || err == EPROTONOSUPPORT ? DYN_EINVAL : DYN_ECONN;
    return dyn__fail(rc, "%s %s: %s", what, endpoint, zmq_strerror(err));
}

/* ---- writing ---------------------------------------------------------------------------------- */

static void pack_field(msgpack_packer *p, const char *name, uint64_t value)
{
    dyn__mp_text(p, name);
    msgpack_pack_uint64(p, value);
}

void dyn__plane_pack_event(msgpack_packer *p, const dyn_event *e)
{
    bool tier = e->tier != DYN_TIER_DEVICE;
    msgpack_pack_map(p, tier ? 3 : 2);
    pack_field(p, "worker_id", e->worker_id);
    dyn__mp_text(p, "event");
    msgpack_pack_map(p, 3);
    pack_field(p, "event_id", e->event_id);
    dyn__mp_text(p, "data");
    switch (e->kind) {
    case DYN_EVENT_CLEARED: dyn__mp_text(p, "cleared"); break;
    case DYN_EVENT_REMOVED:
        msgpack_pack_map(p, 1);
        dyn__mp_text(p, "removed");
        msgpack_pack_map(p, 1);
        dyn__mp_text(p, "block_hashes");
        msgpack_pack_array(p, e->count);
        for (size_t i = 0; i < e->count; i++) msgpack_pack_uint64(p, e->block_hashes[i]);
        break;
    case DYN_EVENT_STORED:
        msgpack_pack_map(p, 1);
        dyn__mp_text(p, "stored");
        msgpack_pack_map(p, e->has_start_position ? 3 : 2);
        dyn__mp_text(p, "parent_hash");
        if (e->has_parent)
            msgpack_pack_uint64(p, e->parent);
        else
            msgpack_pack_nil(p);
        if (e->has_start_position) pack_field(p, "start_position", e->start_position);
        dyn__mp_text(p, "blocks");
        msgpack_pack_array(p, e->count);
        for (size_t i = 0; i < e->count; i++) {
            msgpack_pack_map(p, 2);
            pack_field(p, "block_hash", e->block_hashes[i]);
            pack_field(p, "tokens_hash", e->tokens_hashes[i]);
        }
    }
    pack_field(p, "dp_rank", e->dp_rank);
    if (tier) {
        dyn__mp_text(p, "storage_tier");
        dyn__mp_text(p, dyn_event_tier_name(e->tier));
    }
}

/* Where the numbers of a load stand: at the top (ActiveLoad) or in one of two inner maps (ForwardPassMetrics). */
enum { TOP, WORKER_STATS, KV_STATS, PLACES };
static const char *const place_names[PLACES] = {"", "worker_stats", "kv_stats"};
static const struct {
    const char *name;
    int place;
    bool share; /* a fraction: f64 on the wire, millionths in dyn_load */
} load_fields[DYN_LOAD_FIELDS] = {
    {"active_decode_blocks", TOP, false},
    {"active_prefill_tokens", TOP, false},
    {"kv_used_blocks", TOP, false},
    {"request_active_slots", WORKER_STATS, false},
    {"request_total_slots", WORKER_STATS, false},
    {"num_requests_waiting", WORKER_STATS, false},
    {"kv_active_blocks", KV_STATS, false},
    {"kv_total_blocks", KV_STATS, false},
    {"gpu_cache_usage_perc", KV_STATS, true},
    {"gpu_prefix_cache_hit_rate", KV_STATS, true},
};

const char *dyn_load_field_name(enum dyn_load_field field)
{
    return (unsigned)field < DYN_LOAD_FIELDS ? load_fields[field].name : "";
}

void dyn__plane_pack_load(msgpack_packer *p, const dyn_load *load)
{
    unsigned count[PLACES] = {0};
    for (int i = 0; i < DYN_LOAD_FIELDS; i++) count[load_fields[i].place] += load->known >> i & 1;
    msgpack_pack_map(p, 2 + count[TOP] + (count[WORKER_STATS] > 0) + (count[KV_STATS] > 0));
    pack_field(p, "worker_id", load->worker_id);
    pack_field(p, "dp_rank", load->dp_rank);
    for (int place = TOP; place < PLACES; place++) {
        if (count[place] == 0) continue;
        if (place != TOP) {
            dyn__mp_text(p, place_names[place]);
            msgpack_pack_map(p, count[place]);
        }
        for (int i = 0; i < DYN_LOAD_FIELDS; i++) {
            if (load_fields[i].place != place || !(load->known >> i & 1)) continue;
            dyn__mp_text(p, load_fields[i].name);
            if (load_fields[i].share)
                msgpack_pack_double(p, (double)load->value[i] / 1e6);
            else
                msgpack_pack_uint64(p, load->value[i]);
        }
    }
}

int dyn__plane_frame(struct dyn__mp_out *out, uint64_t publisher_id, uint64_t sequence, const char *topic, bool many,
                     size_t count, const struct dyn__mp_out *items)
{
    msgpack_packer p;
    size_t head = !many ? 0 : count < 16 ? 1 : count < 65536 ? 3 : 5; /* of the array */
    out->size = 0;
    if (dyn__mp_out_grow(out, HEAD) == NULL) goto fail;
    out->size = HEAD;
    msgpack_packer_init(&p, out, dyn__mp_out_append);
    msgpack_pack_map(&p, 5);
    pack_field(&p, "publisher_id", publisher_id);
    pack_field(&p, "sequence", sequence);
    pack_field(&p, "published_at", dyn_wall_ms());
    dyn__mp_text(&p, "topic");
    dyn__mp_text(&p, topic);
    dyn__mp_text(&p, "payload");
    msgpack_pack_bin(&p, head + items->size);
    if (many) msgpack_pack_array(&p, count);
    dyn__mp_out_append(out, (const char *)items->data, items->size);
    if (out->failed) goto fail;
    if (out->size - HEAD > UINT32_MAX) return dyn__fail(DYN_ELIMIT, "a batch of events of more than 4 GiB");
    out->data[0] = VERSION;
    for (int i = 0; i < 4; i++) out->data[1 + i] = (uint8_t)((out->size - HEAD) >> (24 - 8 * i));
    return DYN_OK;
fail:
    out->failed = false;
    return DYN_ENOMEM;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* A struct of the plane: a map of names, or the values in the order of `names`. Sets at[i] for what is there. */
static int open_struct(struct dyn__mp *c, const char *const *names, unsigned count, struct dyn__mp *at)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(c, &item);
    memset(at, 0, count * sizeof(*at));
    if (rc < 0) return rc;
    if (item.kind != MP_ARRAY && item.kind != MP_MAP) return dyn__mp_refuse(c, "a map is expected just before");
    bool map = item.kind == MP_MAP;
    for (uint32_t i = 0, n = item.size; i < n; i++) {
        unsigned which = map ? count : i;
        if (map) {
            if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
            if (item.kind != MP_STR) return dyn__mp_refuse(c, "a name is expected just before");
            for (unsigned k = 0; k < count && which == count; k++) {
                if (dyn__mp_is(&item, names[k])) which = k;
            }
        }
        struct dyn__mp from = *c;
        if ((rc = dyn__mp_skip(c)) < 0) return rc;
        from.end = c->at;
        if (which < count) at[which] = from;
    }
    return DYN_OK;
}

static int missing(const struct dyn__mp *c, const char *name)
{
    char text[80];
    snprintf(text, sizeof(text), "missing field `%s`", name);
    return dyn__mp_refuse(c, text);
}

int dyn__plane_open(const uint8_t *frame, size_t size, struct dyn__envelope *out)
{
    static const char *const names[] = {"publisher_id", "sequence", "published_at", "topic", "payload"};
    struct dyn__mp c = {frame, frame + size, frame}, at[5];
    struct dyn__mp_item item;
    int rc;
    if (size < HEAD) return dyn__mp_refuse(&c, "the frame is shorter than its head");
    if (frame[0] != VERSION) return dyn__mp_refuse(&c, "the frame has an unknown version");
    uint32_t length = (uint32_t)frame[1] << 24 | (uint32_t)frame[2] << 16 | (uint32_t)frame[3] << 8 | frame[4];
    if (length != size - HEAD) return dyn__mp_refuse(&c, "the frame has another length than it says");
    c.at += HEAD;
    if ((rc = open_struct(&c, names, 5, at)) < 0) return rc;
    if (c.at != c.end) return dyn__mp_refuse(&c, "bytes after the end");
    for (int i = 0; i < 5; i++) {
        if (at[i].at == NULL) return missing(&c, names[i]);
    }
    if ((rc = dyn__mp_uint(&at[0], &out->publisher_id)) < 0 || (rc = dyn__mp_uint(&at[1], &out->sequence)) < 0 ||
        (rc = dyn__mp_uint(&at[2], &out->published_at)) < 0 || (rc = dyn__mp_next(&at[4], &item)) < 0) {
        return rc;
    }
    if (item.kind != MP_BIN && item.kind != MP_STR) return dyn__mp_refuse(&at[4], "bytes are expected just before");
    out->payload = item.data, out->size = item.size;
    return DYN_OK;
}

/* One block exactly as we write it, both hashes of 8 bytes; what nearly all blocks are. False: read it the long way. */
static bool usual_block(struct dyn__mp *c, uint64_t *block, uint64_t *tokens)
{
    static const char first[] = "\x82\xaa"
                                "block_hash\xcf",
                      second[] = "\xab"
                                 "tokens_hash\xcf";
    enum { FIRST = sizeof(first) - 1, SECOND = sizeof(second) - 1 };
    const uint8_t *p = c->at;
    if (c->end - p < FIRST + 8 + SECOND + 8 || memcmp(p, first, FIRST) != 0 ||
        memcmp(p + FIRST + 8, second, SECOND) != 0) {
        return false;
    }
    *block = dyn__get_u64(p + FIRST);
    *tokens = dyn__get_u64(p + FIRST + 8 + SECOND);
    c->at = p + FIRST + 8 + SECOND + 8;
    return true;
}

/* Blocks (pairs of hashes) or bare hashes. */
static int read_blocks(struct dyn__mp *c, dyn_event *e, bool bare)
{
    static const char *const names[] = {"block_hash", "tokens_hash"};
    struct dyn__mp at[2];
    uint32_t count;
    int rc;
    if ((rc = dyn__mp_array(c, &count)) < 0) return rc;
    if (count > DYN_EVENT_MAX_BLOCKS) return dyn__mp_refuse(c, "more than 1048576 blocks in one event");
    if ((rc = dyn_event_reserve(e, count)) < 0) return rc;
    for (uint32_t i = 0; i < count; i++) {
        if (bare) {
            e->tokens_hashes[i] = 0;
            if ((rc = dyn__mp_uint(c, &e->block_hashes[i])) < 0) return rc;
            continue;
        }
        if (usual_block(c, &e->block_hashes[i], &e->tokens_hashes[i])) continue;
        if ((rc = open_struct(c, names, 2, at)) < 0) return rc;
        if (at[0].at == NULL || at[1].at == NULL) return missing(c, names[at[0].at != NULL]);
        if ((rc = dyn__mp_uint(&at[0], &e->block_hashes[i])) < 0 ||
            (rc = dyn__mp_uint(&at[1], &e->tokens_hashes[i])) < 0) {
            return rc;
        }
    }
    e->count = count;
    return DYN_OK;
}

static int read_stored(struct dyn__mp *c, dyn_event *e)
{
    static const char *const named[] = {"parent_hash", "start_position", "blocks"};
    struct dyn__mp at[3], before = *c, probe = *c;
    struct dyn__mp_item item;
    int rc;
    e->kind = DYN_EVENT_STORED;
    if ((rc = open_struct(c, named, 3, at)) < 0) return rc;
    if ((rc = dyn__mp_next(&before, &item)) < 0) return rc;
    if (item.kind == MP_ARRAY && item.size == 2) at[2] = at[1], at[1] = (struct dyn__mp){0}; /* before start_position */
    if (at[2].at == NULL) return missing(c, "blocks");
    if ((probe = at[0]).at != NULL && (rc = dyn__mp_next(&probe, &item)) == DYN_OK && item.kind != MP_NIL) {
        e->has_parent = true;
        rc = dyn__mp_uint(&at[0], &e->parent);
    }
    if (rc < 0) return rc;
    if ((probe = at[1]).at != NULL && (rc = dyn__mp_next(&probe, &item)) == DYN_OK && item.kind != MP_NIL) {
        e->has_start_position = true;
        rc = dyn__mp_u32(&at[1], &e->start_position);
    }
    return rc < 0 ? rc : read_blocks(&at[2], e, false);
}

static int read_data(struct dyn__mp *c, dyn_event *e)
{
    static const char *const hashes[] = {"block_hashes"};
    struct dyn__mp_item item;
    struct dyn__mp at[1];
    int rc = dyn__mp_next(c, &item);
    if (rc < 0) return rc;
    if (item.kind == MP_MAP && item.size == 1 && (rc = dyn__mp_next(c, &item)) == DYN_OK) {
        if (dyn__mp_is(&item, "stored")) return read_stored(c, e);
        if (dyn__mp_is(&item, "removed")) {
            e->kind = DYN_EVENT_REMOVED;
            if ((rc = open_struct(c, hashes, 1, at)) < 0) return rc;
            return at[0].at ? read_blocks(&at[0], e, true) : missing(c, hashes[0]);
        }
    }
    if (rc < 0) return rc;
    e->kind = DYN_EVENT_CLEARED;
    return dyn__mp_is(&item, "cleared") ? DYN_OK
                                        : dyn__mp_refuse(c, "stored, removed or cleared is expected just before");
}

static int read_tier(struct dyn__mp *c, dyn_event *e)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(c, &item);
    if (rc < 0) return rc;
    for (unsigned i = DYN_TIER_DEVICE; i <= DYN_TIER_EXTERNAL; i++) {
        if (dyn__mp_is(&item, dyn_event_tier_name(i))) return e->tier = i, DYN_OK;
    }
    return dyn__mp_refuse(c, "unknown storage_tier just before");
}

static int read_event(struct dyn__mp *c, dyn_event *e)
{
    static const char *const outer[] = {"worker_id", "event", "storage_tier"};
    static const char *const inner[] = {"event_id", "data", "dp_rank", "storage_tier"};
    struct dyn__mp out[3], in[4];
    int rc;
    e->tier = DYN_TIER_DEVICE, e->dp_rank = 0, e->count = 0;
    e->has_parent = e->has_start_position = false, e->parent = 0, e->start_position = 0;
    if ((rc = open_struct(c, outer, 3, out)) < 0) return rc;
    if (out[0].at == NULL || out[1].at == NULL) return missing(c, outer[out[0].at != NULL]);
    if ((rc = dyn__mp_uint(&out[0], &e->worker_id)) < 0 || (rc = open_struct(&out[1], inner, 4, in)) < 0) return rc;
    if (in[0].at == NULL || in[1].at == NULL) return missing(c, inner[in[0].at != NULL]);
    if ((rc = dyn__mp_uint(&in[0], &e->event_id)) < 0 || (rc = read_data(&in[1], e)) < 0) return rc;
    if (in[2].at != NULL && (rc = dyn__mp_u32(&in[2], &e->dp_rank)) < 0) return rc;
    if (in[3].at != NULL && (rc = read_tier(&in[3], e)) < 0) return rc;
    if (out[2].at != NULL && (rc = read_tier(&out[2], e)) < 0) return rc;
    return DYN_OK;
}

int dyn__plane_events(const uint8_t *payload, size_t size, dyn_event *scratch,
                      int (*each)(void *user, const dyn_event *event), void *user)
{
    struct dyn__mp c = {payload, payload + size, payload}, whole = c, probe = c;
    struct dyn__mp_item item;
    uint32_t count = 1;
    int rc;
    if ((rc = dyn__mp_skip(&whole)) < 0) return rc;
    if (whole.at != whole.end) return dyn__mp_refuse(&whole, "bytes after the end");
    if ((rc = dyn__mp_next(&probe, &item)) < 0) return rc;
    if (item.kind == MP_ARRAY && item.size == 0) return DYN_OK;
    if (item.kind == MP_ARRAY) { /* of events; or one event by place, which starts with a number */
        struct dyn__mp first = probe;
        uint32_t n = item.size;
        if ((rc = dyn__mp_next(&first, &item)) < 0) return rc;
        if (item.kind == MP_ARRAY || item.kind == MP_MAP) c = probe, count = n;
    }
    for (; count > 0; count--) {
        if ((rc = read_event(&c, scratch)) < 0 || (rc = each(user, scratch)) < 0) return rc;
    }
    return DYN_OK;
}

static int read_number(struct dyn__mp c, bool share, uint64_t *out, bool *known)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(&c, &item);
    if (rc < 0) return rc;
    *known = true;
    if (item.kind == MP_NIL) return *known = false, DYN_OK;
    if (item.kind == MP_FLOAT) {
        double v = share ? item.f * 1e6 : item.f;
        if (!(v >= 0 && v < 1e18)) return *known = false, DYN_OK; /* not a number, too: nothing is known */
        return *out = (uint64_t)(v + 0.5), DYN_OK;
    }
    if (item.kind != MP_UINT) return dyn__mp_refuse(&c, "a number of 0 or more is expected just before");
    *out = share ? item.u * 1000000 : item.u;
    return DYN_OK;
}

int dyn__plane_load(const uint8_t *payload, size_t size, dyn_load *out)
{
    struct dyn__mp c = {payload, payload + size, payload}, whole = c;
    struct dyn__mp at[PLACES][DYN_LOAD_FIELDS + 4];
    const char *names[DYN_LOAD_FIELDS + 4];
    int rc;
    if ((rc = dyn__mp_skip(&whole)) < 0) return rc;
    if (whole.at != whole.end) return dyn__mp_refuse(&whole, "bytes after the end");
    for (int i = 0; i < DYN_LOAD_FIELDS; i++) names[i] = load_fields[i].name;
    names[DYN_LOAD_FIELDS] = "worker_id", names[DYN_LOAD_FIELDS + 1] = "dp_rank";
    names[DYN_LOAD_FIELDS + 2] = place_names[WORKER_STATS], names[DYN_LOAD_FIELDS + 3] = place_names[KV_STATS];
    *out = (dyn_load){0};
    memset(at, 0, sizeof(at));
    if (c.at < c.end && (*c.at & 0xf0) == 0x90) return dyn__mp_refuse(&c, "a load by place is not understood");
    if ((rc = open_struct(&c, names, DYN_LOAD_FIELDS + 4, at[TOP])) < 0) return rc;
    for (int place = WORKER_STATS; place < PLACES; place++) {
        struct dyn__mp inner = at[TOP][DYN_LOAD_FIELDS + 1 + place], probe = inner;
        struct dyn__mp_item item;
        if (inner.at == NULL || ((rc = dyn__mp_next(&probe, &item)) == DYN_OK && item.kind == MP_NIL)) continue;
        if (rc < 0 || (rc = open_struct(&inner, names, DYN_LOAD_FIELDS + 2, at[place])) < 0) return rc;
    }
    if (at[TOP][DYN_LOAD_FIELDS].at != NULL && (rc = dyn__mp_uint(&at[TOP][DYN_LOAD_FIELDS], &out->worker_id)) < 0) {
        return rc;
    }
    if (at[TOP][DYN_LOAD_FIELDS + 1].at != NULL &&
        (rc = dyn__mp_u32(&at[TOP][DYN_LOAD_FIELDS + 1], &out->dp_rank)) < 0) {
        return rc;
    }
    for (int i = 0; i < DYN_LOAD_FIELDS; i++) {
        struct dyn__mp field = at[load_fields[i].place][i];
        bool known;
        if (field.at == NULL) continue;
        if ((rc = read_number(field, load_fields[i].share, &out->value[i], &known)) < 0) return rc;
        if (known) out->known |= UINT32_C(1) << i;
    }
    return DYN_OK;
}
