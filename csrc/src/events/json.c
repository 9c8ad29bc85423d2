/* json.c -- Dynamo's KV events as JSON: a reader for this one shape, and a writer.
 *
 * A general parser builds a tree of what we only walk through once, and jansson refuses integers above 2^63-1.
 * This one goes straight into the arrays of a dyn_event: about a nanosecond for a byte is what it may cost.
 * Every read looks at `end` first; the text need not be terminated.
 */
#include <stdarg.h>
#include <stdio.h>

#include "common/common.h"
#include "dynamo/events.h"

enum { DEPTH = 64 }; /* of what is skipped; the shape itself is six deep */

struct reader {
    const char *at, *end, *start;
};
struct name {
    const char *text; /* with its closing quote */
    unsigned size;    /* with its closing quote */
};
#define NAME(text) {text "\"", sizeof(text "\"") - 1}

static int refuse(struct reader *r, const char *at, const char *format, ...) DYN_PRINTF(3, 4);
static int refuse(struct reader *r, const char *at, const char *format, ...)
{
    char what[160];
    size_t line = 1, column = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    for (const char *p = r->start; p < at && p < r->end; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return dyn__fail(DYN_EPROTO, "KV event: %s at line %zu column %zu", what, line, column);
}

static inline void space(struct reader *r)
{
    const char *p = r->at, *end = r->end;
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    r->at = p;
}

/* The next character that is not space; 0 at the end. Does not move past it. */
static inline char peek(struct reader *r)
{
    if (DYN__LIKELY(r->at < r->end && (unsigned char)*r->at > ' ')) return *r->at;
    space(r);
    return r->at < r->end ? *r->at : 0;
}

static int expect(struct reader *r, char want)
{
    char got = peek(r);
    if (DYN__LIKELY(got == want)) return r->at++, DYN_OK;
    if (r->at >= r->end) return refuse(r, r->at, "the text ends where `%c` is expected", want);
    return refuse(r, r->at, "expected `%c`, found `%c`", want, got >= ' ' && got < 127 ? got : '?');
}

static inline bool word(struct reader *r, const char *text, size_t size)
{
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, text, size) != 0) return false;
    r->at += size;
    return true;
}
#define WORD(r, text) word(r, text, sizeof(text) - 1)

/* ---- numbers ---------------------------------------------------------------------------------- */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* Eight digits at once: pairs, then fours, then eight. False unless all eight are digits. */
static inline bool eight(const char *p, uint64_t *out)
{
    uint64_t v;
    memcpy(&v, p, 8);
    if ((((v & 0xF0F0F0F0F0F0F0F0) | (((v + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) >> 4)) != 0x3333333333333333)) {
        return false;
    }
    v &= 0x0F0F0F0F0F0F0F0F;
    v = (v * 10 + (v >> 8)) & 0x00FF00FF00FF00FF;
    v = (v * 100 + (v >> 16)) & 0x0000FFFF0000FFFF;
    *out = (v * 10000 + (v >> 32)) & 0xFFFFFFFF;
    return true;
}
#else
static inline bool eight(const char *p, uint64_t *out)
{
    (void)p, (void)out;
    return false;
}
#endif

/* An unsigned integer; with `negative` also a negative one, as its two's complement. */
static int number(struct reader *r, bool negative, uint64_t *out)
{
    uint64_t value = 0, part;
    bool minus = peek(r) == '-';
    const char *first, *p = r->at + minus, *end = r->end;
    first = p;
    if (end - p >= 20) { /* the whole of a long hash can be looked at */
        if (eight(p, &value)) {
            p += 8;
            if (eight(p, &part)) value = value * 100000000 + part, p += 8;
        } else {
            value = 0;
        }
    }
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        unsigned digit = (unsigned)(*p - '0');
        if (DYN__UNLIKELY(p - first >= 19) && (value > UINT64_MAX / 10 || value * 10 > UINT64_MAX - digit)) {
            return refuse(r, r->at, "an integer does not fit into 64 bits");
        }
        value = value * 10 + digit;
    }
    if (p == first) {
        if (r->at >= end) return refuse(r, r->at, "the text ends where an integer is expected");
        return refuse(r, r->at, "expected an integer");
    }
    if (*first == '0' && p - first > 1) return refuse(r, r->at, "an integer starts with 0");
    if (p < end && (*p == '.' || *p == 'e' || *p == 'E'))
        return refuse(r, r->at, "expected an integer, found a fraction");
    if (minus && !negative) return refuse(r, r->at, "expected an unsigned integer, found a negative one");
    if (minus && value > UINT64_C(1) << 63) return refuse(r, r->at, "an integer does not fit into 64 bits");
    r->at = p;
    *out = minus ? 0 - value : value;
    return DYN_OK;
}

