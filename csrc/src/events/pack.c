/* pack.c -- see events/pack.h. */
#include "events/pack.h"

enum { DEPTH = 64 };

int dyn__mp_refuse(const struct dyn__mp *c, const char *what)
{
    return dyn__fail(DYN_EPROTO, "KV events: %s at byte %zu", what, (size_t)(c->at - c->start));
}

static inline uint64_t big_endian(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++) v = v << 8 | p[i];
    return v;
}

static int bytes(struct dyn__mp *c, struct dyn__mp_item *item, enum dyn__mp_kind kind, uint64_t size)
{
    if (size > (size_t)(c->end - c->at)) return dyn__mp_refuse(c, "the message ends inside a string");
    item->kind = kind, item->size = (uint32_t)size, item->data = c->at;
    c->at += size;
    return DYN_OK;
}

static int container(struct dyn__mp *c, struct dyn__mp_item *item, enum dyn__mp_kind kind, uint64_t count)
{
    if ((kind == MP_MAP ? 2 : 1) * count > (size_t)(c->end - c->at)) {
        return dyn__mp_refuse(c, "a count larger than the message");
    }
    item->kind = kind, item->size = (uint32_t)count;
    return DYN_OK;
}

int dyn__mp_next(struct dyn__mp *c, struct dyn__mp_item *item)
{
    static const uint8_t width[32] = {[0x04] = 1, [0x05] = 2, [0x06] = 4, [0x07] = 1, [0x08] = 2, [0x09] = 4,
                                      [0x0a] = 4, [0x0b] = 8, [0x0c] = 1, [0x0d] = 2, [0x0e] = 4, [0x0f] = 8,
                                      [0x10] = 1, [0x11] = 2, [0x12] = 4, [0x13] = 8, [0x19] = 1, [0x1a] = 2,
                                      [0x1b] = 4, [0x1c] = 2, [0x1d] = 4, [0x1e] = 2, [0x1f] = 4};
    uint64_t v;
    if (c->at >= c->end) return dyn__mp_refuse(c, "the message ends where an item is expected");
    uint8_t tag = *c->at;
    item->data = NULL, item->size = 0, item->u = 0;
    if (tag < 0x80 || tag >= 0xe0) {
        item->kind = tag < 0x80 ? MP_UINT : MP_INT;
        item->u = (uint64_t)(int64_t)(int8_t)tag;
        c->at++;
        return DYN_OK;
    }
    unsigned wide = tag >= 0xc0 ? width[tag - 0xc0] : 0;
    if ((size_t)(c->end - c->at) < 1 + wide) return dyn__mp_refuse(c, "the message ends inside an item");
    v = big_endian(c->at + 1, wide);
    c->at += 1 + wide;
    if (tag < 0x90) return container(c, item, MP_MAP, tag & 0x0f);
    if (tag < 0xa0) return container(c, item, MP_ARRAY, tag & 0x0f);
    if (tag < 0xc0) return bytes(c, item, MP_STR, tag & 0x1f);
    switch (tag) {
    case 0xc0: item->kind = MP_NIL; return DYN_OK;
    case 0xc2:
    case 0xc3: item->kind = MP_BOOL, item->u = tag & 1; return DYN_OK;
    case 0xc4:
    case 0xc5:
    case 0xc6: return bytes(c, item, MP_BIN, v);
    case 0xc7:
    case 0xc8:
    case 0xc9: return bytes(c, item, MP_EXT, v + 1);
    case 0xca: {
        uint32_t bits = (uint32_t)v;
        float f;
        memcpy(&f, &bits, sizeof(f));
        item->kind = MP_FLOAT, item->f = (double)f;
        return DYN_OK;
    }
    case 0xcb: item->kind = MP_FLOAT, memcpy(&item->f, &v, sizeof(v)); return DYN_OK;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf: item->kind = MP_UINT, item->u = v; return DYN_OK;
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        item->u = wide == 8 ? v : (uint64_t)((int64_t)(v << (64 - 8 * wide)) >> (64 - 8 * wide));
        item->kind = (int64_t)item->u < 0 ? MP_INT : MP_UINT;
        return DYN_OK;
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8: return bytes(c, item, MP_EXT, 1 + (1u << (tag - 0xd4)));
    case 0xd9:
    case 0xda:
    case 0xdb: return bytes(c, item, MP_STR, v);
    case 0xdc:
    case 0xdd: return container(c, item, MP_ARRAY, v);
    case 0xde:
    case 0xdf: return container(c, item, MP_MAP, v);
    default: c->at -= 1 + wide; return dyn__mp_refuse(c, "a byte that msgpack does not use");
    }
}

