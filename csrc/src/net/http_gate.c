/* http_gate.c -- where a request's head ends, found before the parser sees it.
 *
 *   first --x--> in line --CR--> saw CR --LF--> line start --x--> in line
 *                                               line start --CR--> last CR --LF--> end
 *
 * Parsers differ in what else they take for the end of a line; smuggled requests live in that difference. Here a
 * bare CR, a bare LF, a folded line or a NUL is refused.
 */
#include "net/http_parse.h"

ptrdiff_t dyn__http_gate(int *state, const char *data, size_t length)
{
    const char *at = data, *end = data + length;
    while (at < end) {
        switch (*state) {
        case DYN__HTTP_LINE_FIRST:
            if (*at == '\r' || *at == '\n' || *at == ' ') return -1;
            *state = DYN__HTTP_IN_LINE;
            break;
        case DYN__HTTP_IN_LINE: {
            const char *cr = memchr(at, '\r', (size_t)(end - at));
            const char *stop = cr != NULL ? cr : end;
            if (memchr(at, '\n', (size_t)(stop - at)) != NULL || memchr(at, 0, (size_t)(stop - at)) != NULL) return -1;
            if (cr == NULL) return (ptrdiff_t)length;
            at = cr + 1;
            *state = DYN__HTTP_SAW_CR;
            break;
        }
        case DYN__HTTP_SAW_CR:
            if (*at++ != '\n') return -1;
            *state = DYN__HTTP_LINE_START;
            break;
        case DYN__HTTP_LINE_START:
            if (*at == ' ' || *at == '\t' || *at == '\n') return -1;
            *state = *at == '\r' ? DYN__HTTP_LAST_CR : DYN__HTTP_IN_LINE;
            if (*at == '\r') at++;
            break;
        case DYN__HTTP_LAST_CR:
            if (*at++ != '\n') return -1;
            *state = DYN__HTTP_HEAD_END;
            return at - data;
        default: return -1;
        }
    }
    return at - data;
}
