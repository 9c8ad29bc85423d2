/* events/pack.h -- inside events: msgpack read by a bounded cursor, written by msgpack-c into a growing buffer.
 *
 * Reading has a cursor of our own: msgpack-c's unpacker takes memory for as many elements as a header claims,
 * before it has seen them. Here nothing is allocated, and a count larger than the bytes that are left is refused.
 */
#ifndef DYN_SRC_EVENTS_PACK_H
#define DYN_SRC_EVENTS_PACK_H

#include <msgpack/pack.h>

#include "common/common.h"

enum dyn__mp_kind { MP_NIL, MP_BOOL, MP_UINT, MP_INT, MP_FLOAT, MP_STR, MP_BIN, MP_EXT, MP_ARRAY, MP_MAP };

struct dyn__mp {
    const uint8_t *at, *end, *start;
};
struct dyn__mp_item {
    enum dyn__mp_kind kind;
    uint32_t size;       /* bytes of STR, BIN, EXT; elements of ARRAY; pairs of MAP */
    const uint8_t *data; /* STR, BIN, EXT: borrowed from the input */
    union {
        uint64_t u; /* UINT, BOOL; the two's complement of INT, which is always negative */
        double f;
    };
};

/* Refuse: DYN_EPROTO with what and where. */
int dyn__mp_refuse(const struct dyn__mp *c, const char *what);
/* The next item; of an array or a map only the head, its elements follow. */
int dyn__mp_next(struct dyn__mp *c, struct dyn__mp_item *item);
/* Over the next item with all that is in it, at most 64 levels. */
int dyn__mp_skip(struct dyn__mp *c);
bool dyn__mp_is(const struct dyn__mp_item *item, const char *text); /* a STR of exactly this text */
/* The next item, which must be what the name says. uint: any integer, negative ones as two's complement. */
int dyn__mp_array(struct dyn__mp *c, uint32_t *count);
int dyn__mp_map(struct dyn__mp *c, uint32_t *pairs);
int dyn__mp_uint(struct dyn__mp *c, uint64_t *out);
int dyn__mp_u32(struct dyn__mp *c, uint32_t *out);

/* Bytes that grow. After a failed allocation `failed` stays set and appends do nothing. */
struct dyn__mp_out {
    uint8_t *data;
    size_t size, room;
    bool failed;
};
void dyn__mp_out_free(struct dyn__mp_out *self);
uint8_t *dyn__mp_out_grow(struct dyn__mp_out *self, size_t more);  /* room for `more` at the end; NULL: failed */
int dyn__mp_out_append(void *self, const char *data, size_t size); /* msgpack_packer_write */
void dyn__mp_text(msgpack_packer *p, const char *text);

#endif
