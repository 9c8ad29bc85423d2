/* tensor_frames.h -- tensors as bytes on a stream, in Quill's layout.
 *
 *   frame    | u8 type | 4 reserved bytes, 0 | u32 BE size | payload |
 *   tensor   META, PAYLOAD (chunks), PAYLOAD, ...      any number of them, one after another
 *   stream   tensors, CREDIT, PROTO, TOKENS; END or CANCEL last
 *   META     | u8 ndim | ndim x u64 LE | u8 dtype | u8 device | u64 LE bytes | u16 LE size of name | name |
 *
 * Units    bytes.
 * Errors   readers take bytes from anyone: DYN_EPROTO for what cannot be, DYN_ELIMIT for what is too large, DYN_ERANGE
 *          for a shape whose product does not fit, each with a sentence, each as soon as the bytes that say so are there.
 * Threads  functions have no state; a dyn_tensor_reader belongs to one thread at a time.
 */
#ifndef DYNAMO_TENSOR_FRAMES_H
#define DYNAMO_TENSOR_FRAMES_H

#include <sys/uio.h>

#include "dynamo/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- frames ---------------------------------------------------------------------------------------------------- */
#define DYN_TENSOR_HEAD 9 /* bytes before the payload */
enum dyn_tensor_frame_type {
    DYN_TENSOR_PROTO = 0x01,  /* a message of whoever speaks above */
    DYN_TENSOR_END = 0x02,    /* empty */
    DYN_TENSOR_CANCEL = 0x04, /* UTF-8 reason */
    DYN_TENSOR_CREDIT = 0x08, /* u64 LE bytes */
    DYN_TENSOR_META = 0x10,
    DYN_TENSOR_PAYLOAD = 0x11,
    DYN_TENSOR_TOKENS = 0x20, /* a token batch */
};
typedef struct dyn_tensor_frame {
    uint8_t type;
    uint32_t flags;         /* the reserved bytes, little-endian */
    const uint8_t *payload; /* borrowed from the bytes that were read */
    size_t size;
} dyn_tensor_frame;

DYN_API void dyn_tensor_head_write(uint8_t out[DYN_TENSOR_HEAD], uint8_t type, uint32_t size);
/* Read one frame.
 * used    receives how many bytes it took; with DYN_EAGAIN how many from the start are needed at least.
 * errors  DYN_EAGAIN: not all there yet; DYN_EPROTO: unknown type; DYN_ELIMIT: its payload is larger than max_payload. */
DYN_API int dyn_tensor_frame_read(const uint8_t *bytes, size_t size, size_t max_payload, dyn_tensor_frame *out,
                                  size_t *used);

/* ---- what a tensor is like --------------------------------------------------------------------------------------- */
typedef struct dyn_tensor_meta {
    uint8_t dtype, device;
    int32_t ndim;
    int64_t shape[DYN_TENSOR_MAX_DIMS];
    uint64_t elements, bytes; /* written by the reader */
    const char *name;         /* borrowed, not terminated; NULL: none, also when it is empty on the wire */
    size_t name_size;         /* at most 65,535 */
} dyn_tensor_meta;
#define DYN_TENSOR_META_MAX (12 + 8 * DYN_TENSOR_MAX_DIMS + 65535)

/* Bytes of a META payload. */
DYN_API size_t dyn_tensor_meta_size(const dyn_tensor_meta *meta);
/* Write a META payload.
 * out     dyn_tensor_meta_size() bytes.
 * errors  as dyn_tensor_measure(); DYN_ERANGE: the name is longer than 65,535 bytes. */
DYN_API int dyn_tensor_meta_write(const dyn_tensor_meta *meta, uint8_t *out);
/* Read a META payload.  out->name points into it.
 * errors  DYN_EPROTO, DYN_ERANGE. The byte size that it states must be that of the shape, or 0. */
DYN_API int dyn_tensor_meta_read(const uint8_t *payload, size_t size, dyn_tensor_meta *out);

/* ---- writing ------------------------------------------------------------------------------------------------------ */
/* A tensor in frames without copying its elements:
 *
 *   out[0] META and first head | out[1] chunk | out[2] head | out[3] chunk | ... | out[count - 1] END (if asked for)
 *
 * Heads of full chunks are the same bytes, written once.
 */
