/* Tensors: shapes, copies, frames, what is refused. */
#include "dynamo/tensor.h"

#include "dynamo/dlpack.h"
#include "dynamo/safetensors.h"
#include "dynamo/tensor_frames.h"
#include "test.h"

/* ---- shapes and copies ---- */
static void shapes_are_measured_without_overflow(void)
{
    uint64_t elements, bytes;
    CHECK_EQ(dyn_tensor_measure(DYN_FLOAT32, 2, (int64_t[]){2, 3}, &elements, &bytes), DYN_OK);
    CHECK_EQ(elements, 6);
    CHECK_EQ(bytes, 24);
    CHECK_EQ(dyn_tensor_measure(DYN_UINT8, 0, NULL, &elements, &bytes), DYN_OK);
    CHECK_EQ(elements, 1);
    CHECK_EQ(dyn_tensor_measure(DYN_UINT8, 1, (int64_t[]){INT64_MAX}, &elements, &bytes), DYN_OK);
    CHECK_EQ(dyn_tensor_measure(DYN_INT16, 1, (int64_t[]){INT64_MAX}, NULL, NULL), DYN_ERANGE);
    CHECK_EQ(dyn_tensor_measure(DYN_UINT8, 3, (int64_t[]){0, INT64_MAX, 2}, NULL, NULL), DYN_ERANGE);
    CHECK_EQ(dyn_tensor_measure(DYN_UINT8, 1, (int64_t[]){-1}, NULL, NULL), DYN_ERANGE);
    CHECK_EQ(dyn_tensor_measure(0, 0, NULL, NULL, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_tensor_measure(DYN_DTYPE_COUNT, 0, NULL, NULL, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_tensor_measure(DYN_INT8, DYN_TENSOR_MAX_DIMS + 1, NULL, NULL, NULL), DYN_EINVAL);
}

/* The slow way: every element by its index. */
static void naive_copy(const dyn_tensor *t, uint8_t *out)
{
    size_t size = dyn_dtype(t->dtype)->size, count = dyn_tensor_count(t);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *at = t->data;
        size_t rest = i;
        for (int d = t->ndim - 1; d >= 0; d--) {
            at += (int64_t)(rest % (size_t)t->shape[d]) * t->strides[d];
            rest /= (size_t)t->shape[d];
        }
        memcpy(out + i * size, at, size);
    }
}

static void strided_copies_agree_with_the_naive_copy(void)
{
    static const uint8_t types[] = {DYN_INT8, DYN_FLOAT16, DYN_FLOAT32, DYN_FLOAT64};
    uint8_t from[8 * 4 * 6 * 3 * 2], got[sizeof(from)], want[sizeof(from)];
    for (size_t i = 0; i < sizeof(from); i++) from[i] = (uint8_t)(i * 37);
    for (size_t k = 0; k < DYN__COUNT(types); k++) {
        int64_t size = dyn_dtype(types[k])->size;
        const int64_t cases[][6] = {
            /* shape, strides in elements */
            {4, 6, 3, 18, 3, 1},  {3, 6, 4, 1, 3, 18}, {4, 3, 6, 18, 1, 3}, {2, 3, 3, 36, 6, 1},
            {4, 1, 3, 18, 99, 1}, {1, 1, 1, 7, 7, 7},  {4, 5, 3, 0, 3, 1},  {2, 0, 3, 1, 1, 1},
        };
        for (size_t c = 0; c < DYN__COUNT(cases); c++) {
            int64_t strides[3] = {cases[c][3] * size, cases[c][4] * size, cases[c][5] * size};
            dyn_tensor t = {.data = from, .shape = cases[c], .strides = strides, .ndim = 3, .dtype = types[k]};
            memset(got, 0, sizeof(got)), memset(want, 0, sizeof(want));
            dyn_tensor_copy(&t, got);
            naive_copy(&t, want);
            CHECK(memcmp(got, want, sizeof(got)) == 0);
        }
        int64_t shape[1] = {10}, back[1] = {-size};
        dyn_tensor t = {.data = from + 9 * size, .shape = shape, .strides = back, .ndim = 1, .dtype = types[k]};
        dyn_tensor_copy(&t, got);
        naive_copy(&t, want);
        CHECK(memcmp(got, want, 10 * (size_t)size) == 0);
    }
}

/* ---- frames ---- */
static dyn_tensor_meta meta_of(int dtype, const char *name, int ndim, const int64_t *shape)
{
    dyn_tensor_meta meta = {.dtype = (uint8_t)dtype, .ndim = ndim, .name = name, .name_size = name ? strlen(name) : 0};
    if (ndim > 0) memcpy(meta.shape, shape, sizeof(*shape) * (size_t)ndim);
    return meta;
}

/* All frames of a tensor, one after another. */
static size_t joined(const dyn_tensor_meta *meta, const void *data, uint32_t chunk, uint8_t *out)
{
    uint8_t heads[1024];
    struct iovec iov[64];
    uint64_t bytes;
    size_t size = 0;
    CHECK_EQ(dyn_tensor_measure(meta->dtype, meta->ndim, meta->shape, NULL, &bytes), DYN_OK);
    size_t count = dyn_tensor_iov_count(bytes, chunk);
    CHECK(count <= DYN__COUNT(iov) && dyn_tensor_heads_size(meta) <= sizeof(heads));
    CHECK_EQ(dyn_tensor_iov(meta, data, chunk, heads, iov), DYN_OK);
    for (size_t i = 0; i < count; i++) {
        memcpy(out + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    return size;
}

static size_t unhex(const char *hex, uint8_t *out)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) sscanf(hex + 2 * i, "%2hhx", &out[i]);
    return n;
}

static void golden_streams(void)
{
    uint8_t got[512], want[512];
    float w[4] = {1, 2, 3, 4};
    dyn_tensor_meta meta = meta_of(DYN_FLOAT32, "w", 2, (int64_t[]){2, 2});
    size_t size = unhex("10000000000000001e020200000000000000020000000000000001001000000000000000010077"
                        "1100000000000000100000803f000000400000404000008040020000000000000000",
                        want);
    CHECK_EQ(joined(&meta, w, DYN_TENSOR_CHUNK, got), size);
    CHECK(memcmp(got, want, size) == 0);

    meta = meta_of(DYN_BFLOAT16, NULL, 1, (int64_t[]){2});
    meta.device = DYN_DEVICE_CUDA;
    size = unhex("100000000000000015010200000000000000030104000000000000000000110000000000000004803f0040"
                 "020000000000000000",
                 want);
    CHECK_EQ(joined(&meta, "\x80\x3f\x00\x40", DYN_TENSOR_CHUNK, got), size);
    CHECK(memcmp(got, want, size) == 0);

    meta = meta_of(DYN_UINT8, NULL, 1, (int64_t[]){10});
    size = unhex("100000000000000015010a0000000000000008000a000000000000000000"
                 "1100000000000000"
                 "0400010203"
                 "1100000000000000"
                 "0404050607"
                 "1100000000000000"
                 "020809"
                 "020000000000000000",
                 want);
    CHECK_EQ(joined(&meta, "\0\1\2\3\4\5\6\7\10\11", 4, got), size);
    CHECK(memcmp(got, want, size) == 0);
}

/* Reads a stream in pieces of `step` bytes; what came, one letter an event. */
static int events_of(const uint8_t *bytes, size_t size, size_t step, const dyn_tensor_limits *limits, char *letters,
                     uint8_t *last_tensor)
{
    dyn_tensor_reader *reader;
    dyn_tensor_event event;
    size_t used;
    char *at = letters;
    *at = '\0';
    int rc = dyn_tensor_reader_new(&reader, limits);
    if (rc < 0) return rc;
    for (size_t done = 0; rc == DYN_OK;) {
        size_t piece = size - done < step ? size - done : step;
        rc = dyn_tensor_reader_feed(reader, bytes + done, piece, &used, &event);
        if (rc < 0) break;
        done += used;
        if (event.type == DYN_TENSOR_EVENT_NONE) {
            CHECK_EQ(used, piece);
            if (done == size) {
                rc = dyn_tensor_reader_end(reader);
                break;
            }
            continue;
        }
        *at++ = ".MTPKCXE"[event.type], *at = '\0';
        if (event.type == DYN_TENSOR_EVENT_TENSOR) {
            if (last_tensor != NULL) memcpy(last_tensor, dyn_buf_data(event.buf), dyn_buf_size(event.buf));
            dyn_buf_unref(event.buf);
        }
        if (event.type == DYN_TENSOR_EVENT_CREDIT) CHECK_EQ(event.credit, 1048576);
        if (event.type == DYN_TENSOR_EVENT_CANCEL) CHECK(event.size == 7 && memcmp(event.data, "timeout", 7) == 0);
        if (event.type == DYN_TENSOR_EVENT_MESSAGE) CHECK(event.size == 1 && *event.data == 'x');
        if (event.type == DYN_TENSOR_EVENT_TOKENS) CHECK_EQ(event.size, 3);
    }
    if (rc < 0 && rc != DYN_ENOMEM && rc != DYN_ETRUNC) {
        CHECK(*dyn_error_detail() != '\0');
        CHECK_EQ(dyn_tensor_reader_feed(reader, bytes, size, &used, &event), rc); /* I3 */
        CHECK_EQ(dyn_tensor_reader_end(reader), rc);
    }
    dyn_tensor_reader_free(reader);
    return rc;
}

static void streams_read_alike_however_they_are_cut(void)
{
    uint8_t bytes[2048], data[40], back[40];
    char letters[64];
    for (size_t i = 0; i < sizeof(data); i++) data[i] = (uint8_t)i;
    dyn_tensor_meta meta = meta_of(DYN_INT32, "weights", 2, (int64_t[]){2, 5});
    size_t size = joined(&meta, data, 7, bytes) - DYN_TENSOR_HEAD; /* without END */
    meta = meta_of(DYN_FLOAT64, NULL, 2, (int64_t[]){0, 3});
    size += joined(&meta, NULL, 7, bytes + size) - DYN_TENSOR_HEAD;
    size += unhex("0800000000000000080000100000000000", bytes + size);
    size += unhex("01000000000000000178", bytes + size);
    size += unhex("200000000000000003000000", bytes + size);
    meta = meta_of(DYN_UINT8, NULL, 0, NULL);
    size += joined(&meta, data + 7, 7, bytes + size);
    for (size_t step = 1; step <= size; step++) {
        CHECK_EQ(events_of(bytes, size, step, NULL, letters, back), DYN_OK);
        CHECK_STR(letters, "MTMTCPKMTE");
        CHECK_EQ(back[0], 7);
    }
    for (size_t cut = 0; cut < size; cut++) CHECK_EQ(events_of(bytes, cut, 11, NULL, letters, NULL), DYN_ETRUNC);
}

static void cancel_is_an_event_also_inside_of_a_tensor(void)
{
    uint8_t bytes[512];
    char letters[64];
    dyn_tensor_meta meta = meta_of(DYN_UINT8, NULL, 1, (int64_t[]){10});
    size_t size = joined(&meta, "0123456789", 4, bytes) - DYN_TENSOR_HEAD - 11; /* without the last chunk and END */
    size += unhex("04000000000000000774696d656f7574", bytes + size);
    CHECK_EQ(events_of(bytes, size, 1, NULL, letters, NULL), DYN_OK);
    CHECK_STR(letters, "MX");
}

static void what_cannot_be_is_refused_at_once(void)
{
    static const struct {
        const char *hex;
        int code;
        const char *says;
    } cases[] = {
        {"ff", DYN_EPROTO, "unknown frame type: 0xff"},
        {"00", DYN_EPROTO, "unknown frame type: 0x00"},
        {"11", DYN_EPROTO, "missing tensor metadata: TENSOR_PAYLOAD received before TENSOR_META"},
        {"110100000000000001", DYN_EPROTO, "missing"},
        {"100100000000000015", DYN_EPROTO, "reserved bytes 01 00 00 00"},
        {"0800000000"
         "00000009",
         DYN_EPROTO, "CREDIT frame of 9"},
        {"0200000000"
         "00000001",
         DYN_EPROTO, "END frame of 1"},
        {"1000000000"
         "00020000",
         DYN_ELIMIT, "metadata of 131072"},
        {"0100000000"
         "00000401",
         DYN_ELIMIT, "1025 bytes"},
        {"2000000000"
         "ffffffff",
         DYN_ELIMIT, "4294967295"},
        /* META: too short, 65 dimensions, dtype 0 and 17, device 2, stated size, name cut off, more than the name */
        {"1000000000"
         "0000000c"
         "00080001000000000000000000",
         DYN_EPROTO, "at least 13"},
        {"1000000000"
         "0000000d"
         "41080001000000000000000000",
         DYN_EPROTO, "65 dimensions"},
        {"1000000000"
         "0000000d"
         "40080001000000000000000000",
         DYN_EPROTO, "its shape needs"},
        {"1000000000"
         "0000000d"
         "00000001000000000000000000",
         DYN_EPROTO, "dtype 0"},
        {"1000000000"
         "0000000d"
         "00110001000000000000000000",
         DYN_EPROTO, "dtype 17"},
        {"1000000000"
         "0000000d"
         "00080201000000000000000000",
         DYN_EPROTO, "device 2"},
        {"1000000000"
         "0000000d"
         "00080002000000000000000000",
         DYN_EPROTO, "states 2 bytes, its shape has 1"},
        {"1000000000"
         "0000000d"
         "00080001000000000000000100",
         DYN_EPROTO, "a name of 1"},
        {"1000000000"
         "0000000e"
         "0008000100000000000000000077",
         DYN_EPROTO, "a name of 0"},
        /* a product that wraps, a size that is negative, a tensor over the limit */
        {"1000000000"
         "0000001d"
         "02"
         "0000000001000000"
         "0000000001000000"
         "0800"
         "0000000000000000"
         "0000",
         DYN_ERANGE, "dimension"},
        {"1000000000"
         "00000015"
         "01"
         "ffffffffffffffff"
         "0800"
         "0000000000000000"
         "0000",
         DYN_ERANGE, "dimension"},
        {"1000000000"
         "00000015"
         "01"
         "0104000000000000"
         "0800"
         "0000000000000000"
         "0000",
         DYN_ELIMIT, "1025 bytes"},
        /* after a META of 4 bytes: too much payload, END, another META, a message; then all 4 and more */
        {"1000000000"
         "00000015"
         "01"
         "0400000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "1100000000"
         "00000005",
         DYN_EPROTO, "5 bytes of payload"},
        {"1000000000"
         "00000015"
         "01"
         "0400000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "1100000000"
         "00000002"
         "abcd"
         "02",
         DYN_EPROTO, "tensor size mismatch: expected 4 bytes, got 2"},
        {"1000000000"
         "00000015"
         "01"
         "0400000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "10",
         DYN_EPROTO, "inside of a tensor"},
        {"1000000000"
         "00000015"
         "01"
         "0400000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "01",
         DYN_EPROTO, "inside of a tensor"},
        {"1000000000"
         "00000015"
         "01"
         "0400000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "1100000000"
         "00000004"
         "01020304"
         "11",
         DYN_EPROTO, "more payload"},
        {"1000000000"
         "00000015"
         "01"
         "0000000000000000"
         "0800"
         "0000000000000000"
         "0000"
         "11",
         DYN_EPROTO, "more payload"},
        {"020000000000000000"
         "02",
         DYN_EPROTO, "after the end"},
        {"040000000000000000"
         "10",
         DYN_EPROTO, "after the end"},
    };
    const dyn_tensor_limits limits = {.tensor = 1024, .message = 1024};
    for (size_t i = 0; i < DYN__COUNT(cases); i++) {
        uint8_t bytes[256];
        char letters[64];
        size_t size = unhex(cases[i].hex, bytes);
        if (i == DYN__COUNT(cases) - 1) continue; /* an empty reason: events_of wants another */
        for (size_t step = 1; step <= size; step += 7) {
            int rc = events_of(bytes, size, step, &limits, letters, NULL);
            if (rc != cases[i].code || strstr(dyn_error_detail(), cases[i].says) == NULL)
                fprintf(stderr, "case %zu: %d \"%s\"\n", i, rc, dyn_error_detail());
            CHECK_EQ(rc, cases[i].code);
            CHECK(strstr(dyn_error_detail(), cases[i].says) != NULL);
        }
    }
}

static void elements_can_be_read_where_they_stay(void)
{
    uint8_t bytes[512];
    dyn_tensor_meta meta = meta_of(DYN_UINT8, NULL, 1, (int64_t[]){10});
    size_t size = joined(&meta, "0123456789", 6, bytes), used, room, at = 0;
    dyn_tensor_reader *reader;
    dyn_tensor_event event;
    CHECK_EQ(dyn_tensor_reader_new(&reader, NULL), DYN_OK);
    bool whole = false;
    while (at < size) {
        uint8_t *to = dyn_tensor_reader_room(reader, &room);
        if (to != NULL) {
            size_t n = room < 4 ? room : 4;
            CHECK_EQ(dyn_tensor_reader_filled(reader, room + 1, &event), DYN_EINVAL);
            memcpy(to, bytes + at, n);
            at += n;
            CHECK_EQ(dyn_tensor_reader_filled(reader, n, &event), DYN_OK);
        } else {
            CHECK_EQ(dyn_tensor_reader_feed(reader, bytes + at, 1, &used, &event), DYN_OK);
            at += used;
        }
        if (event.type == DYN_TENSOR_EVENT_TENSOR) {
            whole = memcmp(dyn_buf_data(event.buf), "0123456789", 10) == 0;
            dyn_buf_unref(event.buf);
        }
    }
    CHECK(whole);
    CHECK_EQ(dyn_tensor_reader_end(reader), DYN_OK);
    dyn_tensor_reader_free(reader);
}

static void single_frames(void)
{
    uint8_t bytes[64];
    dyn_tensor_frame frame;
    size_t used, size = unhex("110100000000000001aa", bytes);
    for (size_t have = 0; have < size; have++) {
        CHECK_EQ(dyn_tensor_frame_read(bytes, have, 100, &frame, &used), DYN_EAGAIN);
        CHECK_EQ(used, have < DYN_TENSOR_HEAD ? DYN_TENSOR_HEAD : size);
    }
    CHECK_EQ(dyn_tensor_frame_read(bytes, size, 1, &frame, &used), DYN_OK);
    CHECK_EQ(used, size);
    CHECK_EQ(frame.type, DYN_TENSOR_PAYLOAD);
    CHECK_EQ(frame.flags, 1);
    CHECK(frame.size == 1 && frame.payload[0] == 0xaa);
    CHECK_EQ(dyn_tensor_frame_read(bytes, size, 0, &frame, &used), DYN_ELIMIT);
    CHECK_EQ(dyn_tensor_frame_read((const uint8_t *)"\xff", 1, 0, &frame, &used), DYN_EPROTO);
}

static void every_allocation_of_the_reader_may_fail(void)
{
    uint8_t bytes[512];
    char letters[64];
    dyn_tensor_meta meta = meta_of(DYN_UINT8, "a name", 1, (int64_t[]){10});
    size_t size = joined(&meta, "0123456789", 4, bytes);
    EACH_ALLOCATION_FAILS {
        rc = events_of(bytes, size, 3, NULL, letters, NULL);
        if (rc != DYN_ENOMEM) CHECK_EQ(rc, DYN_OK);
    }
}

/* ---- DLPack ---- */
static void count_release(void *context)
{
    ++*(int *)context;
}

static void tensors_go_out_and_come_in_by_dlpack(void)
{
    static float data[24];
    int64_t shape[3] = {2, 3, 4}, strides[3] = {48, 4, 12}, dims[2 * DYN_TENSOR_MAX_DIMS];
    dyn_tensor t = {.data = data, .shape = shape, .strides = strides, .ndim = 3, .dtype = DYN_FLOAT32}, back;
    dyn_dl_versioned *versioned;
    dyn_dl_managed *managed;
    int released = 0;
    EACH_ALLOCATION_FAILS {
        rc = dyn_dlpack_give_versioned(&t, DYN_DL_READ_ONLY, count_release, &released, &versioned);
        if (rc < 0) CHECK_EQ(released, 0);
    }
    CHECK_EQ(versioned->major, 1);
    CHECK_EQ(versioned->flags, DYN_DL_READ_ONLY);
    CHECK_EQ(versioned->tensor.strides[2], 3);
    CHECK_EQ(dyn_dlpack_take(&versioned->tensor, dims, &back), DYN_OK);
    CHECK(back.data == data && back.dtype == DYN_FLOAT32 && memcmp(back.strides, strides, sizeof(strides)) == 0);
    versioned->tensor.device_type = DYN_DL_CUDA;
    CHECK_EQ(dyn_dlpack_take(&versioned->tensor, dims, &back), DYN_EINVAL);
    versioned->tensor.device_type = DYN_DL_CPU, versioned->tensor.bits = 80;
    CHECK_EQ(dyn_dlpack_take(&versioned->tensor, dims, &back), DYN_EINVAL);
    dyn_dl_tensor bits = versioned->tensor;
    bits.code = (uint8_t)dyn_dtype(DYN_BOOL)->dl_code, bits.bits = 1;
    CHECK_EQ(dyn_dlpack_take(&bits, dims, &back), DYN_OK);
    CHECK_EQ(back.dtype, DYN_BOOL);
    versioned->tensor.bits = 32, versioned->tensor.shape[0] = -1;
    CHECK_EQ(dyn_dlpack_take(&versioned->tensor, dims, &back), DYN_ERANGE);
    versioned->deleter(versioned);
    CHECK_EQ(released, 1);

    dyn_buf *buf;
    CHECK_EQ(dyn_buf_new(&buf, 96), DYN_OK);
    t.data = dyn_buf_data(buf), t.owner = buf, t.strides = NULL;
    CHECK_EQ(dyn_dlpack_give(&t, NULL, NULL, &managed), DYN_OK);
    CHECK_EQ(managed->tensor.strides[0], 12);
    dyn_buf_unref(buf);
    memset(managed->tensor.data, 1, 96); /* still there */
    managed->deleter(managed);
    t.strides = (int64_t[]){6, 6, 6}, t.owner = NULL;
    CHECK_EQ(dyn_dlpack_give(&t, NULL, NULL, &managed), DYN_EINVAL);
}

/* ---- safetensors ---- */
static int head_of(const char *json, size_t elements, dyn_safetensors **out)
{
    uint8_t file[1024] = {0};
    uint64_t size = strlen(json);
    memcpy(file, &size, 8);
    memcpy(file + 8, json, size);
    return dyn_safetensors_read(file, 8 + size + elements, 8 + size + elements, out);
}

static void safetensors_heads_are_read_in_the_order_of_the_file(void)
{
    dyn_safetensors *head;
    const char *key, *value;
    const char *json =
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]},"
        "\"a\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}  ";
    CHECK_EQ(head_of(json, 5, &head), DYN_OK);
    CHECK_EQ(dyn_safetensors_count(head), 2);
    const dyn_safetensor *a = dyn_safetensors_at(head, 0);
    CHECK_STR(a->name, "a");
    CHECK(a->dtype == DYN_BFLOAT16 && a->ndim == 2 && a->shape[1] == 2 && a->begin == 8 + strlen(json));
    CHECK_STR(dyn_safetensors_at(head, 1)->name, "b");
    CHECK(dyn_safetensors_metadata(head, 0, &key, &value));
    CHECK_STR(key, "format");
    CHECK_STR(value, "pt");
    CHECK(!dyn_safetensors_metadata(head, 1, &key, &value));
    dyn_safetensors_free(head);
    EACH_ALLOCATION_FAILS {
        rc = head_of(json, 5, &head);
        if (rc == DYN_OK) dyn_safetensors_free(head);
    }
}

