/* engine.c -- the msgpack batches of vLLM and SGLang, old and new, turned into dyn_event.
 *
 *   batch   [ts, [event, ...], rank?]                          or a map with these names
 *   event   ["BlockStored", hashes, parent, token_ids, ...]    to 2025: fields by place
 *           {"type": "BlockStored", "block_hashes": ...}       since: fields by name, defaults left out
 *
 * An event is walked twice: once to find where each field stands (either form), then the fields that matter are
 * decoded in the order in which they are needed. Nothing is copied before.
 *
 * Salts: vLLM names the cache salt in the extra_keys of a sequence's first block only, but it belongs to the
 * local hash of every block. `salted` remembers, for blocks stored under one, which; a fixed table in which a
 * newer block may push out an older: its successors are then not found, never found wrongly.
 */
#include "dynamo/events.h"
#include "dynamo/hash.h"
#include "events/pack.h"

enum { SALTED = 1 << 14, EXTRA_MAX = 64, COMPLAINTS = 3 };

struct salted {
    uint64_t block, seed; /* seed: what the salt adds to the block seed, 0: the entry is empty */
};

struct dyn_event_decoder {
    uint32_t block_size;
    dyn_event event;
    uint32_t *tokens; /* of one event */
    size_t tokens_room;
    struct salted *salted;   /* SALTED entries, made when the first salt comes */
    uint64_t groups_ignored; /* bit g: kv-cache group g is of a kind that we do not index */
    unsigned complained_size, complained_medium;
    dyn_event_decoder_stats stats;
};

/* Fields of all events in the order of the tagged arrays (BlockStored); the last ones exist by name only. */
enum field {
    HASHES,
    PARENT,
    TOKENS,
    BLOCK_SIZE,
    LORA_ID,
    MEDIUM,
    LORA_NAME,
    EXTRA_KEYS,
    MM_INFOS,
    GROUP,
    KIND,
    WINDOW,
    LOCALITY,
    SALT,
    FIELDS
};
static const char *const field_names[FIELDS] = {"block_hashes",
                                                "parent_block_hash",
                                                "token_ids",
                                                "block_size",
                                                "lora_id",
                                                "medium",
                                                "lora_name",
                                                "extra_keys",
                                                "block_mm_infos",
                                                "group_idx",
                                                "kv_cache_spec_kind",
                                                "kv_cache_spec_sliding_window",
                                                "locality",
                                                "cache_salt"};

struct fields {
    struct dyn__mp at[FIELDS]; /* at == NULL: absent */
};

uint64_t dyn_event_hash_of_bytes(const uint8_t *bytes, size_t size)
{
    uint64_t hash = 0;
    for (size_t i = size > 8 ? size - 8 : 0; i < size; i++) hash = hash << 8 | bytes[i];
    return hash;
}

int dyn_event_decoder_new(dyn_event_decoder **out, uint32_t block_size)
{
    dyn_event_decoder *self;
    if (block_size == 0) return dyn__fail(DYN_EINVAL, "block size 0: give the size that the engine was started with");
    if ((self = dyn__calloc(1, sizeof(*self))) == NULL) return DYN_ENOMEM;
    self->block_size = block_size;
    *out = self;
    return DYN_OK;
}

void dyn_event_decoder_free(dyn_event_decoder *self)
{
    if (self == NULL) return;
    dyn_event_reset(&self->event);
    dyn__free(self->tokens);
    dyn__free(self->salted);
    dyn__free(self);
}

void dyn_event_decoder_get_stats(const dyn_event_decoder *self, dyn_event_decoder_stats *out)
{
    *out = self->stats;
}

/* ---- fields ----------------------------------------------------------------------------------- */

/* The item of a field; MP_NIL when it is absent. */
static int item_of(const struct fields *f, enum field which, struct dyn__mp_item *item, struct dyn__mp *rest)
{
    *item = (struct dyn__mp_item){.kind = MP_NIL};
    *rest = f->at[which];
    return rest->at == NULL ? DYN_OK : dyn__mp_next(rest, item);
}

