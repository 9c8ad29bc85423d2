/* Quill frames from anyone, whole and in pieces: both ways give the same frames and the same end; what was read is
 * written again as the same frame. The first byte says how long the pieces are. */
#include "common/common.h"
#include "dynamo/wire.h"

static uint64_t mix(uint64_t sum, const dyn_quill_frame *frame)
{
    sum = (sum ^ frame->flags) * UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < frame->payload.size; i++) sum = (sum ^ frame->payload.data[i]) * UINT64_C(0x100000001b3);
    return sum + frame->payload.size;
}

static int read_in_pieces(const uint8_t *data, size_t size, size_t step, uint64_t *sum)
{
    dyn_quill_reader reader = {0};
    dyn_quill_frame frame;
    int rc = 0;
    for (size_t at = 0; at < size && rc >= 0; at += step) {
        /* A copy of its own, so that a look beyond the piece is seen. */
        size_t have = size - at < step ? size - at : step;
        uint8_t *copy = dyn__malloc(have);
        if (copy == NULL) abort();
        memcpy(copy, data + at, have);
        dyn_slice piece = {copy, have};
        while ((rc = dyn_quill_next(&reader, &piece, &frame)) == 1) *sum = mix(*sum, &frame);
        if (rc == 0 && piece.size != 0) abort();
        if (reader.held.size > DYN_QUILL_MAX_PAYLOAD + DYN_QUILL_HEAD_MAX || reader.held.size > size) abort();
        dyn__free(copy);
    }
    if (rc >= 0) rc = dyn_quill_finish(&reader);
    dyn_quill_reader_free(&reader);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    size_t step = data[0] + 1u, used;
    data++, size--;
    uint64_t whole = 0, pieces = 0, messages;
    int first = read_in_pieces(data, size, size + 1, &whole);
    if (read_in_pieces(data, size, step, &pieces) != first || whole != pieces) abort();
    dyn_quill_frame frame, again;
    dyn_bytes out = {0};
    while (dyn_quill_read(data, size, &frame, &used) == DYN_OK) {
        if (used > size || frame.payload.data + frame.payload.size != data + used) abort();
        dyn_quill_credit_read(&frame, &messages);
        out.size = 0;
        if (dyn_quill_write(&out, frame.flags, frame.payload.data, frame.payload.size) < 0) abort();
        if (out.size > used) abort(); /* the size was written in its shortest form */
        size_t end;
        if (dyn_quill_read(out.data, out.size, &again, &end) != DYN_OK || end != out.size) abort();
        if (mix(0, &again) != mix(0, &frame)) abort();
        data += used, size -= used;
    }
    dyn_bytes_free(&out);
    return 0;
}
