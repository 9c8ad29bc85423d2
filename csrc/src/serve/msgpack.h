/* serve/msgpack.h -- a cursor over msgpack bytes that someone else made.
 *
 * msgpack-c builds a tree and allocates by the counts that the sender claims; per token, and from strangers, a cursor is
 * both cheaper and bounded: it allocates nothing, and a count is believed only as far as there are bytes.
 *
 * Every function says false when the bytes are not what was asked for or end too early; the cursor is then
 * of no more use.
 */
#ifndef DYN_SRC_SERVE_MSGPACK_H
#define DYN_SRC_SERVE_MSGPACK_H

#include "common/common.h"

struct cursor {
    const uint8_t *at, *end;
};

enum kind { KIND_NIL, KIND_BOOL, KIND_INT, KIND_FLOAT, KIND_STR, KIND_BIN, KIND_ARRAY, KIND_MAP, KIND_EXT, KIND_NONE };

/* What comes next; KIND_NONE at the end and for the byte that msgpack never uses. */
enum kind dyn__cursor_kind(const struct cursor *self);
bool dyn__cursor_skip(struct cursor *self);                                /* any one value */
bool dyn__cursor_uint(struct cursor *self, uint64_t *out);                 /* an integer that is not negative */
bool dyn__cursor_number(struct cursor *self, double *out);                 /* an integer or a float */
bool dyn__cursor_str(struct cursor *self, const char **out, size_t *size); /* str or bin, borrowed */
bool dyn__cursor_array(struct cursor *self, uint32_t *count);              /* then count values */
bool dyn__cursor_map(struct cursor *self, uint32_t *count);                /* then count times key, value */
bool dyn__cursor_ext(struct cursor *self, int8_t *type, const uint8_t **out, size_t *size);

static inline bool dyn__str_is(const char *text, size_t size, const char *name)
{
    return size == strlen(name) && memcmp(text, name, size) == 0;
}

#endif