/* What may be a hash: an integer of either sign, or bytes. */
static int hash_of(const struct dyn__mp *c, const struct dyn__mp_item *item, uint64_t *out)
{
    switch (item->kind) {
    case MP_UINT:
    case MP_INT: *out = item->u; return DYN_OK;
    case MP_BIN:
    case MP_STR: *out = dyn_event_hash_of_bytes(item->data, item->size); return DYN_OK;
    default: return dyn__mp_refuse(c, "a block hash is expected just before");
    }
}

static int hashes_of(dyn_event_decoder *self, const struct fields *f)
{
    struct dyn__mp c = f->at[HASHES];
    struct dyn__mp_item item;
    uint32_t count;
    int rc;
    self->event.count = 0;
    if (c.at == NULL) return dyn__fail(DYN_EPROTO, "KV events: an event without block_hashes");
    if ((rc = dyn__mp_array(&c, &count)) < 0) return rc;
    if (count > DYN_EVENT_MAX_BLOCKS) return dyn__mp_refuse(&c, "more than 1048576 blocks in one event");
    if ((rc = dyn_event_reserve(&self->event, count)) < 0) return rc;
    for (uint32_t i = 0; i < count; i++) {
        if ((rc = dyn__mp_next(&c, &item)) < 0 || (rc = hash_of(&c, &item, &self->event.block_hashes[i])) < 0)
            return rc;
    }
    self->event.count = count;
    return DYN_OK;
}

/* Where the blocks lie. False: a medium that nobody knows. */
static bool tier_of(const struct dyn__mp_item *item, enum dyn_event_tier *out)
{
    static const struct {
        const char *name;
        enum dyn_event_tier tier;
    } media[] = {{"GPU", DYN_TIER_DEVICE},        {"DEVICE", DYN_TIER_DEVICE},    {"CPU", DYN_TIER_HOST},
                 {"CPU_PINNED", DYN_TIER_HOST},   {"CPU_TIER1", DYN_TIER_HOST},   {"CPU_TIER2", DYN_TIER_DISK},
                 {"DISK", DYN_TIER_DISK},         {"NVME", DYN_TIER_DISK},        {"STORAGE", DYN_TIER_DISK},
                 {"EXTERNAL", DYN_TIER_EXTERNAL}, {"NETWORK", DYN_TIER_EXTERNAL}, {"REMOTE", DYN_TIER_EXTERNAL},
                 {"SHARED", DYN_TIER_EXTERNAL}};
    *out = DYN_TIER_DEVICE;
    if (item->kind == MP_NIL) return true;
    for (size_t i = 0; i < DYN__COUNT(media); i++) {
        if (dyn__mp_is(item, media[i].name)) return *out = media[i].tier, true;
    }
    return false;
}

/* Whether an event is about blocks of ordinary attention that lie with this worker: others come and go by rules
 * of their own (windows, states) and cannot be indexed by prefix.
 * Removals name their group only, so what a store said about its group is kept. */
static int is_ours(dyn_event_decoder *self, const struct fields *f, bool *ours)
{
    struct dyn__mp_item kind, group, place, medium;
    struct dyn__mp rest;
    int rc;
    if ((rc = item_of(f, KIND, &kind, &rest)) < 0 || (rc = item_of(f, GROUP, &group, &rest)) < 0 ||
        (rc = item_of(f, LOCALITY, &place, &rest)) < 0 || (rc = item_of(f, MEDIUM, &medium, &rest)) < 0) {
        return rc;
    }
    *ours = false;
    uint64_t bit = group.kind == MP_UINT && group.u < 64 ? UINT64_C(1) << group.u : 0;
    if (kind.kind == MP_STR) {
        bool main = dyn__mp_is(&kind, "full_attention") || dyn__mp_is(&kind, "mla_attention") ||
                    dyn__mp_is(&kind, "sink_full_attention");
        self->groups_ignored = main ? self->groups_ignored & ~bit : self->groups_ignored | bit;
        if (!main) return self->stats.ignored_kind++, DYN_OK;
    } else if (self->groups_ignored & bit) {
        return self->stats.ignored_kind++, DYN_OK;
    }
    if (place.kind != MP_NIL && !dyn__mp_is(&place, "LOCAL")) return self->stats.ignored_place++, DYN_OK;
    if (!tier_of(&medium, &self->event.tier)) {
        self->stats.ignored_place++;
        if (self->complained_medium++ < COMPLAINTS) {
            dyn_log(DYN_LOG_WARN, "events", "ignored blocks on the medium \"%.*s\", which is not known",
                    medium.kind == MP_STR ? (int)(medium.size > 40 ? 40 : medium.size) : 1,
                    medium.kind == MP_STR ? (const char *)medium.data : "?");
        }
        return DYN_OK;
    }
    *ours = true;
    return DYN_OK;
}

