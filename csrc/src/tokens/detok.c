/* detok.c -- see dynamo/tokens.h for the contract.
 *
 *   token bytes ... | E2 82 | AC 20 | ...
 *                     ^^^^^ part: waits until AC completes U+20AC
 *
 * I1  part[0..seen) is a proper prefix of at least one valid UTF-8 character; seen < needed + 1 <= 4.
 * I2  [lower, upper] is what the next byte of that character may be (the Unicode standard's table 3-7).
 * I3  What was written is valid UTF-8: room for the worst case is made before the first byte is taken.
 */
#include "common/common.h"
#include "dynamo/tokens.h"

struct dyn_vocab {
    atomic_size_t refs;
    size_t count;
    unsigned options;
    uint32_t *ends; /* ends[id]; bytes and flags follow in the same allocation */
    uint8_t *flags;
    uint8_t *bytes;
};

int dyn_vocab_new(dyn_vocab **out, const uint8_t *bytes, size_t size, const uint32_t *ends, const uint8_t *flags,
                  size_t count, unsigned options)
{
    if (size > (size_t)1 << 31 || count > (size_t)1 << 28)
        return dyn__fail(DYN_ERANGE, "a vocabulary of %zu tokens and %zu bytes is over the bound", count, size);
    for (size_t i = 0; i < count; i++) {
        if (ends[i] > size || (i > 0 && ends[i] < ends[i - 1]))
            return dyn__fail(DYN_EINVAL, "the bytes of token %zu end at %u, which descends or leaves the %zu bytes", i,
                             (unsigned)ends[i], size);
    }
    dyn_vocab *self = dyn__malloc(sizeof(*self) + count * (sizeof(*ends) + 1) + size);
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    self->count = count;
    self->options = options;
    self->ends = (uint32_t *)(self + 1);
    self->flags = (uint8_t *)(self->ends + count);
    self->bytes = self->flags + count;
    if (count > 0) memcpy(self->ends, ends, count * sizeof(*ends));
    if (count > 0 && flags != NULL) memcpy(self->flags, flags, count);
    if (flags == NULL) memset(self->flags, 0, count);
    if (size > 0) memcpy(self->bytes, bytes, size);
    *out = self;
    return DYN_OK;
}

dyn_vocab *dyn_vocab_ref(dyn_vocab *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_vocab_unref(dyn_vocab *self)
{
    if (self == NULL) return;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1) dyn__free(self);
}

size_t dyn_vocab_count(const dyn_vocab *self)
{
    return self->count;
}

const uint8_t *dyn_vocab_bytes(const dyn_vocab *self, uint32_t id, size_t *size)
{
    if (id >= self->count) return *size = 0, self->bytes;
    uint32_t begin = id > 0 ? self->ends[id - 1] : 0;
    *size = self->ends[id] - begin;
    return self->bytes + begin;
}

bool dyn_vocab_special(const dyn_vocab *self, uint32_t id)
{
    return id < self->count && (self->flags[id] & DYN_TOKEN_SPECIAL) != 0;
}

struct dyn_detok {
    dyn_vocab *vocab;
    unsigned flags;
    bool strip; /* the next byte is the first of the text, and a space there goes */
    uint8_t part[4];
    uint8_t seen, needed; /* bytes in part; bytes that must follow the first one. 0: between characters */
    uint8_t lower, upper; /* I2 */
};

static void start(dyn_detok *self)
{
    self->seen = self->needed = 0;
    self->strip = (self->flags & DYN_DETOK_AT_START) && (self->vocab->options & DYN_VOCAB_STRIP_SPACE);
}

int dyn_detok_new(dyn_detok **out, dyn_vocab *vocab, unsigned flags)
{
    dyn_detok *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->vocab = dyn_vocab_ref(vocab);
    self->flags = flags;
    start(self);
    *out = self;
    return DYN_OK;
}

void dyn_detok_free(dyn_detok *self)
{
    if (self == NULL) return;
    dyn_vocab_unref(self->vocab);
    dyn__free(self);
}

static char *put_replacement(char *to)
{
    memcpy(to, "\xEF\xBF\xBD", 3);
    return to + 3;
}

/* The first byte of a character, or a byte that cannot be one. */
static char *lead(dyn_detok *self, uint8_t byte, char *to)
{
    self->lower = 0x80, self->upper = 0xBF;
    if (byte >= 0xC2 && byte <= 0xDF) {
        self->needed = 1;
    } else if (byte >= 0xE0 && byte <= 0xEF) {
        self->needed = 2;
        if (byte == 0xE0) self->lower = 0xA0; /* no overlong forms */
        if (byte == 0xED) self->upper = 0x9F; /* no surrogates */
    } else if (byte >= 0xF0 && byte <= 0xF4) {
        self->needed = 3;
        if (byte == 0xF0) self->lower = 0x90;
        if (byte == 0xF4) self->upper = 0x8F; /* nothing above U+10FFFF */
    } else {
        return put_replacement(to);
    }
    self->part[0] = byte;
    self->seen = 1;
    return to;
}

static char *push_bytes(dyn_detok *self, const uint8_t *bytes, size_t size, char *to)
{
    for (size_t i = 0; i < size;) {
        uint8_t byte = bytes[i];
        if (self->seen == 0) {
            if (byte < 0x80) {
                size_t run = i;
                while (run < size && bytes[run] < 0x80) run++;
                memcpy(to, bytes + i, run - i);
                to += run - i;
                i = run;
            } else {
                to = lead(self, byte, to);
                i++;
            }
        } else if (byte < self->lower || byte > self->upper) {
            self->seen = 0; /* the part cannot become a character; look at this byte again as a first one */
            to = put_replacement(to);
        } else {
            self->part[self->seen++] = byte;
            self->lower = 0x80, self->upper = 0xBF;
            i++;
            if (self->seen > self->needed) {
                memcpy(to, self->part, self->seen);
                to += self->seen;
                self->seen = 0;
            }
        }
    }
    return to;
}

int dyn_detok_push(dyn_detok *self, const uint32_t *ids, size_t count, dyn_text *out)
{
    const dyn_vocab *vocab = self->vocab;
    bool special = (self->flags & DYN_DETOK_SPECIAL) != 0;
    size_t worst = 4, size;

    for (size_t i = 0; i < count; i++) {
        dyn_vocab_bytes(vocab, ids[i], &size);
        worst += size * 3; /* every byte by itself as U+FFFD */
    }
    int rc = dyn_text_reserve(out, worst);
    if (rc < 0) return rc;
    char *to = out->data + out->size;
    for (size_t i = 0; i < count; i++) {
        if (!special && dyn_vocab_special(vocab, ids[i])) continue;
        const uint8_t *bytes = dyn_vocab_bytes(vocab, ids[i], &size);
        if (self->strip && size > 0) {
            self->strip = false;
            if (bytes[0] == ' ') bytes++, size--;
        }
        to = push_bytes(self, bytes, size, to);
    }
    out->size = (size_t)(to - out->data);
    assert(out->size <= out->room); /* I3 */
    return DYN_OK;
}

int dyn_detok_end(dyn_detok *self, dyn_text *out)
{
    int rc = self->seen > 0 ? dyn_text_append(out, "\xEF\xBF\xBD", 3) : DYN_OK;
    if (rc == DYN_OK) start(self);
    return rc;
}