/* Bytes of an item by its first byte, where that alone says it; 0: it does not (FIXSTR is computed). */
static const uint8_t sizes[256] = {[0x00 ... 0x7f] = 1, [0xc0] = 1, [0xc2 ... 0xc3] = 1, [0xca] = 5,         [0xcb] = 9,
                                   [0xcc] = 2,          [0xcd] = 3, [0xce] = 5,          [0xcf] = 9,         [0xd0] = 2,
                                   [0xd1] = 3,          [0xd2] = 5, [0xd3] = 9,          [0xe0 ... 0xff] = 1};

int dyn__mp_skip(struct dyn__mp *c)
{
    uint64_t left[DEPTH]; /* items still to come on each level */
    unsigned depth = 0;
    struct dyn__mp_item item;
    int rc;
    left[0] = 1;
    for (;;) {
        while (left[depth] == 0) {
            if (depth == 0) return DYN_OK;
            depth--;
        }
        while (left[depth] > 0 && c->at < c->end) { /* a run of items without anything inside */
            uint8_t tag = *c->at;
            size_t size = tag >= 0xa0 && tag < 0xc0 ? 1 + (size_t)(tag & 0x1f) : sizes[tag];
            if (size == 0 || size > (size_t)(c->end - c->at)) break;
            c->at += size;
            left[depth]--;
        }
        if (left[depth] == 0) continue;
        left[depth]--;
        if ((rc = dyn__mp_next(c, &item)) < 0) return rc;
        if ((item.kind != MP_ARRAY && item.kind != MP_MAP) || item.size == 0) continue;
        if (depth + 1 == DEPTH) return dyn__mp_refuse(c, "nested deeper than 64");
        left[++depth] = item.kind == MP_MAP ? 2 * (uint64_t)item.size : item.size;
    }
}

bool dyn__mp_is(const struct dyn__mp_item *item, const char *text)
{
    return item->kind == MP_STR && item->size == strlen(text) && memcmp(item->data, text, item->size) == 0;
}

int dyn__mp_array(struct dyn__mp *c, uint32_t *count)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(c, &item);
    if (rc < 0) return rc;
    if (item.kind != MP_ARRAY) return dyn__mp_refuse(c, "an array is expected just before");
    *count = item.size;
    return DYN_OK;
}

int dyn__mp_map(struct dyn__mp *c, uint32_t *pairs)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(c, &item);
    if (rc < 0) return rc;
    if (item.kind != MP_MAP) return dyn__mp_refuse(c, "a map is expected just before");
    *pairs = item.size;
    return DYN_OK;
}

int dyn__mp_uint(struct dyn__mp *c, uint64_t *out)
{
    struct dyn__mp_item item;
    int rc = dyn__mp_next(c, &item);
    if (rc < 0) return rc;
    if (item.kind != MP_UINT && item.kind != MP_INT) return dyn__mp_refuse(c, "an integer is expected just before");
    *out = item.u;
    return DYN_OK;
}

int dyn__mp_u32(struct dyn__mp *c, uint32_t *out)
{
    uint64_t v = 0;
    int rc = dyn__mp_uint(c, &v);
    if (rc < 0) return rc;
    if (v > UINT32_MAX) return dyn__mp_refuse(c, "an integer does not fit into 32 bits just before");
    *out = (uint32_t)v;
    return DYN_OK;
}

/* ---- growing bytes ---------------------------------------------------------------------------- */

void dyn__mp_out_free(struct dyn__mp_out *self)
{
    dyn__free(self->data);
    *self = (struct dyn__mp_out){0};
}

uint8_t *dyn__mp_out_grow(struct dyn__mp_out *self, size_t more)
{
    if (self->failed) return NULL;
    if (more > self->room - self->size) {
        size_t room = self->room ? self->room : 256;
        while (room - self->size < more && room < SIZE_MAX / 2) room *= 2;
        uint8_t *data = room - self->size < more ? NULL : dyn__realloc(self->data, room);
        if (data == NULL) {
            self->failed = true;
            return NULL;
        }
        self->data = data;
        self->room = room;
    }
    return self->data + self->size;
}

int dyn__mp_out_append(void *self_, const char *data, size_t size)
{
    struct dyn__mp_out *self = self_;
    uint8_t *at = dyn__mp_out_grow(self, size);
    if (at == NULL) return -1;
    if (size > 0) memcpy(at, data, size);
    self->size += size;
    return 0;
}

void dyn__mp_text(msgpack_packer *p, const char *text)
{
    size_t size = strlen(text);
    msgpack_pack_str(p, size);
    msgpack_pack_str_body(p, text, size);
}
