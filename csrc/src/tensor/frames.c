/* frames.c -- see dynamo/tensor_frames.h for the contract: frames, META, and a tensor as iovecs. */
#include "common/common.h"
#include "dynamo/tensor_frames.h"

enum { META_FIXED = 12, MAX_NAME = 65535 }; /* ndim, dtype, device, bytes; without the size of the name: 10 + 2 */

static uint64_t get_le(const uint8_t *from, int bytes)
{
    uint64_t value = 0;
    memcpy(&value, from, (size_t)bytes); /* this machine is little-endian (tensor.c) */
    return value;
}

/* ---- frames ---- */
static bool known(uint8_t type)
{
    switch (type) {
    case DYN_TENSOR_PROTO:
    case DYN_TENSOR_END:
    case DYN_TENSOR_CANCEL:
    case DYN_TENSOR_CREDIT:
    case DYN_TENSOR_META:
    case DYN_TENSOR_PAYLOAD:
    case DYN_TENSOR_TOKENS: return true;
    default: return false;
    }
}

int dyn__tensor_type_check(uint8_t type)
{
    return known(type) ? DYN_OK : dyn__fail(DYN_EPROTO, "unknown frame type: 0x%02x", type);
}

void dyn_tensor_head_write(uint8_t out[DYN_TENSOR_HEAD], uint8_t type, uint32_t size)
{
    const uint8_t head[DYN_TENSOR_HEAD] = {
        type, 0, 0, 0, 0, (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
    memcpy(out, head, sizeof(head));
}

int dyn_tensor_frame_read(const uint8_t *bytes, size_t size, size_t max_payload, dyn_tensor_frame *out, size_t *used)
{
    int rc;
    *used = DYN_TENSOR_HEAD;
    if (size > 0 && (rc = dyn__tensor_type_check(bytes[0])) < 0) return rc;
    if (size < DYN_TENSOR_HEAD) return DYN_EAGAIN;
    size_t payload = (size_t)bytes[5] << 24 | (size_t)bytes[6] << 16 | (size_t)bytes[7] << 8 | bytes[8];
    if (payload > max_payload)
        return dyn__fail(DYN_ELIMIT, "a tensor frame of %zu bytes: at most %zu are taken", payload, max_payload);
    *used = DYN_TENSOR_HEAD + payload;
    if (size < *used) return DYN_EAGAIN;
    *out = (dyn_tensor_frame){bytes[0], (uint32_t)get_le(bytes + 1, 4), bytes + DYN_TENSOR_HEAD, payload};
    return DYN_OK;
}

/* ---- META ---- */
size_t dyn_tensor_meta_size(const dyn_tensor_meta *meta)
{
    return META_FIXED + 1 + 8 * (size_t)meta->ndim + meta->name_size;
}

int dyn_tensor_meta_write(const dyn_tensor_meta *meta, uint8_t *out)
{
    uint64_t bytes;
    int rc = dyn_tensor_measure(meta->dtype, meta->ndim, meta->shape, NULL, &bytes);
    if (rc < 0) return rc;
    if (meta->name_size > MAX_NAME)
        return dyn__fail(DYN_ERANGE, "a name of %zu bytes: a frame holds %d", meta->name_size, MAX_NAME);
    *out++ = (uint8_t)meta->ndim;
    if (meta->ndim > 0) memcpy(out, meta->shape, 8 * (size_t)meta->ndim);
    out += 8 * meta->ndim;
    *out++ = meta->dtype;
    *out++ = meta->device;
    memcpy(out, &bytes, 8);
    out[8] = (uint8_t)meta->name_size;
    out[9] = (uint8_t)(meta->name_size >> 8);
    if (meta->name_size > 0) memcpy(out + 10, meta->name, meta->name_size);
    return DYN_OK;
}

int dyn_tensor_meta_read(const uint8_t *payload, size_t size, dyn_tensor_meta *out)
{
    if (size < META_FIXED + 1) return dyn__fail(DYN_EPROTO, "tensor metadata of %zu bytes: at least 13", size);
    int ndim = payload[0];
    if (ndim > DYN_TENSOR_MAX_DIMS)
        return dyn__fail(DYN_EPROTO, "tensor metadata: %d dimensions, at most %d", ndim, DYN_TENSOR_MAX_DIMS);
    size_t fixed = META_FIXED + 1 + 8 * (size_t)ndim;
    if (size < fixed) return dyn__fail(DYN_EPROTO, "tensor metadata of %zu bytes: its shape needs %zu", size, fixed);
    const uint8_t *at = payload + 1 + 8 * ndim;
    if (ndim > 0) memcpy(out->shape, payload + 1, 8 * (size_t)ndim);
    out->ndim = ndim;
    out->dtype = at[0];
    out->device = at[1];
    if (dyn_dtype(out->dtype) == NULL) return dyn__fail(DYN_EPROTO, "tensor metadata: dtype %d is unknown", at[0]);
    if (out->device > DYN_DEVICE_CUDA) return dyn__fail(DYN_EPROTO, "tensor metadata: device %d is unknown", at[1]);
    int rc = dyn_tensor_measure(out->dtype, ndim, out->shape, &out->elements, &out->bytes);
    if (rc < 0) return rc;
    uint64_t stated = get_le(at + 2, 8);
    if (stated != 0 && stated != out->bytes)
        return dyn__fail(DYN_EPROTO, "tensor metadata: states %llu bytes, its shape has %llu",
                         (unsigned long long)stated, (unsigned long long)out->bytes);
    out->name_size = (size_t)get_le(at + 10, 2);
    out->name = out->name_size > 0 ? (const char *)at + 12 : NULL;
    if (fixed + out->name_size != size)
        return dyn__fail(DYN_EPROTO, "tensor metadata of %zu bytes: a name of %zu makes it %zu", size, out->name_size,
                         fixed + out->name_size);
    return DYN_OK;
}

/* ---- a tensor as iovecs ---- */
size_t dyn_tensor_iov_count(uint64_t bytes, uint32_t chunk)
{
    if (bytes == 0 || chunk == 0) return 2;
    return 2 * (size_t)((bytes - 1) / chunk + 1) + 1;
}

size_t dyn_tensor_heads_size(const dyn_tensor_meta *meta)
{
    return DYN_TENSOR_HEAD + dyn_tensor_meta_size(meta) + 3 * DYN_TENSOR_HEAD;
}

int dyn_tensor_iov(const dyn_tensor_meta *meta, const void *data, uint32_t chunk, uint8_t *heads, struct iovec *out)
{
    uint64_t bytes;
    size_t meta_size = dyn_tensor_meta_size(meta);
    const uint8_t *at = data;
    int rc;
    if (chunk == 0) return dyn__fail(DYN_EINVAL, "chunk size 0: must be 1 or more");
    if ((rc = dyn_tensor_measure(meta->dtype, meta->ndim, meta->shape, NULL, &bytes)) < 0) return rc;
    if ((rc = dyn_tensor_meta_write(meta, heads + DYN_TENSOR_HEAD)) < 0) return rc;
    dyn_tensor_head_write(heads, DYN_TENSOR_META, (uint32_t)meta_size);
    uint8_t *full = heads + DYN_TENSOR_HEAD + meta_size, *last = full + DYN_TENSOR_HEAD, *end = last + DYN_TENSOR_HEAD;
    uint64_t chunks = bytes == 0 ? 0 : (bytes - 1) / chunk + 1;
    uint32_t rest = chunks == 0 ? 0 : (uint32_t)(bytes - (chunks - 1) * chunk);
    dyn_tensor_head_write(full, DYN_TENSOR_PAYLOAD, chunks == 1 ? rest : chunk);
    dyn_tensor_head_write(last, DYN_TENSOR_PAYLOAD, rest);
    dyn_tensor_head_write(end, DYN_TENSOR_END, 0);
    *out++ = (struct iovec){heads, (size_t)(full - heads) + (chunks > 0 ? DYN_TENSOR_HEAD : 0)};
    for (uint64_t i = 0; i < chunks; i++) {
        uint32_t size = i + 1 < chunks ? chunk : rest;
        if (i > 0) *out++ = (struct iovec){i + 1 < chunks ? full : last, DYN_TENSOR_HEAD};
        *out++ = (struct iovec){(void *)at, size};
        at += size;
    }
    *out = (struct iovec){end, DYN_TENSOR_HEAD};
    return DYN_OK;
}
