/* client_reply.c -- the answer: head, rules, body. See client_internal.h.
 *
 * The gate finds where the head ends, then the parser gets exactly those bytes. The head lies in link->in in one piece;
 * 1xx heads are skipped. A body of known length never meets the parser.
 */
#include <stdio.h>

#include "net/client_internal.h"

enum { MAX_INTERIM = 8 };

/* ---- sinks of the parser ----------------------------------------------------------------------- */

static int malformed(dyn_http_call *self, const char *what)
{
    return dyn__fail(DYN_EPROTO, "the answer of %s is not HTTP/1.1: %s", self->client->url, what);
}

/* What the collecting of fields said, in words. */
static int told(dyn_http_call *self, int rc)
{
    if (rc == DYN_EPROTO) return malformed(self, "a header field has no name");
    if (rc == DYN_ELIMIT)
        return dyn__fail(rc, "the answer of %s has more than %u header fields", self->client->url,
                         self->client->limits.max_headers);
    return rc;
}

static int on_url(void *user, const char *data, size_t length)
{
    (void)user, (void)data, (void)length;
    return DYN_EPROTO;
}

static int on_name(void *user, const char *data, size_t length)
{
    dyn_http_call *self = user;
    int rc = length == 0 ? DYN_EPROTO /* the head lies in one piece: no rest of one */
                         : dyn__http_fields_name(&self->fields, data, length, self->client->limits.max_headers);
    return told(self, rc);
}

static int on_value(void *user, const char *data, size_t length)
{
    dyn_http_call *self = user;
    return told(self, dyn__http_fields_value(&self->fields, data, length));
}

static int on_body(void *user, const char *data, size_t length)
{
    return dyn__reply_put(user, data, length);
}

void dyn__reply_reset(dyn_http_call *self)
{
    self->parser.user = self;
    self->parser.on_url = on_url;
    self->parser.on_name = on_name;
    self->parser.on_value = on_value;
    self->parser.on_body = on_body;
    self->parser.on_chunk = NULL;
    dyn__http_parser_reset_answer(&self->parser);
    self->gate = DYN__HTTP_LINE_FIRST;
    self->scanned = 0;
    dyn__http_fields_reset(&self->fields);
}

/* ---- head -------------------------------------------------------------------------------------- */

static bool has_word(const char *value, const char *word)
{
    size_t length = strlen(word);
    while (*value != 0) {
        value += strspn(value, " \t,");
        size_t here = strcspn(value, " \t,");
        if (here == length && strncasecmp(value, word, length) == 0) return true;
        value += here;
    }
    return false;
}

/* What two well-formed fields say together. */
static int rules(dyn_http_call *self)
{
    const char *length = NULL, *coding = NULL;
    int major = self->parser.raw.http_major, minor = self->parser.raw.http_minor;
    bool close = false, keep = false;

    if (major != 1 || minor > 1) return malformed(self, "it has another version");
    self->status = dyn__http_parser_status(&self->parser);
    if (self->status < 100 || self->status > 599) return malformed(self, "its status is not 100 to 599");
    for (size_t i = 0; i < self->fields.count; i++) {
        const char *value, *name = dyn__http_fields_at(&self->fields, i, NULL, &value, NULL);
        if (strcmp(name, "connection") == 0) close |= has_word(value, "close"), keep |= has_word(value, "keep-alive");
        if (strcmp(name, "content-length") == 0) {
            if (length != NULL && strcmp(length, value) != 0) return malformed(self, "it has two lengths");
            length = value;
        }
        if (strcmp(name, "transfer-encoding") == 0) {
            if (coding != NULL) return malformed(self, "it has two transfer codings");
            coding = value;
        }
    }
    self->keep = !close && (minor == 1 || keep);
    if (length != NULL && coding != NULL) return malformed(self, "it has a length and a transfer coding");
    self->length = UINT64_MAX;
    if (self->is_head || self->status == 204 || self->status == 304 || self->status < 200) {
        self->framing = DYN__NO_REPLY_BODY;
        self->length = 0;
    } else if (coding != NULL) {
        if (strcasecmp(coding, "chunked") != 0) return malformed(self, "its transfer coding is not chunked");
        self->framing = DYN__REPLY_CHUNKED;
        if (!DYN__HTTP_EXACT_CHUNKS) self->keep = false;
    } else if (length != NULL) {
        if (*length == 0 || strspn(length, "0123456789") != strlen(length) || strlen(length) > 18)
            return malformed(self, "its length is not a number");
        self->framing = DYN__REPLY_SIZED;
        self->left = self->length = strtoull(length, NULL, 10);
    } else {
        self->framing = DYN__REPLY_TO_END;
        self->keep = false;
    }
    return DYN_OK;
}