static int number32(struct reader *r, uint32_t *out)
{
    uint64_t value;
    const char *at = (peek(r), r->at);
    int rc = number(r, false, &value);
    if (rc < 0) return rc;
    if (value > UINT32_MAX) return refuse(r, at, "an integer does not fit into 32 bits");
    *out = (uint32_t)value;
    return DYN_OK;
}

/* ---- strings and what nobody asked for -------------------------------------------------------- */

static int hex4(struct reader *r, unsigned *out)
{
    if (r->end - r->at < 4) return refuse(r, r->at, "the text ends inside a string");
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = *r->at++;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) return refuse(r, r->at - 1, "a bad \\u escape");
        *out = *out * 16 + digit;
    }
    return DYN_OK;
}

/* The rest of a string whose opening quote is behind us. Its first `room` - 1 characters go into `out`, unescaped
 * as far as names need it: a character beyond ASCII becomes '?'. */
static int string(struct reader *r, char *out, size_t room)
{
    size_t used = 0;
    while (r->at < r->end) {
        unsigned char c = (unsigned char)*r->at++;
        unsigned code = 0;
        int rc;
        if (c == '"') {
            out[used] = 0;
            return DYN_OK;
        }
        if (c < ' ') return refuse(r, r->at - 1, "a control character inside a string");
        if (c == '\\') {
            if (r->at >= r->end) break;
            switch (c = (unsigned char)*r->at++) {
            case '"':
            case '\\':
            case '/': break;
            case 'b': c = '\b'; break;
            case 'f': c = '\f'; break;
            case 'n': c = '\n'; break;
            case 'r': c = '\r'; break;
            case 't': c = '\t'; break;
            case 'u':
                if ((rc = hex4(r, &code)) < 0) return rc;
                c = code > 0 && code < 128 ? (unsigned char)code : '?';
                break;
            default: return refuse(r, r->at - 1, "a bad escape");
            }
        }
        if (used + 1 < room) out[used++] = (char)(c < 128 ? c : '?');
    }
    return refuse(r, r->at, "the text ends inside a string");
}

static int skip_number(struct reader *r)
{
    const char *p = r->at, *end = r->end, *digits;
    if (p < end && *p == '-') p++;
    for (digits = p; p < end && *p >= '0' && *p <= '9'; p++) continue;
    if (p == digits || (*digits == '0' && p - digits > 1)) return refuse(r, r->at, "expected a value");
    if (p < end && *p == '.') {
        for (digits = ++p; p < end && *p >= '0' && *p <= '9'; p++) continue;
        if (p == digits) return refuse(r, p, "a number without digits after its point");
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        for (digits = p; p < end && *p >= '0' && *p <= '9'; p++) continue;
        if (p == digits) return refuse(r, p, "a number without digits in its exponent");
    }
    r->at = p;
    return DYN_OK;
}

/* A value of any kind, without recursion: `maps` has one bit for each level, 1 for an object. */
static int skip(struct reader *r)
{
    uint64_t maps = 0;
    unsigned depth = 0;
    char ignored[2];
    int rc;
    for (;;) {
        switch (peek(r)) {
        case '{':
        case '[':
            if (depth == DEPTH) return refuse(r, r->at, "nested deeper than %d", DEPTH);
            maps = maps << 1 | (*r->at++ == '{');
            depth++;
            if (peek(r) == (maps & 1 ? '}' : ']')) break; /* empty: close it below */
            if (!(maps & 1)) continue;
            goto key;
        case '"':
            r->at++;
            if ((rc = string(r, ignored, sizeof(ignored))) < 0) return rc;
            break;
        case 't':
            if (!WORD(r, "true")) return refuse(r, r->at, "expected a value");
            break;
        case 'f':
            if (!WORD(r, "false")) return refuse(r, r->at, "expected a value");
            break;
        case 'n':
            if (!WORD(r, "null")) return refuse(r, r->at, "expected a value");
            break;
        default:
            if (r->at >= r->end) return refuse(r, r->at, "the text ends where a value is expected");
            if ((rc = skip_number(r)) < 0) return rc;
        }
        for (;;) { /* after a value: up as far as levels close here, then on to the next value */
            if (depth == 0) return DYN_OK;
            char c = peek(r);
            if (c == (maps & 1 ? '}' : ']')) {
                r->at++, maps >>= 1, depth--;
                continue;
            }
            if (c != ',') return refuse(r, r->at, "expected `,` or `%c`", maps & 1 ? '}' : ']');
            r->at++;
            break;
        }
        if (!(maps & 1)) continue;
    key:
        if ((rc = expect(r, '"')) < 0 || (rc = string(r, ignored, sizeof(ignored))) < 0) return rc;
        if ((rc = expect(r, ':')) < 0) return rc;
    }
}

