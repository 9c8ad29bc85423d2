/* Frames: golden bytes, what is refused, and every allocation failing. */
#include "dynamo/wire.h"
#include "test.h"

static dyn_slice text(const char *s)
{
    return (dyn_slice){(const uint8_t *)s, strlen(s)};
}

static void golden_bytes(void)
{
    dyn_bytes out = {0};
    const dyn_pair header = {text("a"), text("bc")};
    CHECK_EQ(dyn_hello_write(&out, 300), DYN_OK);
    CHECK_EQ(dyn_request_write(&out, 200,
                               &(dyn_request_frame){.window = 1,
                                                    .deadline_ms = 2,
                                                    .path = text("p"),
                                                    .headers = &header,
                                                    .header_count = 1,
                                                    .payload = text("xy")}),
             DYN_OK);
    CHECK_EQ(dyn_credit_write(&out, 1, 128), DYN_OK);
    CHECK_EQ(dyn_frame_write(&out, DYN_FRAME_END, 1, NULL, 0), DYN_OK);
    CHECK_EQ(dyn_error_write(&out, 1, &(dyn_error_frame){16, text("E"), text("t"), text("")}), DYN_OK);
    static const uint8_t want[] = {
        8,  0, 0, 0, 1, 0,    'D',  'Y',  'N', 1, 0xac, 0x02,                                /* hello */
        15, 0, 0, 0, 2, 0xc8, 0x01, 1,    2,   1, 'p',  1,    1, 'a', 2, 'b', 'c', 'x', 'y', /* request */
        4,  0, 0, 0, 8, 1,    0x80, 0x01,                                                    /* credit */
        2,  0, 0, 0, 4, 1,                                                                   /* end */
        8,  0, 0, 0, 5, 1,    16,   1,    'E', 1, 't',  0,                                   /* error */
    };
    CHECK_EQ(out.size, sizeof want);
    CHECK(out.size == sizeof want && memcmp(out.data, want, sizeof want) == 0);

    dyn_frame frame;
    size_t used, at = 0;
    uint64_t number;
    CHECK_EQ(dyn_frame_read(out.data, out.size, 1 << 20, &frame, &used), DYN_OK);
    CHECK_EQ(dyn_hello_read(&frame, &number), DYN_OK);
    CHECK_EQ(number, 300);
    at += used;
    CHECK_EQ(dyn_frame_read(out.data + at, out.size - at, 1 << 20, &frame, &used), DYN_OK);
    dyn_pair headers[DYN_WIRE_MAX_HEADERS];
    dyn_request_frame request;
    CHECK_EQ(dyn_request_read(&frame, headers, &request), DYN_OK);
    CHECK_EQ(frame.stream, 200);
    CHECK_EQ(request.window, 1);
    CHECK_EQ(request.deadline_ms, 2);
    CHECK_EQ(request.header_count, 1);
    CHECK(request.payload.size == 2 && memcmp(request.payload.data, "xy", 2) == 0);
    CHECK(headers[0].value.size == 2 && memcmp(headers[0].value.data, "bc", 2) == 0);
    for (size_t cut = 0; cut < frame.size - 2; cut++) { /* every shorter body is refused */
        dyn_frame shorter = {frame.type, frame.stream, frame.body, cut};
        if (cut < 10) CHECK_EQ(dyn_request_read(&shorter, headers, &request), DYN_EPROTO);
    }
    dyn_bytes_free(&out);
}

static void incomplete_frames_say_what_they_need(void)
{
    dyn_bytes out = {0};
    dyn_frame frame;
    size_t used;
    CHECK_EQ(dyn_frame_write(&out, DYN_FRAME_ITEMS, 3, "12345", 5), DYN_OK);
    for (size_t have = 0; have < out.size; have++) {
        CHECK_EQ(dyn_frame_read(out.data, have, 1000, &frame, &used), DYN_EAGAIN);
        CHECK_EQ(used, have < 4 ? 4 : out.size);
    }
    CHECK_EQ(dyn_frame_read(out.data, out.size, 6, &frame, &used), DYN_ELIMIT);
    CHECK_EQ(dyn_frame_read(out.data, out.size, 7, &frame, &used), DYN_OK);
    dyn_bytes_free(&out);
}