#define DYN_TENSOR_CHUNK 65536 /* what Quill cuts tensors into */
/* How many iovecs a tensor of so many bytes becomes, its END among them. */
DYN_API size_t dyn_tensor_iov_count(uint64_t bytes, uint32_t chunk);
/* How many bytes of `heads` it needs. */
DYN_API size_t dyn_tensor_heads_size(const dyn_tensor_meta *meta);
/* data    the elements in C order, borrowed as long as the iovecs are used.
 * heads   dyn_tensor_heads_size() bytes, borrowed as long.
 * out     room for dyn_tensor_iov_count(); the caller may drop the last one, the END.
 * errors  as dyn_tensor_meta_write(); DYN_EINVAL: chunk is 0. */
DYN_API int dyn_tensor_iov(const dyn_tensor_meta *meta, const void *data, uint32_t chunk, uint8_t *heads,
                           struct iovec *out);

/* ---- reading ------------------------------------------------------------------------------------------------------ */
/* A stream, byte by byte if need be:
 *
 *             META                PAYLOAD of what is left (at once for 0 bytes)
 *   between ---------> inside ------------------------------------------------> between
 *   between --END or CANCEL--> over             anything else in its place is refused
 *
 * The elements go straight to where they stay: either by dyn_tensor_reader_feed(), which copies them once, or by reading
 * from a socket into dyn_tensor_reader_room(), which copies nothing.
 */
typedef struct dyn_tensor_reader dyn_tensor_reader;
typedef struct dyn_tensor_limits {
    uint64_t tensor;  /* bytes of one tensor; 0: DYN_TENSOR_MAX_BYTES */
    uint32_t message; /* bytes of a PROTO, TOKENS or CANCEL payload; 0: DYN_TENSOR_MAX_MESSAGE */
} dyn_tensor_limits;
#define DYN_TENSOR_MAX_BYTES (UINT64_C(1) << 30)
#define DYN_TENSOR_MAX_MESSAGE (UINT32_C(4) << 20)

enum dyn_tensor_event_type {
    DYN_TENSOR_EVENT_NONE,    /* all bytes are used, and more are needed */
    DYN_TENSOR_EVENT_META,    /* a tensor begins: its memory is there */
    DYN_TENSOR_EVENT_TENSOR,  /* a tensor is complete */
    DYN_TENSOR_EVENT_MESSAGE, /* PROTO */
    DYN_TENSOR_EVENT_TOKENS,
    DYN_TENSOR_EVENT_CREDIT,
    DYN_TENSOR_EVENT_CANCEL, /* the stream is over: the other side gave up, perhaps inside a tensor */
    DYN_TENSOR_EVENT_END,    /* the stream is over */
};
typedef struct dyn_tensor_event {
    int type;
    const dyn_tensor_meta *meta; /* META, TENSOR; borrowed until the next call */
    dyn_buf *buf;                /* TENSOR: new, the elements from its first byte on */
    const uint8_t *data;         /* MESSAGE, TOKENS, CANCEL; borrowed until the next call or the end of the input */
    size_t size;
    uint64_t credit;
} dyn_tensor_event;

/* limits  may be NULL.  errors  DYN_ENOMEM. */
DYN_API int dyn_tensor_reader_new(dyn_tensor_reader **out, const dyn_tensor_limits *limits);
DYN_API void dyn_tensor_reader_free(dyn_tensor_reader *self); /* NULL is allowed */
/* Read up to the next event.
 * used    receives how many bytes were taken: go on behind them.
 * errors  DYN_EPROTO, DYN_ELIMIT, DYN_ERANGE, DYN_ENOMEM: the stream is broken, and every later call says so again. */
DYN_API int dyn_tensor_reader_feed(dyn_tensor_reader *self, const uint8_t *bytes, size_t size, size_t *used,
                                   dyn_tensor_event *event);
/* Where the next bytes of the stream belong, when they are elements; NULL when they are not.  room  how many. */
DYN_API uint8_t *dyn_tensor_reader_room(dyn_tensor_reader *self, size_t *room);
/* So many bytes were written there.  event  TENSOR or NONE.  errors  DYN_EINVAL: more than there was room for. */
DYN_API int dyn_tensor_reader_filled(dyn_tensor_reader *self, size_t size, dyn_tensor_event *event);
/* There are no more bytes.  errors  DYN_ETRUNC: the stream is not over. */
DYN_API int dyn_tensor_reader_end(dyn_tensor_reader *self);

#ifdef __cplusplus
}
#endif
#endif