static int not_http(dyn_http_call *self, const char *data, size_t length)
{
    char seen[41];
    size_t n = length < 40 ? length : 40;
    for (size_t i = 0; i < n; i++) seen[i] = data[i] >= ' ' && data[i] < 0x7f ? data[i] : '.';
    seen[n] = 0;
    if (data[0] == 0x15 && (length == 1 || data[1] == 3) && !self->client->https)
        return malformed(self, "the server speaks TLS: use https://");
    return dyn__fail(DYN_EPROTO, "the answer of %s is not HTTP/1.1; it begins with \"%s\"", self->client->url, seen);
}

int dyn__reply_head(dyn_http_call *self)
{
    dyn__link *link = self->link;
    const char *data = link->in + link->in_from;
    size_t there = link->in_to - link->in_from;
    size_t limit = self->client->limits.max_header_bytes;
    for (;;) {
        bool foreign = strncmp(data, "HTTP/", there < 5 ? there : 5) != 0;
        if (foreign && (there >= 16 || (data[0] & 0x80) || data[0] < ' ')) return not_http(self, data, there);
        /* Not a byte further than the limit: what is refused, and why, must not hang on how the bytes came. */
        size_t until = there <= limit ? there : limit + 1;
        ptrdiff_t seen = dyn__http_gate(&self->gate, data + self->scanned, until - self->scanned);
        if (seen < 0) return not_http(self, data, there);
        self->scanned += (size_t)seen;
        if (self->scanned > limit)
            return dyn__fail(DYN_ELIMIT, "the head of the answer of %s is over the limit of %zu bytes",
                             self->client->url, limit);
        if (self->gate != DYN__HTTP_HEAD_END) {
            if (there == sizeof(link->in))
                return dyn__fail(DYN_ELIMIT, "the head of the answer of %s is over %zu bytes", self->client->url,
                                 there);
            return DYN_EAGAIN;
        }
        size_t head = self->scanned;
        int rc = dyn__http_parse_head(&self->parser, data, head);
        if (self->parser.status < 0) return self->parser.status; /* of a sink */
        if (rc != 0 || !self->parser.head_done) return not_http(self, data, there);
        if ((rc = told(self, dyn__http_fields_end(&self->fields))) != 0 || (rc = rules(self)) != 0) return rc;
        link->in_from += head;
        data += head;
        there -= head;
        if (self->status >= 200) return DYN_OK;
        if (self->status == 101) return malformed(self, "it changes to a protocol that nobody asked for");
        if (++self->interim > MAX_INTERIM) return malformed(self, "it has too many interim answers");
        dyn__reply_reset(self);
    }
}

/* ---- body -------------------------------------------------------------------------------------- */

int dyn__reply_put(dyn_http_call *self, const char *data, size_t length)
{
    if (self->into != NULL) { /* SIZED: it fits */
        memcpy(self->into + self->into_length, data, length);
        self->into_length += length;
        return DYN_OK;
    }
    size_t limit = self->client->limits.max_response_bytes, have = self->reply.length;
    if (!(self->flags & DYN_HTTP_CALL_STREAM) && length > limit - have)
        return dyn__fail(DYN_ELIMIT, "the answer of %s is over the limit of %zu bytes: raise max_response_bytes",
                         self->client->url, limit);
    if (self->consumed > 0 && self->consumed == have) self->consumed = self->reply.length = 0;
    if (self->consumed > 0 && length > self->reply.room - have) {
        memmove(self->reply.data, self->reply.data + self->consumed, have - self->consumed);
        self->reply.length -= self->consumed;
        self->consumed = 0;
    }
    if (dyn__bytes_need(&self->reply, length) < 0) return DYN_ENOMEM;
    dyn__bytes_put(&self->reply, data, length);
    return DYN_OK;
}

int dyn__reply_chunks(dyn_http_call *self)
{
    dyn__link *link = self->link;
    size_t there = link->in_to - link->in_from, used = 0;
    if (there == 0) return DYN_EAGAIN;
    int rc = dyn__http_parse_chunks(&self->parser, link->in + link->in_from, there, &used);
    if (self->parser.status < 0) return self->parser.status;
    if (rc != 0) return malformed(self, "its chunks are broken");
    link->in_from += used;
    return DYN_OK;
}