static void malformed_is_refused(void)
{
    dyn_frame frame;
    size_t used;
    static const uint8_t tiny[] = {1, 0, 0, 0, 1}, endless[] = {4, 0, 0, 0, 1, 0x80, 0x80, 0x80};
    CHECK_EQ(dyn_frame_read(tiny, sizeof tiny, 100, &frame, &used), DYN_EPROTO);
    CHECK_EQ(dyn_frame_read(endless, sizeof endless, 100, &frame, &used), DYN_EPROTO);
    uint64_t number;
    dyn_frame http = {.type = DYN_FRAME_HELLO, .body = (const uint8_t *)"HTTP", .size = 4};
    CHECK_EQ(dyn_hello_read(&http, &number), DYN_EPROTO);
    dyn_frame newer = {.type = DYN_FRAME_HELLO, .body = (const uint8_t *)"DYN\2\1", .size = 5};
    CHECK_EQ(dyn_hello_read(&newer, &number), DYN_ENOTSUP);
}

static void varints_round_trip(void)
{
    uint8_t bytes[DYN_WIRE_VARINT_MAX + 1];
    for (int bit = 0; bit < 64; bit++) {
        for (int less = 0; less < 2; less++) {
            uint64_t value = (UINT64_C(1) << bit) - (uint64_t)less, back = 0;
            size_t n = dyn_varint_write(bytes, value);
            CHECK_EQ(dyn_varint_read(bytes, n, &back), n);
            CHECK(back == value);
            CHECK_EQ(dyn_varint_read(bytes, n - 1, &back), 0);
        }
    }
    memset(bytes, 0xff, sizeof bytes);
    uint64_t back;
    CHECK_EQ(dyn_varint_read(bytes, sizeof bytes, &back), 0);
}

static void items_are_taken_one_by_one(void)
{
    dyn_bytes body = {0};
    dyn_slice item;
    CHECK_EQ(dyn_items_add(&body, "abc", 3), DYN_OK);
    CHECK_EQ(dyn_items_add(&body, NULL, 0), DYN_OK);
    dyn_slice rest = {body.data, body.size};
    CHECK(dyn_items_valid(rest));
    CHECK(dyn_items_next(&rest, &item) && item.size == 3 && memcmp(item.data, "abc", 3) == 0);
    CHECK(dyn_items_next(&rest, &item) && item.size == 0);
    CHECK(!dyn_items_next(&rest, &item) && rest.size == 0);
    CHECK_EQ(dyn_items_cost(3) + dyn_items_cost(0), body.size);
    CHECK_EQ(dyn_items_cost(127), 128);
    CHECK_EQ(dyn_items_cost(128), 130);
    CHECK(!dyn_items_valid((dyn_slice){body.data, 2}));
    CHECK(!dyn_items_valid((dyn_slice){body.data, 0}));
    dyn_bytes_free(&body);
}

static void a_failed_writer_changes_nothing(void)
{
    dyn_bytes out = {0};
    EACH_ALLOCATION_FAILS {
        size_t before = out.size;
        rc = dyn_error_write(&out, 1, &(dyn_error_frame){1, text("T"), text("x"), text("y")});
        if (rc < 0)
            CHECK_EQ(out.size, before);
        else
            rc = dyn_frame_write(&out, DYN_FRAME_ITEMS, 1, "0123456789", 10);
    }
    dyn_bytes_free(&out);
}

TEST_MAIN(TEST(golden_bytes), TEST(incomplete_frames_say_what_they_need), TEST(malformed_is_refused),
          TEST(varints_round_trip), TEST(items_are_taken_one_by_one), TEST(a_failed_writer_changes_nothing))
