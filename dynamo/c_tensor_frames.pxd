# Mirrors dynamo/tensor_frames.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from dynamo.c_common cimport dyn_buf


cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "dynamo/tensor_frames.h" nogil:
    enum:
        DYN_TENSOR_HEAD
        DYN_TENSOR_PROTO
        DYN_TENSOR_END
        DYN_TENSOR_CANCEL
        DYN_TENSOR_CREDIT
        DYN_TENSOR_META
        DYN_TENSOR_PAYLOAD
        DYN_TENSOR_TOKENS
    ctypedef struct dyn_tensor_frame:
        uint8_t type
        uint32_t flags
        const uint8_t *payload
        size_t size
    void dyn_tensor_head_write(uint8_t *out, uint8_t type, uint32_t size)
    int dyn_tensor_frame_read(const uint8_t *bytes, size_t size, size_t max_payload, dyn_tensor_frame *out,
                              size_t *used)

    ctypedef struct dyn_tensor_meta:
        uint8_t dtype
        uint8_t device
        int32_t ndim
        int64_t *shape
        uint64_t elements
        uint64_t bytes
        const char *name
        size_t name_size
    size_t dyn_tensor_meta_size(const dyn_tensor_meta *meta)
    int dyn_tensor_meta_write(const dyn_tensor_meta *meta, uint8_t *out)
    int dyn_tensor_meta_read(const uint8_t *payload, size_t size, dyn_tensor_meta *out)

    enum:
        DYN_TENSOR_CHUNK
    size_t dyn_tensor_iov_count(uint64_t bytes, uint32_t chunk)
    size_t dyn_tensor_heads_size(const dyn_tensor_meta *meta)
    int dyn_tensor_iov(const dyn_tensor_meta *meta, const void *data, uint32_t chunk, uint8_t *heads, iovec *out)

    ctypedef struct dyn_tensor_reader:
        pass
    ctypedef struct dyn_tensor_limits:
        uint64_t tensor
        uint32_t message
    enum:
        DYN_TENSOR_EVENT_NONE
        DYN_TENSOR_EVENT_META
        DYN_TENSOR_EVENT_TENSOR
        DYN_TENSOR_EVENT_MESSAGE
        DYN_TENSOR_EVENT_TOKENS
        DYN_TENSOR_EVENT_CREDIT
        DYN_TENSOR_EVENT_CANCEL
        DYN_TENSOR_EVENT_END
    ctypedef struct dyn_tensor_event:
        int type
        const dyn_tensor_meta *meta
        dyn_buf *buf
        const uint8_t *data
        size_t size
        uint64_t credit
    int dyn_tensor_reader_new(dyn_tensor_reader **out, const dyn_tensor_limits *limits)
    void dyn_tensor_reader_free(dyn_tensor_reader *self)
    int dyn_tensor_reader_feed(dyn_tensor_reader *self, const uint8_t *bytes, size_t size, size_t *used,
                               dyn_tensor_event *event)
    uint8_t *dyn_tensor_reader_room(dyn_tensor_reader *self, size_t *room)
    int dyn_tensor_reader_filled(dyn_tensor_reader *self, size_t size, dyn_tensor_event *event)
    int dyn_tensor_reader_end(dyn_tensor_reader *self)
