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
/* How many bytes were read; 0 when they end too early or the number does not fit 64 bits: then DYN_WIRE_VARINT_MAX or more
 * bytes mean that it can never become one, fewer that more bytes may help. Longer forms than needed are taken. */
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
/* What an item of this size takes of an ITEMS body, and of the window of its stream: its size varint too. */
DYN_API size_t dyn_items_cost(size_t size);
/* Take the next item off `rest`: false at the end, or when the rest is malformed (rest->size stays above 0). */
DYN_API bool dyn_items_next(dyn_slice *rest, dyn_slice *item);
/* Is the body a whole number of items, at least one? */
DYN_API bool dyn_items_valid(dyn_slice body);

/* ==== Quill stream frames ========================================================================
 * The second, older protocol on the wire: the body of one HTTP exchange, so there is no stream number.
 *
 *   frame    | varint size of the payload | u8 flags | payload |
 *
 *   flags    DATA: payload is a message      END: the sender says nothing more; with DATA that message is its last
 *            CREDIT: payload is a varint, so many messages more may be sent      CANCEL: drop the exchange
 *            no flag that is known: a frame to be skipped
 *
 * After END a sender may still send CREDIT and CANCEL (the other direction goes on); after CANCEL nothing. */
#define DYN_QUILL_MAX_PAYLOAD (UINT32_C(4) << 20) /* inclusive */
#define DYN_QUILL_HEAD_MAX 11                     /* longest frame head */
enum dyn_quill_flag {
    DYN_QUILL_DATA = 1,
    DYN_QUILL_END = 2,
    DYN_QUILL_CANCEL = 4,
    DYN_QUILL_CREDIT = 8,
    DYN_QUILL_KNOWN = 15, /* all of them */
};
typedef struct dyn_quill_frame {
    uint8_t flags;
    dyn_slice payload; /* borrowed from the bytes that were read */
} dyn_quill_frame;

/* Read one frame at the start of the bytes.
 * used    receives how many bytes it took.
 * errors  DYN_EAGAIN: not all there yet, and *used says how many bytes from the start are needed at least;
 *         DYN_EPROTO: can never become one (a size without an end, a payload over DYN_QUILL_MAX_PAYLOAD), said
 *         as soon as the bytes show it. */
DYN_API int dyn_quill_read(const uint8_t *bytes, size_t size, dyn_quill_frame *out, size_t *used);
/* Write what stands before a payload of so many bytes, for those who send the payload from where it lies.
 * out     room for DYN_QUILL_HEAD_MAX bytes; the result is how many were written.
 * errors  DYN_EINVAL: over DYN_QUILL_MAX_PAYLOAD. */
DYN_API int dyn_quill_head(uint8_t *out, uint8_t flags, size_t payload_size);
/* Append a frame; payload: borrowed, NULL when size is 0.  errors  DYN_ENOMEM, DYN_EINVAL (too large). */
DYN_API int dyn_quill_write(dyn_bytes *out, uint8_t flags, const void *payload, size_t size);
DYN_API int dyn_quill_credit_write(dyn_bytes *out, uint64_t messages);
/* The number in a CREDIT frame; bytes behind it are ignored.  errors  DYN_EPROTO. */
DYN_API int dyn_quill_credit_read(const dyn_quill_frame *frame, uint64_t *messages);

/* ---- a stream of them in pieces of any size -------------------------------------------------------
 * A frame that lies in one piece is not copied; of a cut one only what has come is kept, at most one frame.
 *
 *   dyn_slice piece = {data, size};
 *   while ((rc = dyn_quill_next(&reader, &piece, &frame)) == 1) take(&frame);
 *   if (rc < 0) refuse();                                 0: the piece is used up
 */
typedef struct dyn_quill_reader { /* {0} is a new one */
    dyn_bytes held;               /* private: a frame of which a part is here */
    bool given;                   /* private: what is held was given out and may go */
    bool ended, cancelled;        /* END, CANCEL was seen */
    int broken;                   /* the code of the first refusal; it is given again and again */
} dyn_quill_reader;
/* Take the next frame off the piece: 1; 0 when the piece is used up. Frames without a known flag are skipped.
 * out     payload is borrowed from the piece or the reader until the next call.
 * errors  DYN_EPROTO: as dyn_quill_read(), a CREDIT that is DATA too, or a frame that may not follow END or CANCEL;
 *         DYN_ENOMEM. After an error the stream is of no use. */
DYN_API int dyn_quill_next(dyn_quill_reader *self, dyn_slice *piece, dyn_quill_frame *out);
/* The bytes are over: DYN_OK after END or CANCEL and between two frames, else DYN_EBROKEN. */
DYN_API int dyn_quill_finish(dyn_quill_reader *self);
DYN_API void dyn_quill_reader_free(dyn_quill_reader *self); /* leaves a new one */

/* ---- credits: messages ----------------------------------------------------------------------------
 * The sender takes one per message and stops at none; the receiver gives back what it has consumed, `refill` at a time. */
enum { DYN_QUILL_CREDITS = 16, DYN_QUILL_REFILL = 8 };
typedef struct dyn_quill_credits {
    uint64_t left;     /* sender: messages that may be sent now; receiver: that may still come */
    uint64_t consumed; /* receiver: consumed since the last grant */
    uint64_t refill;
} dyn_quill_credits;
/* errors  DYN_EINVAL: refill 0 or above initial. */
DYN_API int dyn_quill_credits_init(dyn_quill_credits *self, uint64_t initial, uint64_t refill);
DYN_API bool
dyn_quill_credits_take(dyn_quill_credits *self); /* a message is sent, or arrives: false when none is left */
/* Sender: a CREDIT frame came.  errors  DYN_EPROTO: the sum does not fit 64 bits; nothing changes. */
DYN_API int dyn_quill_credits_grant(dyn_quill_credits *self, uint64_t messages);
/* Receiver: so many messages were consumed. The result is how many to grant in a CREDIT frame now, 0: none yet; they
 * count as left from here on. */
DYN_API uint64_t dyn_quill_credits_consumed(dyn_quill_credits *self, uint64_t messages);

/* ---- credits: bytes, with hysteresis ---------------------------------------------------------------
 *   0 .......... low .......... high        below low: paused, until a grant lifts it above high */
typedef struct dyn_quill_budget {
    int64_t left; /* below 0: owed */
    int64_t low, high;
    bool paused;
} dyn_quill_budget;
enum dyn_quill_preset { DYN_QUILL_DEFAULT, DYN_QUILL_SMALL, DYN_QUILL_LARGE };
DYN_API void dyn_quill_budget_preset(dyn_quill_budget *self, enum dyn_quill_preset preset);
/* errors  DYN_EINVAL: low >= high, or a number above 2^62. */
DYN_API int dyn_quill_budget_init(dyn_quill_budget *self, uint64_t initial, uint64_t low, uint64_t high);
/* So many bytes went. True: paused now.  errors are not possible: what is owed stops at -2^62. */
DYN_API bool dyn_quill_budget_consume(dyn_quill_budget *self, uint64_t bytes);
/* So many more may go. True: not paused any more because of it. Stops at 2^62. */
DYN_API bool dyn_quill_budget_grant(dyn_quill_budget *self, uint64_t bytes);
/* What a receiver would grant now: up to the middle of low and high; 0 at or above high. */
DYN_API uint64_t dyn_quill_budget_suggest(const dyn_quill_budget *self);

#ifdef __cplusplus
}
#endif
#endif