/* ---- objects ---------------------------------------------------------------------------------- */

enum { END = 31, OTHER = 30 };

/* Walk to the next member of an object whose `{` is behind us: its place in `names`, OTHER, or END after `}`.
 * seen    bits of the names that came, 0 at first; bit END says that a member came at all. */
static int member(struct reader *r, const struct name *names, int count, uint32_t *seen, int guess)
{
    char text[32];
    char c = peek(r);
    int rc, found = OTHER;
    if (c == '}') {
        r->at++;
        return END;
    }
    if (*seen >> END) {
        if ((rc = expect(r, ',')) < 0) return rc;
        c = peek(r);
    }
    *seen |= UINT32_C(1) << END;
    if (c != '"')
        return refuse(r, r->at, r->at < r->end ? "expected a name" : "the text ends where a name is expected");
    const char *at = r->at++;
    if (guess < count && word(r, names[guess].text, names[guess].size)) {
        found = guess;
    } else {
        if ((rc = string(r, text, sizeof(text))) < 0) return rc;
        for (int i = 0; i < count && found == OTHER; i++) {
            if (strlen(text) == names[i].size - 1 && memcmp(text, names[i].text, names[i].size - 1) == 0) found = i;
        }
    }
    if (found != OTHER) {
        if (*seen >> found & 1)
            return refuse(r, at, "duplicate field `%.*s`", (int)names[found].size - 1, names[found].text);
        *seen |= UINT32_C(1) << found;
    }
    if ((rc = expect(r, ':')) < 0) return rc;
    return found;
}

static int missing(struct reader *r, const char *field)
{
    return refuse(r, r->at, "missing field `%s`", field);
}

static int block(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("block_hash"), NAME("tokens_hash")};
    uint32_t seen = 0;
    int rc, which, guess = 0;
    if ((rc = expect(r, '{')) < 0) return rc;
    while ((which = member(r, names, 2, &seen, guess)) != END) {
        if (which < 0) return which;
        if (which == 0)
            rc = number(r, true, &e->block_hashes[e->count]);
        else if (which == 1)
            rc = number(r, true, &e->tokens_hashes[e->count]);
        else
            rc = skip(r);
        if (rc < 0) return rc;
        guess = 1;
    }
    if ((seen & 3) != 3) return missing(r, seen & 1 ? "tokens_hash" : "block_hash");
    e->count++;
    return DYN_OK;
}

/* [ ... ] of blocks, or of bare hashes. */
static int list(struct reader *r, dyn_event *e, bool bare)
{
    int rc;
    e->count = 0;
    if ((rc = expect(r, '[')) < 0) return rc;
    if (peek(r) == ']') return r->at++, DYN_OK;
    do {
        if (e->count >= e->room && (rc = dyn_event_reserve(e, e->count + 1)) < 0) return rc;
        if (!bare) {
            if ((rc = block(r, e)) < 0) return rc;
        } else {
            if ((rc = number(r, true, &e->block_hashes[e->count])) < 0) return rc;
            e->tokens_hashes[e->count++] = 0;
        }
    } while (peek(r) == ',' && r->at++);
    return expect(r, ']');
}

