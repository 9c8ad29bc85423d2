/* http_parse.h -- the small face of the HTTP parser: llhttp (DYN_LLHTTP) or http-parser behind it.
 *
 * The caller finds the end of the head itself (http_gate.c) and gives exactly those bytes, so that what the
 * parser and the gate take for the end of a request must agree.
 */
#ifndef DYN_NET_HTTP_PARSE_H
#define DYN_NET_HTTP_PARSE_H

#include "common/common.h"
#ifdef DYN_LLHTTP
#include <llhttp.h>
#else
#include <http_parser.h>
#endif

typedef struct dyn__http_parser {
#ifdef DYN_LLHTTP
    llhttp_t raw;
#else
    http_parser raw;
#endif
    /* Where the pieces go; a sink returns 0, or the HTTP status of its refusal. */
    int (*on_url)(void *user, const char *data, size_t length);
    int (*on_name)(void *user, const char *data, size_t length);
    int (*on_value)(void *user, const char *data, size_t length);
    int (*on_body)(void *user, const char *data, size_t length);
    int (*on_chunk)(void *user, uint64_t size); /* what a chunk will hold; may be NULL */
    void *user;
    int status; /* of the sink that refused; 0: none did */
    bool head_done, message_done;
} dyn__http_parser;

/* Before each message; leaves the sinks as they are. */
void dyn__http_parser_reset(dyn__http_parser *self);
void dyn__http_parser_reset_answer(dyn__http_parser *self); /* the same for an answer, to a client */
/* Parse bytes of the head. 0, or the status to refuse with. head_done says when the head is complete. */
int dyn__http_parse_head(dyn__http_parser *self, const char *data, size_t length);
/* Parse bytes of a chunked body behind a complete head; `used` of them belong to this message. 0 or a status. */
int dyn__http_parse_chunks(dyn__http_parser *self, const char *data, size_t length, size_t *used);
/* Is this parser so exact about chunks that the next request on the connection is safe behind them? */
#ifdef DYN_LLHTTP
enum { DYN__HTTP_EXACT_CHUNKS = 1 };
#else
enum { DYN__HTTP_EXACT_CHUNKS = 0 }; /* http-parser, as it is packaged, skips junk between chunks */
#endif
const char *dyn__http_parser_method(const dyn__http_parser *self);
int dyn__http_parser_status(const dyn__http_parser *self); /* of an answer */

/* The gate: lines end in CR LF, nothing else; no line begins with a blank; no NUL.
 * state    0 before the first byte.
 * Returns how many bytes belong to the head (state is DYN__HTTP_HEAD_END at its end), or -1 to refuse. */
enum {
    DYN__HTTP_LINE_FIRST = 0,
    DYN__HTTP_IN_LINE,
    DYN__HTTP_SAW_CR,
    DYN__HTTP_LINE_START,
    DYN__HTTP_LAST_CR,
    DYN__HTTP_HEAD_END
};
ptrdiff_t dyn__http_gate(int *state, const char *data, size_t length);

#endif
