/* http_head.c -- a complete head: what it asks for, and every reason to refuse it.
 *
 * The parser has refused bad syntax before; here is what two well-formed fields say together.
 */
#include "net/http_internal.h"

static bool same(const char *value, size_t length, const char *word)
{
    return strlen(word) == length && strncasecmp(value, word, length) == 0;
}

/* Is `word` one of the comma-separated words of the value? */
static bool has_word(const char *value, const char *word)
{
    while (*value != 0) {
        size_t length = strcspn(value, ","), from = strspn(value, " \t"), to = length;
        while (to > from && (value[to - 1] == ' ' || value[to - 1] == '\t')) to--;
        if (from < length && same(value + from, to - from, word)) return true;
        value += length;
        if (*value == ',') value++;
    }
    return false;
}

/* "http://host/path" and "/path?query" -> path, query */
static int split_url(dyn_http_exchange *x)
{
    const char *url = x->head.arena.data;
    size_t length = strlen(url), from = 0;
    if (strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0) {
        from = (size_t)(strstr(url, "://") - url) + 3;
        from += strcspn(url + from, "/?#");
    } else if (url[0] != '/' && strcmp(url, "*") != 0)
        return 400;
    size_t path = strcspn(url + from, "?#");
    char *marks = x->head.arena.data;
    if (path == 0) { /* "http://host?x": the path is "/", written over the byte before */
        if (from == 0) return 400;
        marks[--from] = '/';
        path = 1;
    }
    x->path = (uint32_t)from;
    x->path_length = (uint32_t)path;
    if (url[from + path] == '?') {
        x->query = (uint32_t)(from + path + 1);
        x->query_length = (uint32_t)strcspn(url + x->query, "#");
    }
    if (x->query + x->query_length < length && x->query_length != 0) marks[x->query + x->query_length] = 0;
    if (from + path < length) marks[from + path] = 0;
    return 0;
}

static void set_request_id(dyn_http_exchange *x)
{
    static const char hex[] = "0123456789abcdef";
    size_t length = 0;
    const char *given = dyn_http_header(x, "x-request-id", &length);
    bool good = given != NULL && length > 0 && length < sizeof(x->request_id);
    for (size_t i = 0; good && i < length; i++) good = given[i] > ' ' && given[i] < 0x7f;
    if (good) {
        memcpy(x->request_id, given, length + 1);
        return;
    }
    uint64_t *state = x->server->random; /* xorshift128+: unlike, not secret */
    for (int half = 0; half < 2; half++) {
        uint64_t a = state[0], b = state[1], sum;
        state[0] = b;
        a ^= a << 23;
        state[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
        sum = state[1] + b;
        for (int i = 0; i < 16; i++, sum >>= 4) x->request_id[16 * half + i] = hex[sum & 15];
    }
    x->request_id[32] = 0;
}

int dyn__http_check_head(dyn__http_conn *conn, enum dyn__http_body *body, uint64_t *size, bool *wants_100,
                         const char **message)
{
    dyn_http_exchange *x = conn->x;
    const char *length = NULL, *coding = NULL, *host = NULL, *expect = NULL;
    bool close = false, keep = false, length_twice = false, coding_twice = false, host_twice = false;
    int major = conn->parser.raw.http_major, minor = conn->parser.raw.http_minor;

    *body = DYN__NO_BODY;
    *wants_100 = false;
    x->http_1_0 = minor == 0;
    x->method = dyn__http_parser_method(&conn->parser);
    x->is_head = strcmp(x->method, "HEAD") == 0;
    x->started_ns = dyn_now_ns();
    set_request_id(x);
    for (size_t i = 0; i < x->head.count; i++) {
        size_t name_length;
        const char *value, *name = dyn__http_fields_at(&x->head, i, &name_length, &value, NULL);
        switch (name_length) {
        case 4:
            if (strcmp(name, "host") == 0) host_twice = host != NULL, host = value;
            break;
        case 6:
            if (strcmp(name, "expect") == 0) expect = value;
            break;
        case 10:
            if (strcmp(name, "connection") == 0)
                close |= has_word(value, "close"), keep |= has_word(value, "keep-alive");
            break;
        case 14:
            if (strcmp(name, "content-length") == 0) length_twice = length != NULL, length = value;
            break;
        case 17:
            if (strcmp(name, "transfer-encoding") == 0) coding_twice = coding != NULL, coding = value;
            break;
        default: break;
        }
    }
    x->keep_alive = !close && (minor != 0 || keep);

#define REFUSE(status, text) return *message = (text), (status)
    /* These leave the end of the request in doubt: the connection does not outlive them. */
    if (major != 1 || minor > 1) REFUSE(major == 0 ? 400 : 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (strcmp(x->method, "CONNECT") == 0) REFUSE(501, "this is not a proxy");
    if (split_url(x) != 0) REFUSE(400, "the request target must be a path or an http URL");
    if (host_twice || (host == NULL && minor == 1)) REFUSE(400, "a request needs exactly one Host header field");
    if (length_twice || coding_twice || (length != NULL && coding != NULL))
        REFUSE(400, "a request has one Content-Length or one Transfer-Encoding, not both and not twice");
    if (coding != NULL && minor == 0) REFUSE(400, "HTTP/1.0 has no Transfer-Encoding");
    if (coding != NULL && strcasecmp(coding, "chunked") != 0) REFUSE(501, "the only Transfer-Encoding here is chunked");
    if (length != NULL) {
        if (*length == 0 || strspn(length, "0123456789") != strlen(length) || strlen(length) > 18)
            REFUSE(400, "Content-Length must be a number of bytes");
        *size = strtoull(length, NULL, 10);
        *body = *size > 0 ? DYN__SIZED : DYN__NO_BODY;
    } else if (coding != NULL) {
        *body = DYN__CHUNKED;
        if (!DYN__HTTP_EXACT_CHUNKS) x->keep_alive = false;
    }
    if (expect != NULL && strcasecmp(expect, "100-continue") != 0)
        REFUSE(417, "the only expectation known here is 100-continue");
    *wants_100 = expect != NULL && minor == 1 && *body != DYN__NO_BODY;
    return 0;
#undef REFUSE
}