static int stored(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("parent_hash"), NAME("blocks"), NAME("start_position")};
    uint32_t seen = 0;
    int rc, which, guess = 0;
    e->kind = DYN_EVENT_STORED;
    if ((rc = expect(r, '{')) < 0) return rc;
    while ((which = member(r, names, 3, &seen, guess++)) != END) {
        if (which < 0) return which;
        if (which == 1) {
            rc = list(r, e, false);
        } else if (which == OTHER) {
            rc = skip(r);
        } else if (peek(r) == 'n' && WORD(r, "null")) {
            rc = DYN_OK;
        } else if (which == 0) {
            e->has_parent = true;
            rc = number(r, true, &e->parent);
        } else {
            e->has_start_position = true;
            rc = number32(r, &e->start_position);
        }
        if (rc < 0) return rc;
    }
    return seen & 2 ? DYN_OK : missing(r, "blocks");
}

static int removed(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("block_hashes")};
    uint32_t seen = 0;
    int rc, which;
    e->kind = DYN_EVENT_REMOVED;
    if ((rc = expect(r, '{')) < 0) return rc;
    while ((which = member(r, names, 1, &seen, 0)) != END) {
        if (which < 0) return which;
        if ((rc = which == 0 ? list(r, e, true) : skip(r)) < 0) return rc;
    }
    return seen & 1 ? DYN_OK : missing(r, "block_hashes");
}

/* {"stored":..}, {"removed":..}, {"cleared":null} or "cleared". */
static int data(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("stored"), NAME("removed"), NAME("cleared")};
    uint32_t seen = 0;
    char text[32];
    int rc, which;
    const char *at;
    char c = peek(r);
    if (c == '"') {
        at = r->at++;
        if ((rc = string(r, text, sizeof(text))) < 0) return rc;
        e->kind = DYN_EVENT_CLEARED;
        if (strcmp(text, "cleared") == 0) return DYN_OK;
        return refuse(r, at, "unknown variant `%s`, expected one of `stored`, `removed`, `cleared`", text);
    }
    if ((rc = expect(r, '{')) < 0) return rc;
    at = (peek(r), r->at);
    if ((which = member(r, names, 3, &seen, 0)) < 0) return which;
    switch (which) {
    case 0: rc = stored(r, e); break;
    case 1: rc = removed(r, e); break;
    case 2:
        e->kind = DYN_EVENT_CLEARED;
        if (peek(r) != 'n' || !WORD(r, "null")) return refuse(r, r->at, "expected null");
        rc = DYN_OK;
        break;
    default: return refuse(r, at, "unknown variant, expected one of `stored`, `removed`, `cleared`");
    }
    return rc < 0 ? rc : expect(r, '}');
}

static int tier(struct reader *r, dyn_event *e)
{
    char text[32];
    int rc;
    const char *at = (peek(r), r->at);
    if ((rc = expect(r, '"')) < 0 || (rc = string(r, text, sizeof(text))) < 0) return rc;
    for (unsigned i = DYN_TIER_DEVICE; i <= DYN_TIER_EXTERNAL; i++) {
        if (strcmp(text, dyn_event_tier_name(i)) == 0) return e->tier = i, DYN_OK;
    }
    return refuse(r, at, "unknown storage_tier `%s`, expected one of `device`, `host_pinned`, `disk`, `external`",
                  text);
}

static int residency(struct reader *r)
{
    char text[32];
    int rc;
    const char *at = (peek(r), r->at);
    if ((rc = expect(r, '"')) < 0 || (rc = string(r, text, sizeof(text))) < 0) return rc;
    if (strcmp(text, "worker") == 0 || strcmp(text, "cache_owner") == 0) return DYN_OK;
    return refuse(r, at, "unknown residency_domain `%s`, expected `worker` or `cache_owner`", text);
}

static int inner(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("event_id"), NAME("data"), NAME("dp_rank"), NAME("storage_tier"),
                                        NAME("residency_domain")};
    uint32_t seen = 0;
    int rc, which, guess = 0;
    if ((rc = expect(r, '{')) < 0) return rc;
    while ((which = member(r, names, 5, &seen, guess++)) != END) {
        switch (which) {
        case 0: rc = number(r, false, &e->event_id); break;
        case 1: rc = data(r, e); break;
        case 2: rc = number32(r, &e->dp_rank); break;
        case 3: rc = tier(r, e); break;
        case 4: rc = residency(r); break;
        case OTHER: rc = skip(r); break;
        default: return which;
        }
        if (rc < 0) return rc;
    }
    if ((seen & 3) != 3) return missing(r, seen & 1 ? "data" : "event_id");
    return DYN_OK;
}

