/* http_piece.h -- a part of a body that lies in its owner's memory (area net). */
#ifndef DYNAMO_HTTP_PIECE_H
#define DYNAMO_HTTP_PIECE_H

#include <stddef.h>

typedef struct dyn_http_piece {
    const void *data; /* borrowed; NULL only when length is 0 */
    size_t length;
} dyn_http_piece;

#endif
