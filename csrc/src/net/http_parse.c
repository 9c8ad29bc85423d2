/* http_parse.c -- see http_parse.h. The one file that knows which parser it is. */
#include "net/http_parse.h"

#ifdef DYN_LLHTTP
typedef llhttp_t raw_parser;
typedef llhttp_settings_t raw_settings;
#else
typedef http_parser raw_parser;
typedef http_parser_settings raw_settings;
#endif

static dyn__http_parser *self_of(raw_parser *raw)
{
    return DYN__CONTAINER(raw, dyn__http_parser, raw);
}

#define SINK(name)                                                    \
    static int name(raw_parser *raw, const char *data, size_t length) \
    {                                                                 \
        dyn__http_parser *self = self_of(raw);                        \
        self->status = self->name(self->user, data, length);          \
        return self->status != 0 ? -1 : 0;                            \
    }
SINK(on_url)
SINK(on_name)
SINK(on_value)
SINK(on_body)

static int on_trailer(dyn__http_parser *self)
{
    (void)self;
    return 0;
}

/* Fields behind the last chunk are dropped: nothing here has a use for them, and a trailer must never pass for a
 * header. */
static int on_field_name(raw_parser *raw, const char *data, size_t length)
{
    return self_of(raw)->head_done ? on_trailer(self_of(raw)) : on_name(raw, data, length);
}
static int on_field_value(raw_parser *raw, const char *data, size_t length)
{
    return self_of(raw)->head_done ? on_trailer(self_of(raw)) : on_value(raw, data, length);
}

static int on_headers_complete(raw_parser *raw)
{
    self_of(raw)->head_done = true;
    raw->upgrade = 0; /* no other protocol is spoken here */
    return 0;
}

static int on_message_complete(raw_parser *raw)
{
    self_of(raw)->message_done = true;
#ifdef DYN_LLHTTP
    return HPE_PAUSED;
#else
    http_parser_pause(raw, 1);
    return 0;
#endif
}

static int on_chunk_header(raw_parser *raw)
{
    dyn__http_parser *self = self_of(raw);
    if (self->on_chunk == NULL) return 0;
    self->status = self->on_chunk(self->user, raw->content_length);
    return self->status != 0 ? -1 : 0;
}

static const raw_settings sinks = {
    .on_url = on_url,
    .on_header_field = on_field_name,
    .on_header_value = on_field_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_header = on_chunk_header,
    .on_message_complete = on_message_complete,
};

static void reset(dyn__http_parser *self, int kind)
{
#ifdef DYN_LLHTTP
    llhttp_init(&self->raw, (llhttp_type_t)kind, (raw_settings *)(uintptr_t)&sinks);
#else
    http_parser_init(&self->raw, (enum http_parser_type)kind);
#endif
    self->status = 0;
    self->head_done = self->message_done = false;
}

void dyn__http_parser_reset(dyn__http_parser *self)
{
    reset(self, HTTP_REQUEST);
}

void dyn__http_parser_reset_answer(dyn__http_parser *self)
{
    reset(self, HTTP_RESPONSE);
}

/* Run the parser. 0 or a status; *used: bytes up to the end of the message, or all. */
static int run(dyn__http_parser *self, const char *data, size_t length, size_t *used)
{
    *used = length;
#ifdef DYN_LLHTTP
    llhttp_errno_t rc = llhttp_execute(&self->raw, data, length);
    if (rc == HPE_PAUSED) *used = (size_t)(llhttp_get_error_pos(&self->raw) - data);
    if (rc == HPE_OK || rc == HPE_PAUSED) return 0;
    if (self->status != 0) return self->status;
    return rc == HPE_INVALID_METHOD ? 501 : rc == HPE_INVALID_VERSION ? 505 : 400;
#else
    *used = http_parser_execute(&self->raw, &sinks, data, length);
    enum http_errno rc = HTTP_PARSER_ERRNO(&self->raw);
    if (rc == HPE_OK || rc == HPE_PAUSED) return 0;
    if (self->status != 0) return self->status;
    return rc == HPE_INVALID_METHOD ? 501 : rc == HPE_INVALID_VERSION ? 505 : 400;
#endif
}

int dyn__http_parse_head(dyn__http_parser *self, const char *data, size_t length)
{
    size_t used;
    int status = run(self, data, length, &used);
    if (status != 0) return status;
    return used == length ? 0 : 400; /* the parser saw an end where the gate saw none */
}

int dyn__http_parse_chunks(dyn__http_parser *self, const char *data, size_t length, size_t *used)
{
    return run(self, data, length, used);
}

const char *dyn__http_parser_method(const dyn__http_parser *self)
{
#ifdef DYN_LLHTTP
    return llhttp_method_name((llhttp_method_t)self->raw.method);
#else
    return http_method_str((enum http_method)self->raw.method);
#endif
}

int dyn__http_parser_status(const dyn__http_parser *self)
{
    return (int)self->raw.status_code;
}