/* ---- what goes into a local hash -------------------------------------------------------------- */

/* An integer as token ids are packed: up to 32 bits, not negative. False: it is something else. */
static inline bool small_uint(struct dyn__mp *c, uint32_t *out)
{
    const uint8_t *p = c->at;
    size_t left = (size_t)(c->end - p);
    if (left > 0 && p[0] < 0x80) return *out = p[0], c->at = p + 1, true;
    if (left > 2 && p[0] == 0xcd) return *out = (uint32_t)p[1] << 8 | p[2], c->at = p + 3, true;
    if (left > 4 && p[0] == 0xce) {
        *out = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
        c->at = p + 5;
        return true;
    }
    return false;
}

/* Token ids into self->tokens. Pairs [a, b] (EAGLE looks one token ahead) become a.. and the last b: one more. */
static int tokens_of(dyn_event_decoder *self, const struct fields *f, size_t *count, bool *eagle)
{
    struct dyn__mp c = f->at[TOKENS];
    struct dyn__mp_item item;
    uint32_t n, size;
    uint64_t a, b = 0;
    int rc;
    *count = 0, *eagle = false;
    if (c.at == NULL) return dyn__fail(DYN_EPROTO, "KV events: BlockStored without token_ids");
    if ((rc = dyn__mp_array(&c, &n)) < 0) return rc;
    if ((size_t)n + 1 > self->tokens_room) {
        size_t room = (size_t)n + 1;
        uint32_t *tokens = dyn__realloc(self->tokens, room * sizeof(*tokens));
        if (tokens == NULL) return DYN_ENOMEM;
        self->tokens = tokens, self->tokens_room = room;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!*eagle && small_uint(&c, &self->tokens[i])) continue;
        if ((rc = dyn__mp_next(&c, &item)) < 0) return rc;
        a = item.u;
        if (item.kind == MP_ARRAY) {
            size = item.size;
            if (size != 2) return dyn__mp_refuse(&c, "a token id or a pair of them is expected just before");
            if ((i > 0 && !*eagle) || (rc = dyn__mp_uint(&c, &a)) < 0 || (rc = dyn__mp_uint(&c, &b)) < 0) {
                return dyn__mp_refuse(&c, "a token id or a pair of them is expected just before");
            }
            *eagle = true;
        } else if (*eagle || (item.kind != MP_UINT && item.kind != MP_INT)) {
            return dyn__mp_refuse(&c, "a token id is expected just before");
        }
        self->tokens[i] = (uint32_t)a;
    }
    if (*eagle) self->tokens[n] = (uint32_t)b;
    *count = (size_t)n + *eagle;
    return DYN_OK;
}

static uint64_t xxh3(const void *bytes, size_t size)
{
    return dyn_hash_seed(bytes, size, NULL, 0) - DYN_HASH_SEED;
}

/* The u64 of a multimodal identifier: of 64 hex digits the first 16, else its XXH3. */
static uint64_t mm_hash(const uint8_t *text, size_t size)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < size && size == 64; i++) {
        uint8_t c = text[i] | 0x20;
        unsigned digit = c >= '0' && c <= '9' ? c - (unsigned)'0' : c >= 'a' && c <= 'f' ? c - 'a' + 10u : 16;
        if (digit == 16) return xxh3(text, size);
        if (i < 16) hash = hash << 4 | digit;
    }
    return size == 64 ? hash : xxh3(text, size);
}

