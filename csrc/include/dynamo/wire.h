/* wire.h -- RPC frames: many streams of items over one connection between two of our processes.
 *
 *   frame    | u32 LE size of the rest | u8 type | varint stream | body ... |
 *
 *   caller                                            worker
 *     HELLO -->                                   <-- HELLO         both at once, nobody waits
 *     REQUEST stream=1 {window, deadline, path, headers, payload} -->
 *                                                 <-- ITEMS stream=1 (one or more items)
 *     CREDIT stream=1 bytes -->                       after it has consumed them
 *     STOP | KILL stream=1 -->                        finish soon | drop it now
 *                                                 <-- END | ERROR stream=1: the stream is over
 *     PING / PONG                                     either way, stream 0
 *                                                 <-- GOAWAY: no new requests on this connection
 *
 * The sender of items may send while its credit is above zero and subtracts the size of each ITEMS body,
 * so an item larger than the window travels too, alone.
 * Units    sizes are bytes. Numbers are little-endian base-128 varints ("varint") unless u32 LE is said.
 * Errors   readers take bytes from anyone: DYN_EPROTO for what cannot be, DYN_ELIMIT for what is too
 *          large, with a sentence. Writers fail with DYN_ENOMEM only and then leave *out as it was.
 * Threads  no state: a dyn_bytes belongs to one thread at a time.
 */
#ifndef DYNAMO_WIRE_H
#define DYNAMO_WIRE_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_WIRE_VERSION 1
#define DYN_WIRE_MAX_FRAME (UINT32_C(64) << 20) /* default bound of one frame */
#define DYN_WIRE_MAX_HEADERS 64
#define DYN_WIRE_VARINT_MAX 10

/* ---- bytes that grow ------------------------------------------------------------------------- */
typedef struct dyn_bytes { /* {0} is empty */
    uint8_t *data;
    size_t size, room;
} dyn_bytes;
DYN_API void dyn_bytes_free(dyn_bytes *self); /* leaves it empty */
/* Make room for `more` bytes behind the end.  errors  DYN_ENOMEM. */
DYN_API int dyn_bytes_reserve(dyn_bytes *self, size_t more);
DYN_API int dyn_bytes_append(dyn_bytes *self, const void *data, size_t size);

/* Bytes of someone else. */
typedef struct dyn_slice {
    const uint8_t *data;
    size_t size;
} dyn_slice;
typedef struct dyn_pair { /* a header: neither part is zero-terminated */
    dyn_slice key, value;
} dyn_pair;

/* ---- varints ----------------------------------------------------------------------------------- */
DYN_API size_t dyn_varint_write(uint8_t *out, uint64_t value); /* 1 to 10 bytes; how many */
/* How many bytes were read; 0 when they end too early or the number does not fit 64 bits. */
DYN_API size_t dyn_varint_read(const uint8_t *bytes, size_t size, uint64_t *out);

/* ---- frames -------------------------------------------------------------------------------------- */
enum dyn_frame_type {
    DYN_FRAME_HELLO = 1,   /* "DYN" u8 version, varint largest frame that the sender takes */
    DYN_FRAME_REQUEST = 2, /* see dyn_request_frame */
    DYN_FRAME_ITEMS = 3,   /* varint size, bytes; repeated */
    DYN_FRAME_END = 4,     /* empty */
    DYN_FRAME_ERROR = 5,   /* see dyn_error_frame */
    DYN_FRAME_STOP = 6,    /* empty */
    DYN_FRAME_KILL = 7,    /* empty */
    DYN_FRAME_CREDIT = 8,  /* varint bytes */
    DYN_FRAME_PING = 9,    /* up to 64 bytes, which the PONG gives back; stream 0 */
    DYN_FRAME_PONG = 10,
    DYN_FRAME_GOAWAY = 11, /* text; stream 0 */
};

typedef struct dyn_frame {
    uint8_t type;
    uint64_t stream;
    const uint8_t *body; /* borrowed from the bytes that were read */
    size_t size;
} dyn_frame;

/* Read one frame.
 * used    receives how many bytes it took.
 * errors  DYN_EAGAIN: not all there yet, and *used says how many bytes from the start are needed at
 *         least; DYN_EPROTO; DYN_ELIMIT: larger than max_frame. Unknown types are given out as they are. */
DYN_API int dyn_frame_read(const uint8_t *bytes, size_t size, size_t max_frame, dyn_frame *out, size_t *used);
/* Append a frame with this body (borrowed; NULL when size is 0).  errors  DYN_ENOMEM, DYN_ELIMIT. */
DYN_API int dyn_frame_write(dyn_bytes *out, uint8_t type, uint64_t stream, const void *body, size_t size);

/* HELLO.  read: DYN_EPROTO for other protocols, DYN_ENOTSUP for another version. */
DYN_API int dyn_hello_write(dyn_bytes *out, uint64_t max_frame);
DYN_API int dyn_hello_read(const dyn_frame *frame, uint64_t *max_frame);

typedef struct dyn_request_frame {
    uint64_t window;      /* the credit the worker starts with, bytes */
    uint64_t deadline_ms; /* from its arrival on; 0: none */
    dyn_slice path;
    const dyn_pair *headers;
    size_t header_count;
    dyn_slice payload;
} dyn_request_frame;
DYN_API int dyn_request_write(dyn_bytes *out, uint64_t stream, const dyn_request_frame *request);
/* headers  room for DYN_WIRE_MAX_HEADERS; out->headers points to it, slices into the frame. */
DYN_API int dyn_request_read(const dyn_frame *frame, dyn_pair *headers, dyn_request_frame *out);

typedef struct dyn_error_frame {
    uint64_t code; /* minus a dyn_error: 16 is DYN_EREMOTE */
    dyn_slice type, text, trace;
} dyn_error_frame;
DYN_API int dyn_error_write(dyn_bytes *out, uint64_t stream, const dyn_error_frame *error);
DYN_API int dyn_error_read(const dyn_frame *frame, dyn_error_frame *out);

/* CREDIT.  read: DYN_EPROTO. */
DYN_API int dyn_credit_write(dyn_bytes *out, uint64_t stream, uint64_t bytes);
DYN_API int dyn_credit_read(const dyn_frame *frame, uint64_t *bytes);

/* ---- items in an ITEMS body ------------------------------------------------------------------- */
/* Append one item to a body under construction.  errors  DYN_ENOMEM. */
DYN_API int dyn_items_add(dyn_bytes *out, const void *item, size_t size);
/* Take the next item off `rest`: false at the end, or when the rest is malformed (rest->size stays above 0). */
DYN_API bool dyn_items_next(dyn_slice *rest, dyn_slice *item);
/* Is the body a whole number of items, at least one? */
DYN_API bool dyn_items_valid(dyn_slice body);

#ifdef __cplusplus
}
#endif
#endif
