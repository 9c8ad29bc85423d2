/* msgpack.c -- see serve/msgpack.h. */
#include "serve/msgpack.h"

static bool big(struct cursor *self, size_t bytes, uint64_t *out)
{
    uint64_t value = 0;
    if ((size_t)(self->end - self->at) < bytes) return false;
    for (size_t i = 0; i < bytes; i++) value = value << 8 | self->at[i];
    self->at += bytes;
    *out = value;
    return true;
}

enum kind dyn__cursor_kind(const struct cursor *self)
{
    static const uint8_t kinds[32] = {/* 0xc0 .. 0xdf */
                                      KIND_NIL,   KIND_NONE,  KIND_BOOL, KIND_BOOL,  KIND_BIN,   KIND_BIN, KIND_BIN,
                                      KIND_EXT,   KIND_EXT,   KIND_EXT,  KIND_FLOAT, KIND_FLOAT, KIND_INT, KIND_INT,
                                      KIND_INT,   KIND_INT,   KIND_INT,  KIND_INT,   KIND_INT,   KIND_INT, KIND_EXT,
                                      KIND_EXT,   KIND_EXT,   KIND_EXT,  KIND_EXT,   KIND_STR,   KIND_STR, KIND_STR,
                                      KIND_ARRAY, KIND_ARRAY, KIND_MAP,  KIND_MAP};
    if (self->at >= self->end) return KIND_NONE;
    uint8_t byte = *self->at;
    if (byte < 0x80 || byte >= 0xe0) return KIND_INT;
    if (byte < 0x90) return KIND_MAP;
    if (byte < 0xa0) return KIND_ARRAY;
    if (byte < 0xc0) return KIND_STR;
    return (enum kind)kinds[byte - 0xc0];
}

/* The head of a value whose size or count is in it. fix: how many the small form may have - 1; base: its first byte. */
static bool head(struct cursor *self, uint8_t base, uint8_t fix, uint8_t wide, uint8_t widths, uint64_t *out)
{
    uint8_t byte = *self->at++; /* the caller asked for its kind, so it is there */
    if (byte >= base && byte <= base + fix) return *out = byte - base, true;
    /* `wide` is the form with a size of one byte (widths 1) or two bytes (widths 2); the next ones double it. */
    return big(self, (size_t)widths << (byte - wide), out);
}

bool dyn__cursor_str(struct cursor *self, const char **out, size_t *size)
{
    uint64_t length;
    enum kind kind = dyn__cursor_kind(self);
    if (kind == KIND_STR) {
        if (!head(self, 0xa0, 31, 0xd9, 1, &length)) return false;
    } else if (kind == KIND_BIN) {
        uint8_t byte = *self->at++;
        if (!big(self, (size_t)1 << (byte - 0xc4), &length)) return false;
    } else {
        return false;
    }
    if (length > (size_t)(self->end - self->at)) return false;
    *out = (const char *)self->at;
    *size = (size_t)length;
    self->at += length;
    return true;
}

bool dyn__cursor_array(struct cursor *self, uint32_t *count)
{
    uint64_t n;
    if (dyn__cursor_kind(self) != KIND_ARRAY || !head(self, 0x90, 15, 0xdc, 2, &n)) return false;
    if (n > (size_t)(self->end - self->at)) return false; /* each value has a byte at least */
    *count = (uint32_t)n;
    return true;
}

bool dyn__cursor_map(struct cursor *self, uint32_t *count)
{
    uint64_t n;
    if (dyn__cursor_kind(self) != KIND_MAP || !head(self, 0x80, 15, 0xde, 2, &n)) return false;
    if (n > (size_t)(self->end - self->at) / 2) return false;
    *count = (uint32_t)n;
    return true;
}

bool dyn__cursor_ext(struct cursor *self, int8_t *type, const uint8_t **out, size_t *size)
{
    uint64_t length, kind;
    if (dyn__cursor_kind(self) != KIND_EXT) return false;
    uint8_t byte = *self->at++;
    if (byte >= 0xd4) {
        length = (uint64_t)1 << (byte - 0xd4);
    } else if (!big(self, (size_t)1 << (byte - 0xc7), &length)) {
        return false;
    }
    if (!big(self, 1, &kind) || length > (size_t)(self->end - self->at)) return false;
    *type = (int8_t)kind;
    *out = self->at;
    *size = (size_t)length;
    self->at += length;
    return true;
}

static bool integer(struct cursor *self, uint64_t *out, bool *negative)
{
    *negative = false;
    if (dyn__cursor_kind(self) != KIND_INT) return false;
    uint8_t byte = *self->at++;
    if (byte < 0x80) return *out = byte, true;
    if (byte >= 0xe0) return *negative = true, *out = (uint64_t)(int64_t)(int8_t)byte, true;
    if (byte <= 0xcf) return big(self, (size_t)1 << (byte - 0xcc), out);
    size_t bytes = (size_t)1 << (byte - 0xd0);
    if (!big(self, bytes, out)) return false;
    uint64_t sign = (uint64_t)1 << (bytes * 8 - 1);
    *negative = (*out & sign) != 0;
    if (*negative) *out |= ~(sign - 1); /* to 64 bits */
    return true;
}

bool dyn__cursor_uint(struct cursor *self, uint64_t *out)
{
    bool negative;
    return integer(self, out, &negative) && !negative;
}

bool dyn__cursor_number(struct cursor *self, double *out)
{
    uint64_t bits;
    bool negative;
    if (dyn__cursor_kind(self) == KIND_FLOAT) {
        bool small = *self->at++ == 0xca;
        if (!big(self, small ? 4 : 8, &bits)) return false;
        if (small) {
            uint32_t narrow = (uint32_t)bits;
            float value;
            memcpy(&value, &narrow, sizeof(value));
            *out = (double)value;
        } else {
            memcpy(out, &bits, sizeof(*out));
        }
        return true;
    }
    if (!integer(self, &bits, &negative)) return false;
    *out = negative ? (double)(int64_t)bits : (double)bits;
    return true;
}

bool dyn__cursor_skip(struct cursor *self)
{
    /* Not recursive: what is open is one number, so depth costs nothing. */
    for (uint64_t left = 1; left > 0; left--) {
        const char *text;
        const uint8_t *bytes;
        uint64_t bits;
        uint32_t count;
        size_t size;
        double number;
        int8_t type;
        bool negative;
        switch (dyn__cursor_kind(self)) {
        case KIND_NIL:
        case KIND_BOOL: self->at++; break;
        case KIND_INT:
            if (!integer(self, &bits, &negative)) return false;
            break;
        case KIND_FLOAT:
            if (!dyn__cursor_number(self, &number)) return false;
            break;
        case KIND_STR:
        case KIND_BIN:
            if (!dyn__cursor_str(self, &text, &size)) return false;
            break;
        case KIND_EXT:
            if (!dyn__cursor_ext(self, &type, &bytes, &size)) return false;
            break;
        case KIND_ARRAY:
            if (!dyn__cursor_array(self, &count)) return false;
            left += count;
            break;
        case KIND_MAP:
            if (!dyn__cursor_map(self, &count)) return false;
            left += (uint64_t)count * 2;
            break;
        case KIND_NONE: return false;
        }
        if (left > (uint64_t)(self->end - self->at) + 1) return false;
    }
    return true;
}