static int router(struct reader *r, dyn_event *e)
{
    static const struct name names[] = {NAME("worker_id"), NAME("event"), NAME("storage_tier"),
                                        NAME("residency_domain")};
    uint32_t seen = 0;
    int rc, which, guess = 0;
    if ((rc = expect(r, '{')) < 0) return rc;
    while ((which = member(r, names, 4, &seen, guess++)) != END) {
        switch (which) {
        case 0: rc = number(r, true, &e->worker_id); break;
        case 1: rc = inner(r, e); break;
        case 2: rc = tier(r, e); break;
        case 3: rc = residency(r); break;
        case OTHER: rc = skip(r); break;
        default: return which;
        }
        if (rc < 0) return rc;
    }
    if ((seen & 3) != 3) return missing(r, seen & 1 ? "event" : "worker_id");
    return DYN_OK;
}

int dyn_event_read_json(dyn_event *self, enum dyn_event_form form, const char *text, size_t size)
{
    struct reader r = {text, text + size, text};
    int rc;
    self->kind = DYN_EVENT_CLEARED, self->tier = DYN_TIER_DEVICE;
    self->worker_id = self->event_id = self->parent = 0;
    self->dp_rank = self->start_position = 0;
    self->has_parent = self->has_start_position = false;
    self->count = 0;
    rc = form == DYN_EVENT_ROUTER ? router(&r, self) : inner(&r, self);
    if (rc == DYN_OK && (peek(&r), r.at < r.end)) rc = refuse(&r, r.at, "text after the end");
    if (rc < 0) self->count = 0;
    return rc;
}

/* ---- the writer ------------------------------------------------------------------------------- */

/* Room for one block is room for its names and two numbers of 20 digits; 320 holds everything around the blocks. */
enum { BLOCK_ROOM = 13 + 20 + 15 + 20 + 2, REST_ROOM = 320 };

size_t dyn_event_json_bound(const dyn_event *self)
{
    return REST_ROOM + self->count * BLOCK_ROOM;
}

static char *put(char *out, const char *text)
{
    size_t size = strlen(text);
    memcpy(out, text, size);
    return out + size;
}

static char *put_number(char *out, uint64_t value)
{
    char digits[20];
    unsigned n = 0;
    do digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    while (n > 0) *out++ = digits[--n];
    return out;
}

size_t dyn_event_write_json(const dyn_event *self, enum dyn_event_form form, char *out)
{
    char *p = out;
    if (form == DYN_EVENT_ROUTER) p = put(put_number(put(p, "{\"worker_id\":"), self->worker_id), ",\"event\":");
    p = put(put_number(put(p, "{\"event_id\":"), self->event_id), ",\"data\":");
    switch (self->kind) {
    case DYN_EVENT_CLEARED: p = put(p, "\"cleared\""); break;
    case DYN_EVENT_REMOVED:
        p = put(p, "{\"removed\":{\"block_hashes\":[");
        for (size_t i = 0; i < self->count; i++) {
            if (i > 0) *p++ = ',';
            p = put_number(p, self->block_hashes[i]);
        }
        p = put(p, "]}}");
        break;
    case DYN_EVENT_STORED:
        p = put(p, "{\"stored\":{\"parent_hash\":");
        p = self->has_parent ? put_number(p, self->parent) : put(p, "null");
        if (self->has_start_position) p = put_number(put(p, ",\"start_position\":"), self->start_position);
        p = put(p, ",\"blocks\":[");
        for (size_t i = 0; i < self->count; i++) {
            if (i > 0) *p++ = ',';
            p = put_number(put(p, "{\"block_hash\":"), self->block_hashes[i]);
            p = put_number(put(p, ",\"tokens_hash\":"), self->tokens_hashes[i]);
            *p++ = '}';
        }
        p = put(p, "]}}");
    }
    p = put_number(put(p, ",\"dp_rank\":"), self->dp_rank);
    if (self->tier != DYN_TIER_DEVICE)
        p = put(put(put(p, ",\"storage_tier\":\""), dyn_event_tier_name(self->tier)), "\"");
    *p++ = '}';
    if (form == DYN_EVENT_ROUTER) *p++ = '}';
    return (size_t)(p - out);
}
