/* frames.c -- see dynamo/wire.h for the contract.
 *
 * I1  A reader never looks beyond the frame it was given, whatever the sizes inside it say.
 * I2  A writer that fails leaves what was written before untouched: it cuts back to its start.
 */
#include "common/common.h"
#include "dynamo/wire.h"

enum { SIZE_FIELD = 4 };

static void put_u32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *in)
{
    return in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

/* ---- reading ---- */

int dyn_frame_read(const uint8_t *bytes, size_t size, size_t max_frame, dyn_frame *out, size_t *used)
{
    if (size < SIZE_FIELD) {
        *used = SIZE_FIELD;
        return DYN_EAGAIN;
    }
    size_t rest = get_u32(bytes);
    if (rest < 2) return dyn__fail(DYN_EPROTO, "a frame of %zu bytes: a type and a stream take at least 2", rest);
    if (rest > max_frame) return dyn__fail(DYN_ELIMIT, "a frame of %zu bytes: at most %zu are taken", rest, max_frame);
    if (size - SIZE_FIELD < rest) {
        *used = SIZE_FIELD + rest;
        return DYN_EAGAIN;
    }
    const uint8_t *at = bytes + SIZE_FIELD;
    out->type = at[0];
    size_t n = dyn_varint_read(at + 1, rest - 1, &out->stream);
    if (n == 0) return dyn__fail(DYN_EPROTO, "a frame whose stream number has no end");
    out->body = at + 1 + n;
    out->size = rest - 1 - n;
    *used = SIZE_FIELD + rest;
    return DYN_OK;
}

struct cursor {
    const uint8_t *at;
    size_t left;
};

static bool take_number(struct cursor *self, uint64_t *out)
{
    size_t n = dyn_varint_read(self->at, self->left, out);
    self->at += n, self->left -= n;
    return n > 0;
}

static bool take_slice(struct cursor *self, dyn_slice *out)
{
    uint64_t size;
    if (!take_number(self, &size) || size > self->left) return false;
    *out = (dyn_slice){self->at, (size_t)size};
    self->at += size, self->left -= (size_t)size;
    return true;
}

int dyn_hello_read(const dyn_frame *frame, uint64_t *max_frame)
{
    struct cursor in = {frame->body, frame->size};
    if (frame->type != DYN_FRAME_HELLO || in.left < 4 || memcmp(in.at, "DYN", 3) != 0)
        return dyn__fail(DYN_EPROTO, "the other side does not speak this protocol");
    if (in.at[3] != DYN_WIRE_VERSION)
        return dyn__fail(DYN_ENOTSUP, "the other side speaks version %d, this one %d: install the same dynamo on both",
                         in.at[3], DYN_WIRE_VERSION);
    in.at += 4, in.left -= 4;
    if (!take_number(&in, max_frame)) return dyn__fail(DYN_EPROTO, "a hello without its frame size");
    return DYN_OK;
}

int dyn_request_read(const dyn_frame *frame, dyn_pair *headers, dyn_request_frame *out)
{
    struct cursor in = {frame->body, frame->size};
    uint64_t count;
    if (!take_number(&in, &out->window) || !take_number(&in, &out->deadline_ms) || !take_slice(&in, &out->path) ||
        !take_number(&in, &count))
        return dyn__fail(DYN_EPROTO, "a request that is cut off");
    if (count > DYN_WIRE_MAX_HEADERS)
        return dyn__fail(DYN_ELIMIT, "a request with more than %d headers", DYN_WIRE_MAX_HEADERS);
    for (size_t i = 0; i < count; i++)
        if (!take_slice(&in, &headers[i].key) || !take_slice(&in, &headers[i].value))
            return dyn__fail(DYN_EPROTO, "a request whose headers are cut off");
    out->headers = headers;
    out->header_count = (size_t)count;
    out->payload = (dyn_slice){in.at, in.left};
    return DYN_OK;
}

int dyn_error_read(const dyn_frame *frame, dyn_error_frame *out)
{
    struct cursor in = {frame->body, frame->size};
    if (!take_number(&in, &out->code) || !take_slice(&in, &out->type) || !take_slice(&in, &out->text) ||
        !take_slice(&in, &out->trace))
        return dyn__fail(DYN_EPROTO, "an error that is cut off");
    return DYN_OK;
}

int dyn_credit_read(const dyn_frame *frame, uint64_t *bytes)
{
    struct cursor in = {frame->body, frame->size};
    return take_number(&in, bytes) ? DYN_OK : dyn__fail(DYN_EPROTO, "a credit without a number");
}

bool dyn_items_next(dyn_slice *rest, dyn_slice *item)
{
    struct cursor in = {rest->data, rest->size};
    if (!take_slice(&in, item)) return false;
    *rest = (dyn_slice){in.at, in.left};
    return true;
}

bool dyn_items_valid(dyn_slice body)
{
    dyn_slice item;
    if (body.size == 0) return false;
    while (dyn_items_next(&body, &item)) {
    }
    return body.size == 0;
}

/* ---- writing ---- */

/* Room for the whole frame is made first, so that what follows cannot fail (I2). */
static int begin(dyn_bytes *out, uint8_t type, uint64_t stream, size_t body)
{
    uint8_t number[DYN_WIRE_VARINT_MAX];
    size_t n = dyn_varint_write(number, stream);
    if (body > UINT32_MAX - 1 - n) return dyn__fail(DYN_ELIMIT, "a frame of %zu bytes", body);
    int rc = dyn_bytes_reserve(out, SIZE_FIELD + 1 + n + body);
    if (rc < 0) return rc;
    uint8_t *at = out->data + out->size;
    put_u32(at, (uint32_t)(1 + n + body));
    at[SIZE_FIELD] = type;
    memcpy(at + SIZE_FIELD + 1, number, n);
    out->size += SIZE_FIELD + 1 + n;
    return DYN_OK;
}

static size_t number_size(uint64_t value)
{
    size_t n = 1;
    while (value >= 0x80) value >>= 7, n++;
    return n;
}

static size_t slice_size(dyn_slice slice)
{
    return number_size(slice.size) + slice.size;
}

static void put_raw(dyn_bytes *out, const void *data, size_t size)
{
    assert(size <= out->room - out->size);
    if (size > 0) memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_number(dyn_bytes *out, uint64_t value)
{
    out->size += dyn_varint_write(out->data + out->size, value);
    assert(out->size <= out->room);
}

static void put_slice(dyn_bytes *out, dyn_slice slice)
{
    put_number(out, slice.size);
    put_raw(out, slice.data, slice.size);
}

int dyn_frame_write(dyn_bytes *out, uint8_t type, uint64_t stream, const void *body, size_t size)
{
    int rc = begin(out, type, stream, size);
    if (rc < 0) return rc;
    put_raw(out, body, size);
    return DYN_OK;
}

int dyn_hello_write(dyn_bytes *out, uint64_t max_frame)
{
    uint8_t body[4 + DYN_WIRE_VARINT_MAX] = {'D', 'Y', 'N', DYN_WIRE_VERSION};
    return dyn_frame_write(out, DYN_FRAME_HELLO, 0, body, 4 + dyn_varint_write(body + 4, max_frame));
}

int dyn_request_write(dyn_bytes *out, uint64_t stream, const dyn_request_frame *request)
{
    if (request->header_count > DYN_WIRE_MAX_HEADERS)
        return dyn__fail(DYN_ELIMIT, "%zu headers: at most %d", request->header_count, DYN_WIRE_MAX_HEADERS);
    size_t size = number_size(request->window) + number_size(request->deadline_ms) + slice_size(request->path) +
                  number_size(request->header_count);
    for (size_t i = 0; i < request->header_count; i++)
        size += slice_size(request->headers[i].key) + slice_size(request->headers[i].value);
    if (request->payload.size > UINT32_MAX)
        return dyn__fail(DYN_ELIMIT, "a payload of %zu bytes", request->payload.size);
    int rc = begin(out, DYN_FRAME_REQUEST, stream, size + request->payload.size);
    if (rc < 0) return rc;
    put_number(out, request->window);
    put_number(out, request->deadline_ms);
    put_slice(out, request->path);
    put_number(out, request->header_count);
    for (size_t i = 0; i < request->header_count; i++) {
        put_slice(out, request->headers[i].key);
        put_slice(out, request->headers[i].value);
    }
    put_raw(out, request->payload.data, request->payload.size);
    return DYN_OK;
}

int dyn_error_write(dyn_bytes *out, uint64_t stream, const dyn_error_frame *error)
{
    size_t size =
        number_size(error->code) + slice_size(error->type) + slice_size(error->text) + slice_size(error->trace);
    int rc = begin(out, DYN_FRAME_ERROR, stream, size);
    if (rc < 0) return rc;
    put_number(out, error->code);
    put_slice(out, error->type);
    put_slice(out, error->text);
    put_slice(out, error->trace);
    return DYN_OK;
}

int dyn_credit_write(dyn_bytes *out, uint64_t stream, uint64_t bytes)
{
    uint8_t body[DYN_WIRE_VARINT_MAX];
    return dyn_frame_write(out, DYN_FRAME_CREDIT, stream, body, dyn_varint_write(body, bytes));
}

size_t dyn_items_cost(size_t size)
{
    uint8_t number[DYN_WIRE_VARINT_MAX];
    return dyn_varint_write(number, size) + size;
}

int dyn_items_add(dyn_bytes *out, const void *item, size_t size)
{
    int rc = dyn_bytes_reserve(out, size + DYN_WIRE_VARINT_MAX);
    if (rc < 0) return rc;
    put_slice(out, (dyn_slice){item, size});
    return DYN_OK;
}