static void safetensors_heads_that_cannot_be_are_refused(void)
{
    static const struct {
        const char *json;
        int code;
        const char *says;
    } cases[] = {
        {"", DYN_EPROTO, "no JSON"},
        {"[]", DYN_EPROTO, "no JSON object"},
        {"{\"a\":1}", DYN_EPROTO, "must have dtype"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,4]}}", DYN_ENOTSUP, "\"F4\" is not known"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", DYN_ERANGE, "-4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}", DYN_EPROTO, "no integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,4]}}", DYN_EPROTO, "do not span the 5"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", DYN_EPROTO, "do not span"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}", DYN_EPROTO, "begins at byte"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", DYN_EPROTO, "the tensors end at"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"
         "\"data_offsets\":[0,4]}}",
         DYN_EPROTO, "begins at byte"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{}}", DYN_EPROTO, "no JSON: duplicate"},
        {"{\"__metadata__\":{\"a\":1}}", DYN_EPROTO, "is no text"},
        {"{\"__metadata__\":1}", DYN_EPROTO, "is no object"},
    };
    dyn_safetensors *head;
    for (size_t i = 0; i < DYN__COUNT(cases); i++) {
        CHECK_EQ(head_of(cases[i].json, 4, &head), cases[i].code);
        if (strstr(dyn_error_detail(), cases[i].says) == NULL) fprintf(stderr, "case %zu: %s\n", i, dyn_error_detail());
        CHECK(strstr(dyn_error_detail(), cases[i].says) != NULL);
    }
    CHECK_EQ(dyn_safetensors_read((const uint8_t *)"1234567", 7, 7, &head), DYN_EPROTO);
    CHECK_EQ(dyn_safetensors_read((const uint8_t *)"\1\0\0\0\0\0\0\0", 8, 8, &head), DYN_EPROTO);
    CHECK_EQ(dyn_safetensors_read((const uint8_t *)"\1\0\0\0\0\0\0\1", 8, 8, &head), DYN_ELIMIT);
}

TEST_MAIN(TEST(shapes_are_measured_without_overflow), TEST(strided_copies_agree_with_the_naive_copy),
          TEST(golden_streams), TEST(streams_read_alike_however_they_are_cut),
          TEST(cancel_is_an_event_also_inside_of_a_tensor), TEST(what_cannot_be_is_refused_at_once),
          TEST(elements_can_be_read_where_they_stay), TEST(single_frames),
          TEST(every_allocation_of_the_reader_may_fail), TEST(tensors_go_out_and_come_in_by_dlpack),
          TEST(safetensors_heads_are_read_in_the_order_of_the_file), TEST(safetensors_heads_that_cannot_be_are_refused))