static bool is_hex64(const struct dyn__mp_item *item)
{
    if (item->size != 64) return false;
    for (unsigned i = 0; i < 64; i++) {
        uint8_t c = item->data[i] | 0x20;
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
    }
    return true;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* One block's extra keys: nil, or a list of the LoRA's name, (identifier, offset) pairs, the cache salt (first block
 * of a sequence), digests of embeddings. What a prompt cannot be asked for still makes the block another one. */
static int extra_of(struct dyn__mp *c, const struct dyn__mp_item *lora, bool first, uint64_t *mm, unsigned *mms,
                    uint64_t *salt)
{
    struct dyn__mp_item item, id;
    uint32_t count;
    int rc;
    *mms = 0;
    if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
    if (item.kind == MP_NIL) return DYN_OK;
    if (item.kind != MP_ARRAY) return dyn__mp_refuse(c, "a list of extra keys is expected just before");
    count = item.size;
    for (uint32_t i = 0; i < count; i++) {
        if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
        id = item;
        if (item.kind == MP_ARRAY) {
            id.kind = MP_NIL;
            for (uint32_t k = 0, n = item.size; k < n; k++) {
                struct dyn__mp before = *c;
                if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
                if (k == 0) id = item;
                if (item.kind == MP_ARRAY || item.kind == MP_MAP) {
                    *c = before;
                    if ((rc = dyn__mp_skip(c)) < 0) return rc;
                }
            }
            if (id.kind != MP_STR && id.kind != MP_BIN)
                return dyn__mp_refuse(c, "an extra key without a name just before");
        } else if (id.kind == MP_STR && lora->kind == MP_STR && id.size == lora->size &&
                   memcmp(id.data, lora->data, id.size) == 0) {
            continue;
        } else if (id.kind == MP_STR && first && !is_hex64(&id)) {
            *salt = dyn_hash_seed(NULL, 0, (const char *)id.data, id.size) - DYN_HASH_SEED;
            continue;
        } else if (id.kind == MP_NIL || id.kind == MP_UINT || id.kind == MP_INT || id.kind == MP_BOOL) {
            continue;
        } else if (id.kind != MP_STR && id.kind != MP_BIN) {
            return dyn__mp_refuse(c, "an extra key of an unknown kind just before");
        }
        if (*mms < EXTRA_MAX) mm[(*mms)++] = mm_hash(id.data, id.size);
    }
    return DYN_OK;
}

/* One block's multimodal objects: nil or {"mm_objects": [{"mm_hash": u64, ...}]}. */
static int infos_of(struct dyn__mp *c, uint64_t *mm, unsigned *mms)
{
    struct dyn__mp_item item;
    uint32_t objects, pairs;
    int rc;
    *mms = 0;
    if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
    if (item.kind == MP_NIL) return DYN_OK;
    if (item.kind != MP_MAP) return dyn__mp_refuse(c, "multimodal infos are expected just before");
    for (uint32_t i = 0, n = item.size; i < n; i++) {
        if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
        if (!dyn__mp_is(&item, "mm_objects")) {
            if (item.kind == MP_ARRAY || item.kind == MP_MAP)
                return dyn__mp_refuse(c, "a name is expected just before");
            if ((rc = dyn__mp_skip(c)) < 0) return rc;
            continue;
        }
        if ((rc = dyn__mp_array(c, &objects)) < 0) return rc;
        for (; objects > 0; objects--) {
            if ((rc = dyn__mp_map(c, &pairs)) < 0) return rc;
            for (; pairs > 0; pairs--) {
                if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
                if (item.kind == MP_ARRAY || item.kind == MP_MAP) {
                    return dyn__mp_refuse(c, "a name is expected just before");
                }
                if (dyn__mp_is(&item, "mm_hash") && *mms < EXTRA_MAX)
                    rc = dyn__mp_uint(c, &mm[(*mms)++]);
                else
                    rc = dyn__mp_skip(c);
                if (rc < 0) return rc;
            }
        }
    }
    return DYN_OK;
}

static struct salted *salted_at(dyn_event_decoder *self, uint64_t block)
{
    return &self->salted[(block ^ block >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - 14)];
}

/* The local hashes of event.count blocks, out of self->tokens. */
static int local_hashes(dyn_event_decoder *self, const struct fields *f, size_t tokens, bool eagle)
{
    dyn_event *e = &self->event;
    struct dyn__mp_item lora, salt_item, list;
    struct dyn__mp rest, per_block = {0};
    uint64_t salt = 0, mm[EXTRA_MAX];
    unsigned mms;
    bool infos = false;
    int rc;

    if ((rc = item_of(f, LORA_NAME, &lora, &rest)) < 0 || (rc = item_of(f, SALT, &salt_item, &rest)) < 0) return rc;
    if (lora.kind != MP_STR) lora.size = 0;
    if (salt_item.kind == MP_STR) {
        salt = dyn_hash_seed(NULL, 0, (const char *)salt_item.data, salt_item.size) - DYN_HASH_SEED;
    }
    if ((rc = item_of(f, MM_INFOS, &list, &rest)) < 0) return rc;
    if (list.kind == MP_ARRAY && list.size > 0) {
        infos = true;
    } else if ((rc = item_of(f, EXTRA_KEYS, &list, &rest)) < 0) {
        return rc;
    }
    if (list.kind == MP_ARRAY && list.size > 0) per_block = rest;
    if (salt == 0 && e->has_parent && self->salted != NULL && salted_at(self, e->parent)->block == e->parent) {
        salt = salted_at(self, e->parent)->seed;
    }
    /* The salt, which is named once, must be known before any block is hashed. */
    if (per_block.at != NULL && !infos && !e->has_parent) {
        struct dyn__mp first = per_block;
        if ((rc = extra_of(&first, &lora, true, mm, &mms, &salt)) < 0) return rc;
    }
    uint64_t seed = dyn_hash_seed((const char *)lora.data, lora.size, NULL, 0) + salt;
    dyn_hash_blocks(self->tokens, tokens, self->block_size, eagle, seed, e->tokens_hashes);

    for (uint32_t i = 0; per_block.at != NULL && i < list.size && i < e->count; i++) {
        uint64_t ignored;
        rc = infos ? infos_of(&per_block, mm, &mms)
                   : extra_of(&per_block, &lora, i == 0 && !e->has_parent, mm, &mms, &ignored);
        if (rc < 0) return rc;
        if (mms == 0) continue;
        /* token bytes, then the sorted hashes as u64 LE: all of it is words of 32 bits */
        size_t window = self->block_size + (eagle ? 1 : 0), words = window + 2 * (size_t)mms;
        uint32_t *text = dyn__malloc(words * sizeof(*text));
        if (text == NULL) return DYN_ENOMEM;
        memcpy(text, self->tokens + i * (size_t)self->block_size, window * sizeof(*text));
        qsort(mm, mms, sizeof(*mm), by_value);
        for (unsigned k = 0; k < mms; k++) {
            text[window + 2 * k] = (uint32_t)mm[k];
            text[window + 2 * k + 1] = (uint32_t)(mm[k] >> 32);
        }
        dyn_hash_blocks(text, words, words, false, seed, &e->tokens_hashes[i]);
        dyn__free(text);
    }
    if (salt != 0) {
        if (self->salted == NULL && (self->salted = dyn__calloc(SALTED, sizeof(*self->salted))) == NULL) {
            return DYN_ENOMEM;
        }
        for (size_t i = 0; i < e->count; i++) {
            *salted_at(self, e->block_hashes[i]) = (struct salted){e->block_hashes[i], salt};
        }
    }
    return DYN_OK;
}

/* ---- events ----------------------------------------------------------------------------------- */

static int stored(dyn_event_decoder *self, const struct fields *f, bool *use)
{
    dyn_event *e = &self->event;
    struct dyn__mp_item item;
    struct dyn__mp rest;
    size_t tokens, blocks;
    bool eagle;
    int rc;

    e->kind = DYN_EVENT_STORED;
    if ((rc = item_of(f, BLOCK_SIZE, &item, &rest)) < 0) return rc;
    if (item.kind != MP_UINT) return dyn__fail(DYN_EPROTO, "KV events: BlockStored without a block_size");
    if (item.u != self->block_size) {
        self->stats.wrong_block_size++;
        if (self->complained_size++ < COMPLAINTS) {
            dyn_log(DYN_LOG_WARN, "events",
                    "ignored blocks of %llu tokens, blocks of %u are expected: start the engine with that block size",
                    (unsigned long long)item.u, self->block_size);
        }
        return DYN_OK;
    }
    if ((rc = hashes_of(self, f)) < 0) return rc;
    if ((rc = item_of(f, PARENT, &item, &rest)) < 0) return rc;
    e->has_parent = item.kind != MP_NIL;
    if (e->has_parent && (rc = hash_of(&rest, &item, &e->parent)) < 0) return rc;
    if ((rc = tokens_of(self, f, &tokens, &eagle)) < 0) return rc;
    blocks = dyn_hash_block_count(tokens, self->block_size, eagle);
    if (blocks < e->count) {
        self->stats.short_of_tokens += e->count - blocks;
        e->count = blocks;
    }
    tokens = e->count * self->block_size + (eagle && e->count > 0 ? 1 : 0);
    if ((rc = local_hashes(self, f, tokens, eagle)) < 0) return rc;
    *use = e->count > 0;
    return DYN_OK;
}

/* Find the fields of one event; `tag` gets its name. */
static int find_fields(struct dyn__mp *c, struct fields *f, struct dyn__mp_item *tag)
{
    struct dyn__mp_item item;
    int rc;
    memset(f, 0, sizeof(*f));
    *tag = (struct dyn__mp_item){.kind = MP_NIL};
    if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
    if (item.kind == MP_MAP) {
        for (uint32_t i = 0, pairs = item.size; i < pairs; i++) {
            if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
            if (item.kind != MP_STR) return dyn__mp_refuse(c, "the name of a field is expected just before");
            struct dyn__mp value = *c;
            if ((rc = dyn__mp_skip(c)) < 0) return rc;
            value.end = c->at;
            if (dyn__mp_is(&item, "type")) {
                if ((rc = dyn__mp_next(&value, tag)) < 0) return rc;
                continue;
            }
            for (int k = 0; k < FIELDS; k++) {
                if (dyn__mp_is(&item, field_names[k])) {
                    f->at[k] = value;
                    break;
                }
            }
        }
        return DYN_OK;
    }
    if (item.kind != MP_ARRAY || item.size == 0) return dyn__mp_refuse(c, "an event is expected just before");
    uint32_t count = item.size - 1;
    if ((rc = dyn__mp_next(c, tag)) < 0) return rc;
    if (tag->kind != MP_STR) return dyn__mp_refuse(c, "the name of an event is expected just before");
    struct dyn__mp value[16] = {{0}};
    for (uint32_t i = 0; i < count; i++) {
        struct dyn__mp from = *c;
        if ((rc = dyn__mp_skip(c)) < 0) return rc;
        from.end = c->at;
        if (i < DYN__COUNT(value)) value[i] = from;
    }
    if (dyn__mp_is(tag, "BlockRemoved")) { /* hashes, medium, group, kind, window */
        f->at[HASHES] = value[0], f->at[MEDIUM] = value[1], f->at[GROUP] = value[2], f->at[KIND] = value[3];
        return DYN_OK;
    }
    for (int k = HASHES; k <= EXTRA_KEYS; k++) f->at[k] = value[k];
    /* Some versions have block_mm_infos before the group, others not: the kind, a text, tells which. */
    int shift = 0;
    for (int at = MM_INFOS; at <= GROUP; at++) {
        struct dyn__mp probe = value[at + 1];
        if (probe.at == NULL || dyn__mp_next(&probe, &item) < 0 || item.kind != MP_STR) continue;
        shift = at == GROUP ? 1 : 0;
        f->at[GROUP] = value[at], f->at[KIND] = value[at + 1];
    }
    struct dyn__mp probe = value[MM_INFOS];
    if (f->at[KIND].at == NULL && probe.at != NULL && dyn__mp_next(&probe, &item) == DYN_OK) {
        shift = item.kind == MP_ARRAY;
        if (item.kind == MP_UINT) f->at[GROUP] = value[MM_INFOS];
    }
    if (shift) f->at[MM_INFOS] = value[MM_INFOS];
    return DYN_OK;
}

static int event(dyn_event_decoder *self, struct dyn__mp *c, uint32_t rank, int (*each)(void *, const dyn_event *),
                 void *user)
{
    struct fields f;
    struct dyn__mp_item tag;
    bool ours = true, use = false;
    dyn_event *e = &self->event;
    int rc;

    if ((rc = find_fields(c, &f, &tag)) < 0) return rc;
    e->dp_rank = rank, e->tier = DYN_TIER_DEVICE, e->count = 0, e->has_parent = false;
    e->worker_id = e->event_id = e->parent = 0;
    if (dyn__mp_is(&tag, "AllBlocksCleared")) {
        e->kind = DYN_EVENT_CLEARED, use = true;
    } else if (dyn__mp_is(&tag, "BlockStored")) {
        if ((rc = is_ours(self, &f, &ours)) == DYN_OK && ours) rc = stored(self, &f, &use);
    } else if (dyn__mp_is(&tag, "BlockRemoved")) {
        if ((rc = is_ours(self, &f, &ours)) == DYN_OK && ours) rc = hashes_of(self, &f);
        e->kind = DYN_EVENT_REMOVED, use = rc == DYN_OK && e->count > 0;
    } else {
        self->stats.unknown++;
    }
    if (rc < 0) return rc;
    self->stats.events++;
    return use ? each(user, e) : DYN_OK;
}

int dyn_event_decode(dyn_event_decoder *self, const uint8_t *bytes, size_t size, uint32_t dp_rank,
                     int (*each)(void *user, const dyn_event *event), void *user)
{
    struct dyn__mp c = {bytes, bytes + size, bytes}, whole = c, events = {0}, rank = {0};
    struct dyn__mp_item item;
    uint32_t count;
    int rc;

    /* All of it must be well-formed before any of it is used. */
    if ((rc = dyn__mp_skip(&whole)) < 0) return rc;
    if (whole.at != whole.end) return dyn__mp_refuse(&whole, "bytes after the end");
    if ((rc = dyn__mp_next(&c, &item)) < 0) return rc;
    if (item.kind == MP_ARRAY) {
        count = item.size;
        for (uint32_t i = 0; i < count; i++) {
            if (i == 1) events = c;
            if (i == 2) rank = c;
            if ((rc = dyn__mp_skip(&c)) < 0) return rc;
        }
    } else if (item.kind == MP_MAP) {
        for (uint32_t i = 0, pairs = item.size; i < pairs; i++) {
            struct dyn__mp before = c;
            if ((rc = dyn__mp_next(&c, &item)) < 0) return rc;
            if (item.kind == MP_ARRAY || item.kind == MP_MAP) return dyn__mp_refuse(&before, "a name is expected");
            if (dyn__mp_is(&item, "events")) events = c;
            if (dyn__mp_is(&item, "data_parallel_rank") || dyn__mp_is(&item, "attn_dp_rank")) rank = c;
            if ((rc = dyn__mp_skip(&c)) < 0) return rc;
        }
    }
    if (events.at == NULL) return dyn__mp_refuse(&c, "a batch without events");
    if (rank.at != NULL) {
        struct dyn__mp probe = rank;
        if ((rc = dyn__mp_next(&probe, &item)) < 0) return rc;
        if (item.kind != MP_NIL && (rc = dyn__mp_u32(&rank, &dp_rank)) < 0) return rc;
    }
    if ((rc = dyn__mp_array(&events, &count)) < 0) return rc;
    for (; count > 0; count--) {
        if ((rc = event(self, &events, dp_rank, each, user)) < 0) return rc;
    }
    self->stats.batches++;
    return DYN_OK;
}
