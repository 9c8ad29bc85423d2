/* http_text.c -- the words of the server: reasons, dates, error bodies; growing bytes; the key. */
#include <stdio.h>
#include <time.h>

#include "net/http_internal.h"

int dyn__bytes_need(dyn__bytes *self, size_t more)
{
    if (more <= self->room - self->length) return DYN_OK;
    size_t want = self->length + more, room = self->room < 512 ? 512 : self->room;
    if (want < more) return DYN_ENOMEM;
    while (room < want) room = room > SIZE_MAX / 2 ? want : room * 2;
    char *data = dyn__realloc(self->data, room);
    if (data == NULL) return DYN_ENOMEM;
    self->data = data;
    self->room = room;
    return DYN_OK;
}

void dyn__bytes_empty(dyn__bytes *self, size_t keep)
{
    self->length = 0;
    if (self->room > keep) dyn__bytes_free(self);
}

void dyn__bytes_free(dyn__bytes *self)
{
    dyn__free(self->data);
    *self = (dyn__bytes){0};
}

/* clang-format off */
#define STATUS_MAP(X) \
    X(100, "Continue") X(200, "OK") X(201, "Created") \
    X(202, "Accepted") X(204, "No Content") X(206, "Partial Content") \
    X(301, "Moved Permanently") X(302, "Found") X(303, "See Other") \
    X(304, "Not Modified") X(307, "Temporary Redirect") X(308, "Permanent Redirect") \
    X(400, "Bad Request") X(401, "Unauthorized") X(403, "Forbidden") \
    X(404, "Not Found") X(405, "Method Not Allowed") X(406, "Not Acceptable") \
    X(408, "Request Timeout") X(409, "Conflict") X(410, "Gone") \
    X(411, "Length Required") X(412, "Precondition Failed") X(413, "Content Too Large") \
    X(414, "URI Too Long") X(415, "Unsupported Media Type") X(417, "Expectation Failed") \
    X(418, "I'm a teapot") X(421, "Misdirected Request") X(422, "Unprocessable Content") \
    X(424, "Failed Dependency") X(426, "Upgrade Required") X(428, "Precondition Required") \
    X(429, "Too Many Requests") X(431, "Request Header Fields Too Large") X(451, "Unavailable For Legal Reasons") \
    X(499, "Client Closed Request") X(500, "Internal Server Error") X(501, "Not Implemented") \
    X(502, "Bad Gateway") X(503, "Service Unavailable") X(504, "Gateway Timeout") \
    X(505, "HTTP Version Not Supported") X(507, "Insufficient Storage") X(529, "Overloaded")
/* clang-format on */

const char *dyn_http_reason(int status)
{
    switch (status) {
#define X(number, text) \
    case number: return text;
        STATUS_MAP(X)
#undef X
    default: return "Unknown";
    }
}

size_t dyn__http_status_line(int status, const char **line)
{
    switch (status) {
#define X(number, text) \
    case number: *line = "HTTP/1.1 " #number " " text "\r\n"; return sizeof("HTTP/1.1 " #number " " text "\r\n") - 1;
        STATUS_MAP(X)
#undef X
    default: *line = NULL; return 0;
    }
}

void dyn__http_date(dyn_http_server *server, char out[30])
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t now = (int64_t)(dyn_wall_ms() / 1000);
    pthread_mutex_lock(&server->date_lock);
    if (now != server->date_second) {
        time_t second = (time_t)now;
        struct tm utc;
        gmtime_r(&second, &utc); /* not strftime: it speaks the locale's language */
        snprintf(server->date, sizeof(server->date), "%s, %02d %s %04d %02d:%02d:%02d GMT", days[utc.tm_wday],
                 utc.tm_mday, months[utc.tm_mon], (utc.tm_year + 1900) % 10000, utc.tm_hour, utc.tm_min, utc.tm_sec);
        server->date_second = now;
    }
    memcpy(out, server->date, 30);
    pthread_mutex_unlock(&server->date_lock);
}

static void put_json_text(dyn__bytes *out, const char *text) /* after need(6 * length + 2) */
{
    static const char hex[] = "0123456789abcdef";
    dyn__bytes_put(out, "\"", 1);
    for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
        if (*at == '"' || *at == '\\') {
            char pair[2] = {'\\', (char)*at};
            dyn__bytes_put(out, pair, 2);
        } else if (*at < 0x20 || *at == 0x7f) {
            char escape[6] = {'\\', 'u', '0', '0', hex[*at >> 4], hex[*at & 15]};
            dyn__bytes_put(out, escape, 6);
        } else
            dyn__bytes_put(out, at, 1);
    }
    dyn__bytes_put(out, "\"", 1);
}

static const char *type_of(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable";
    case 529: return "overloaded_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

int dyn__http_error_body(dyn__bytes *out, int status, const char *message, const char *type, const char *param,
                         const char *code)
{
    if (type == NULL) type = type_of(status);
    size_t room = 96 + 6 * (strlen(message) + strlen(type) + (param ? strlen(param) : 4) + (code ? strlen(code) : 4));
    if (dyn__bytes_need(out, room) < 0) return DYN_ENOMEM;
#define PUT(text) dyn__bytes_put(out, text, sizeof(text) - 1)
    PUT("{\"error\":{\"message\":");
    put_json_text(out, message);
    PUT(",\"type\":");
    put_json_text(out, type);
    PUT(",\"param\":");
    if (param != NULL)
        put_json_text(out, param);
    else
        PUT("null");
    PUT(",\"code\":");
    if (code != NULL)
        put_json_text(out, code);
    else
        PUT("null");
    PUT("}}");
#undef PUT
    return DYN_OK;
}

/* Every byte of what was given is looked at, whatever it is: the time tells its length, which its sender knows. */
bool dyn__http_key_matches(const char *given, size_t length, const char *key, size_t key_length)
{
    volatile unsigned char differs = length != key_length;
    for (size_t i = 0; i < length; i++) differs |= (unsigned char)(given[i] ^ key[key_length ? i % key_length : 0]);
    return differs == 0;
}
