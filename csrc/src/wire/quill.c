/* wire/quill.c -- see dynamo/wire.h for the contract: Quill stream frames.
 *
 * I1  What can never become a frame is refused with the first byte that shows it: nobody waits for the rest of it.
 * I2  A reader holds at most one frame, and of it no more than has come: an announced size allocates nothing.
 * I3  held.size > 0 exactly when a frame was cut; `given` says that its payload is lent out until the next call.
 */
#include "common/common.h"
#include "dynamo/wire.h"

static int too_large(uint64_t size)
{
    return dyn__fail(DYN_EPROTO, "Frame too large: %llu bytes (max %u)", (unsigned long long)size,
                     DYN_QUILL_MAX_PAYLOAD);
}

/* The bytes begin a size that is not over yet: the part of it that is there is a lower bound of it. */
static uint64_t at_least(const uint8_t *bytes, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) value |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
    return value;
}

int dyn_quill_read(const uint8_t *bytes, size_t size, dyn_quill_frame *out, size_t *used)
{
    uint64_t payload;
    size_t n = dyn_varint_read(bytes, size, &payload);
    if (n == 0) {
        if (size >= DYN_WIRE_VARINT_MAX)
            return dyn__fail(DYN_EPROTO, "Invalid varint encoding: the size of a frame does not end within %d bytes",
                             DYN_WIRE_VARINT_MAX);
        payload = at_least(bytes, size);
    }
    if (payload > DYN_QUILL_MAX_PAYLOAD) return too_large(payload);
    *used = n == 0 ? size + 2 : n + 1 + (size_t)payload;
    if (n == 0 || size < *used) return DYN_EAGAIN;
    out->flags = bytes[n];
    out->payload = (dyn_slice){bytes + n + 1, (size_t)payload};
    return DYN_OK;
}

int dyn_quill_head(uint8_t *out, uint8_t flags, size_t payload_size)
{
    if (payload_size > DYN_QUILL_MAX_PAYLOAD)
        return dyn__fail(DYN_EINVAL, "Frame too large: %zu bytes (max %u); send it in several frames", payload_size,
                         DYN_QUILL_MAX_PAYLOAD);
    size_t n = dyn_varint_write(out, payload_size);
    out[n] = flags;
    return (int)n + 1;
}

int dyn_quill_write(dyn_bytes *out, uint8_t flags, const void *payload, size_t size)
{
    uint8_t head[DYN_QUILL_HEAD_MAX];
    int n = dyn_quill_head(head, flags, size);
    if (n < 0) return n;
    int rc = dyn_bytes_reserve(out, (size_t)n + size);
    if (rc < 0) return rc;
    memcpy(out->data + out->size, head, (size_t)n);
    if (size > 0) memcpy(out->data + out->size + n, payload, size);
    out->size += (size_t)n + size;
    return DYN_OK;
}

int dyn_quill_credit_write(dyn_bytes *out, uint64_t messages)
{
    uint8_t payload[DYN_WIRE_VARINT_MAX];
    return dyn_quill_write(out, DYN_QUILL_CREDIT, payload, dyn_varint_write(payload, messages));
}

int dyn_quill_credit_read(const dyn_quill_frame *frame, uint64_t *messages)
{
    if (!(frame->flags & DYN_QUILL_CREDIT) || dyn_varint_read(frame->payload.data, frame->payload.size, messages) == 0)
        return dyn__fail(DYN_EPROTO, "a credit frame of %zu bytes without a number", frame->payload.size);
    return DYN_OK;
}

/* ---- a stream in pieces ---- */

/* Fill `held` up to a whole frame: 1, or 0 when the piece is used up before. */
static int complete(dyn_quill_reader *self, dyn_slice *piece, dyn_quill_frame *out)
{
    for (;;) {
        size_t used;
        int rc = dyn_quill_read(self->held.data, self->held.size, out, &used);
        if (rc == DYN_OK) {
            assert(used == self->held.size); /* what is added below never passes the end of the frame */
            self->given = true;
            return 1;
        }
        if (rc != DYN_EAGAIN) return rc;
        if (piece->size == 0) return 0;
        size_t more = used - self->held.size;
        if (more > piece->size) more = piece->size;
        if ((rc = dyn_bytes_append(&self->held, piece->data, more)) < 0) return rc;
        piece->data += more, piece->size -= more;
    }
}

static int next(dyn_quill_reader *self, dyn_slice *piece, dyn_quill_frame *out)
{
    if (self->given) self->held.size = 0, self->given = false;
    if (self->held.size > 0) return complete(self, piece, out);
    if (piece->size == 0) return 0;
    size_t used;
    int rc = dyn_quill_read(piece->data, piece->size, out, &used);
    if (rc == DYN_OK) {
        piece->data += used, piece->size -= used;
        return 1;
    }
    if (rc != DYN_EAGAIN) return rc;
    if ((rc = dyn_bytes_append(&self->held, piece->data, piece->size)) < 0) return rc;
    piece->data += piece->size, piece->size = 0;
    return 0;
}

static int in_order(dyn_quill_reader *self, const dyn_quill_frame *frame)
{
    unsigned flags = frame->flags & DYN_QUILL_KNOWN;
    if (self->cancelled) return dyn__fail(DYN_EPROTO, "a frame after CANCEL (flags 0x%02x)", frame->flags);
    if (self->ended && (flags & (DYN_QUILL_DATA | DYN_QUILL_END)))
        return dyn__fail(DYN_EPROTO, "a frame after END_STREAM (flags 0x%02x)", frame->flags);
    if ((flags & DYN_QUILL_CREDIT) && (flags & DYN_QUILL_DATA))
        return dyn__fail(DYN_EPROTO, "a frame that is DATA and CREDIT at once (flags 0x%02x)", frame->flags);
    self->ended |= (flags & DYN_QUILL_END) != 0;
    self->cancelled |= (flags & DYN_QUILL_CANCEL) != 0;
    return DYN_OK;
}

int dyn_quill_next(dyn_quill_reader *self, dyn_slice *piece, dyn_quill_frame *out)
{
    int rc = self->broken;
    if (rc < 0) return dyn__fail(rc, "this stream was refused before");
    while ((rc = next(self, piece, out)) == 1) {
        if ((out->flags & DYN_QUILL_KNOWN) == 0) continue;
        if ((rc = in_order(self, out)) == DYN_OK) return 1;
        break;
    }
    if (rc < 0) self->broken = rc;
    return rc;
}

int dyn_quill_finish(dyn_quill_reader *self)
{
    if (self->broken < 0) return dyn__fail(self->broken, "this stream was refused before");
    if (self->held.size > 0 && !self->given)
        return dyn__fail(DYN_EBROKEN, "the stream ends within a frame, after %zu bytes of it", self->held.size);
    if (!self->ended && !self->cancelled) return dyn__fail(DYN_EBROKEN, "the stream ends without END_STREAM");
    return DYN_OK;
}

void dyn_quill_reader_free(dyn_quill_reader *self)
{
    dyn_bytes_free(&self->held);
    *self = (dyn_quill_reader){0};
}
