/* Streams of tensors from anyone, cut anywhere: the first byte says how they are cut. Every way of cutting must give the same
 * events, and a tensor that came through is written again and read back. */
#include "dynamo/tensor_frames.h"
#include "common/common.h"

static uint64_t mixed(uint64_t h, const void *data, size_t size)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < size; i++) h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void again(const dyn_tensor_meta *meta, const uint8_t *data)
{
    uint8_t heads[DYN_TENSOR_META_MAX + 4 * DYN_TENSOR_HEAD];
    struct iovec iov[3];
    dyn_tensor_meta back;
    if (dyn_tensor_heads_size(meta) > sizeof(heads) || dyn_tensor_iov_count(meta->bytes, UINT32_MAX) > 3) abort();
    if (dyn_tensor_iov(meta, data, UINT32_MAX, heads, iov) < 0) abort();
    if (dyn_tensor_meta_read(heads + DYN_TENSOR_HEAD, dyn_tensor_meta_size(meta), &back) < 0) abort();
    if (back.bytes != meta->bytes || back.name_size != meta->name_size || back.dtype != meta->dtype) abort();
    if (memcmp(back.shape, meta->shape, sizeof(int64_t) * (size_t)meta->ndim) != 0) abort();
}

static uint64_t run(const uint8_t *data, size_t size, size_t step, bool rooms, int *code)
{
    const dyn_tensor_limits limits = {.tensor = 1 << 12, .message = 1 << 10};
    dyn_tensor_reader *reader;
    dyn_tensor_event event;
    uint64_t h = 1;
    size_t used, room;
    int rc = DYN_OK;
    if (dyn_tensor_reader_new(&reader, &limits) < 0) abort();
    for (size_t at = 0; rc == DYN_OK;) {
        size_t piece = size - at < step ? size - at : step;
        uint8_t *to = rooms ? dyn_tensor_reader_room(reader, &room) : NULL;
        if (to != NULL && piece > 0) {
            used = piece < room ? piece : room;
            memcpy(to, data + at, used);
            rc = dyn_tensor_reader_filled(reader, used, &event);
        } else {
            rc = dyn_tensor_reader_feed(reader, data + at, piece, &used, &event);
        }
        if (rc < 0) break;
        if (used > piece) abort();
        at += used;
        if (event.type != DYN_TENSOR_EVENT_NONE) h = mixed(h, &event.type, sizeof(event.type));
        h = mixed(h, event.data, event.size);
        h = event.credit != 0 ? mixed(h, &event.credit, 8) : h;
        if (event.meta != NULL) h = mixed(h, event.meta->name, event.meta->name_size);
        if (event.type == DYN_TENSOR_EVENT_TENSOR) {
            if (dyn_buf_size(event.buf) != event.meta->bytes || event.meta->bytes > limits.tensor) abort();
            h = mixed(h, dyn_buf_data(event.buf), event.meta->bytes);
            again(event.meta, dyn_buf_data(event.buf));
            dyn_buf_unref(event.buf);
        }
        if (event.type == DYN_TENSOR_EVENT_NONE) {
            if (used < piece && to == NULL) abort();
            if (at == size && (to == NULL || piece == 0)) {
                rc = dyn_tensor_reader_end(reader);
                break;
            }
        }
    }
    dyn_tensor_reader_free(reader);
    *code = rc;
    return h;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_tensor_frame frame;
    dyn_tensor_meta meta;
    size_t used;
    int one, two;
    if (size == 0) return 0;
    size_t step = data[0] + 1u;
    data++, size--;
    uint64_t events = run(data, size, SIZE_MAX, false, &one);
    if (run(data, size, step, (step & 1) != 0, &two) != events || one != two) abort();
    if (dyn_tensor_meta_read(data, size, &meta) == DYN_OK && dyn_tensor_meta_size(&meta) != size) abort();
    while (dyn_tensor_frame_read(data, size, 1 << 12, &frame, &used) == DYN_OK) {
        if (used > size || frame.payload + frame.size != data + used) abort();
        data += used, size -= used;
    }
    return 0;
}
