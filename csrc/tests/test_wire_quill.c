/* Quill stream frames: golden bytes, refusals at once, pieces of any size, credits. */
#include "dynamo/wire.h"
#include "test.h"

static void golden_bytes(void)
{
    dyn_bytes out = {0};
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA, "hello", 5), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_END, NULL, 0), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_CANCEL, NULL, 0), DYN_OK);
    CHECK_EQ(dyn_quill_credit_write(&out, 16), DYN_OK);
    CHECK_EQ(dyn_quill_credit_write(&out, 300), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA | DYN_QUILL_END, "Hello", 5), DYN_OK);
    static const uint8_t want[] = {5,    1, 'h',  'e',  'l', 'l', 'o', 0,   2,   0,   4,   1,  8,
                                   0x10, 2, 0x08, 0xac, 2,   5,   3,   'H', 'e', 'l', 'l', 'o'};
    CHECK_EQ(out.size, sizeof want);
    CHECK(memcmp(out.data, want, sizeof want) == 0);
    dyn_bytes_free(&out);
}

static void one_frame_is_read_or_told_what_it_needs(void)
{
    dyn_bytes out = {0};
    dyn_quill_frame frame;
    size_t used;
    uint8_t big[300];
    memset(big, 0xaa, sizeof big);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA, big, sizeof big), DYN_OK);
    for (size_t have = 0; have < out.size; have++) {
        CHECK_EQ(dyn_quill_read(out.data, have, &frame, &used), DYN_EAGAIN);
        CHECK_EQ(used, have < 2 ? have + 2 : out.size);
    }
    CHECK_EQ(dyn_quill_read(out.data, out.size, &frame, &used), DYN_OK);
    CHECK_EQ(used, 303);
    CHECK_EQ(frame.payload.size, 300);
    static const uint8_t zero[] = {0x80, 0, 1};
    CHECK_EQ(dyn_quill_read(zero, 3, &frame, &used), DYN_OK);
    CHECK(used == 3 && frame.flags == DYN_QUILL_DATA && frame.payload.size == 0);
    dyn_bytes_free(&out);
}

static void what_can_never_be_a_frame_is_refused_at_once(void)
{
    dyn_quill_frame frame;
    size_t used;
    uint8_t bytes[12];
    memset(bytes, 0xff, sizeof bytes);
    CHECK_EQ(dyn_quill_read(bytes, 12, &frame, &used), DYN_EPROTO);
    CHECK(strstr(dyn_error_detail(), "varint") != NULL);
    CHECK_EQ(dyn_quill_read(bytes, 4, &frame, &used), DYN_EPROTO); /* 2^28 - 1 at the least */
    memset(bytes, 0x80, sizeof bytes);
    CHECK_EQ(dyn_quill_read(bytes, 9, &frame, &used), DYN_EAGAIN);
    CHECK_EQ(dyn_quill_read(bytes, 10, &frame, &used), DYN_EPROTO);
    size_t n = dyn_varint_write(bytes, DYN_QUILL_MAX_PAYLOAD + 1);
    CHECK_EQ(dyn_quill_read(bytes, n, &frame, &used), DYN_EPROTO);
    CHECK(strstr(dyn_error_detail(), "Frame too large: 4194305 bytes (max 4194304)") != NULL);
    n = dyn_varint_write(bytes, DYN_QUILL_MAX_PAYLOAD);
    CHECK_EQ(dyn_quill_read(bytes, n, &frame, &used), DYN_EAGAIN);
    CHECK_EQ(used, n + 1 + DYN_QUILL_MAX_PAYLOAD);
    dyn_bytes out = {0};
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA, bytes, DYN_QUILL_MAX_PAYLOAD + 1), DYN_EINVAL);
    CHECK_EQ(out.size, 0);
}

static void a_credit_carries_a_number(void)
{
    dyn_quill_frame frame = {DYN_QUILL_CREDIT, {(const uint8_t *)"\xff\xff\xff\xff\x0f", 5}};
    uint64_t number;
    CHECK_EQ(dyn_quill_credit_read(&frame, &number), DYN_OK);
    CHECK_EQ(number, UINT32_MAX);
    frame.payload.size = 2;
    CHECK_EQ(dyn_quill_credit_read(&frame, &number), DYN_EPROTO);
    frame = (dyn_quill_frame){DYN_QUILL_DATA, {(const uint8_t *)"\1", 1}};
    CHECK_EQ(dyn_quill_credit_read(&frame, &number), DYN_EPROTO);
}

/* Cut a stream everywhere into pieces of every size: the same frames come out. */
static void pieces_of_any_size_give_the_same_frames(void)
{
    dyn_bytes out = {0};
    uint8_t big[200];
    for (size_t i = 0; i < sizeof big; i++) big[i] = (uint8_t)i;
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA, "hello", 5), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, 0x40, "unknown", 7), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA, NULL, 0), DYN_OK);
    CHECK_EQ(dyn_quill_credit_write(&out, 300), DYN_OK);
    CHECK_EQ(dyn_quill_write(&out, DYN_QUILL_DATA | DYN_QUILL_END, big, sizeof big), DYN_OK);
    CHECK_EQ(dyn_quill_credit_write(&out, 8), DYN_OK);
    for (size_t step = 1; step <= out.size; step++) {
        dyn_quill_reader reader = {0};
        dyn_quill_frame frame;
        int rc = 0;
        size_t frames = 0, bytes = 0;
        for (size_t at = 0; at < out.size; at += step) {
            dyn_slice piece = {out.data + at, out.size - at < step ? out.size - at : step};
            if (at + piece.size < out.size && frames < 4) CHECK_EQ(dyn_quill_finish(&reader), DYN_EBROKEN);
            while ((rc = dyn_quill_next(&reader, &piece, &frame)) == 1) {
                frames++, bytes += frame.payload.size;
                if (frames == 4) CHECK(memcmp(frame.payload.data, big, sizeof big) == 0);
            }
            CHECK_EQ(rc, 0);
            CHECK_EQ(piece.size, 0);
        }
        CHECK_EQ(frames, 5);
        CHECK_EQ(bytes, 5 + 0 + 2 + 200 + 1);
        CHECK_EQ(dyn_quill_finish(&reader), DYN_OK);
        dyn_quill_reader_free(&reader);
    }
    dyn_bytes_free(&out);
}

static int read_all(const char *bytes, size_t size)
{
    dyn_quill_reader reader = {0};
    dyn_quill_frame frame;
    dyn_slice piece = {(const uint8_t *)bytes, size};
    int rc;
    while ((rc = dyn_quill_next(&reader, &piece, &frame)) == 1) {
    }
    if (rc < 0) {
        dyn_slice more = {(const uint8_t *)"\0\2", 2};
        CHECK_EQ(dyn_quill_next(&reader, &more, &frame), rc); /* refused for good */
        CHECK_EQ(dyn_quill_finish(&reader), rc);
    } else {
        rc = dyn_quill_finish(&reader);
    }
    dyn_quill_reader_free(&reader);
    return rc;
}

static void the_order_of_frames_is_kept(void)
{
    CHECK_EQ(read_all("\0\2", 2), DYN_OK);
    CHECK_EQ(read_all("\0\4", 2), DYN_OK);
    CHECK_EQ(read_all("\0\2\0\4", 4), DYN_OK);
    CHECK_EQ(read_all("\0\2\1\10\5", 5), DYN_OK);
    CHECK_EQ(read_all("\0\2\0\1", 4), DYN_EPROTO);
    CHECK_EQ(read_all("\0\2\0\2", 4), DYN_EPROTO);
    CHECK_EQ(read_all("\0\4\0\2", 4), DYN_EPROTO);
    CHECK_EQ(read_all("\1\11\5", 3), DYN_EPROTO);
    CHECK_EQ(read_all("", 0), DYN_EBROKEN);
    CHECK_EQ(read_all("\0\1", 2), DYN_EBROKEN);
    CHECK_EQ(read_all("\0\2\5", 3), DYN_EBROKEN);
}

static void message_credits(void)
{
    dyn_quill_credits sender, receiver;
    CHECK_EQ(dyn_quill_credits_init(&sender, DYN_QUILL_CREDITS, DYN_QUILL_REFILL), DYN_OK);
    CHECK_EQ(dyn_quill_credits_init(&receiver, 16, 8), DYN_OK);
    for (int i = 0; i < 16; i++) CHECK(dyn_quill_credits_take(&sender) && dyn_quill_credits_take(&receiver));
    CHECK(!dyn_quill_credits_take(&sender));
    for (int i = 0; i < 7; i++) CHECK_EQ(dyn_quill_credits_consumed(&receiver, 1), 0);
    CHECK_EQ(dyn_quill_credits_consumed(&receiver, 1), 8);
    CHECK_EQ(dyn_quill_credits_consumed(&receiver, 20), 20);
    CHECK_EQ(receiver.left, 28);
    CHECK_EQ(dyn_quill_credits_grant(&sender, 8), DYN_OK);
    CHECK(dyn_quill_credits_take(&sender));
    CHECK_EQ(dyn_quill_credits_grant(&sender, UINT64_MAX), DYN_EPROTO);
    CHECK_EQ(sender.left, 7);
    CHECK_EQ(dyn_quill_credits_init(&sender, 16, 0), DYN_EINVAL);
    CHECK_EQ(dyn_quill_credits_init(&sender, 8, 16), DYN_EINVAL);
}

static void byte_credits_pause_below_low_and_resume_above_high(void)
{
    dyn_quill_budget b;
    dyn_quill_budget_preset(&b, DYN_QUILL_DEFAULT);
    CHECK(b.left == 262144 && b.low == 131072 && b.high == 524288 && !b.paused);
    CHECK_EQ(dyn_quill_budget_suggest(&b), (131072 + 524288) / 2 - 262144);
    CHECK(!dyn_quill_budget_consume(&b, 131072)); /* exactly low */
    CHECK(dyn_quill_budget_consume(&b, 1));
    CHECK(!dyn_quill_budget_grant(&b, 524288 - 131071)); /* exactly high */
    CHECK(b.paused);
    CHECK_EQ(dyn_quill_budget_suggest(&b), 0);
    CHECK(dyn_quill_budget_grant(&b, 1));
    CHECK(!b.paused && !dyn_quill_budget_grant(&b, 1));
    CHECK(dyn_quill_budget_consume(&b, UINT64_MAX));
    CHECK_EQ(b.left, -(INT64_C(1) << 62));
    CHECK_EQ(dyn_quill_budget_suggest(&b), 327680 + (INT64_C(1) << 62));
    CHECK(dyn_quill_budget_grant(&b, UINT64_MAX));
    CHECK_EQ(b.left, INT64_C(1) << 62);
    CHECK_EQ(dyn_quill_budget_init(&b, 0, 5, 5), DYN_EINVAL);
    CHECK_EQ(dyn_quill_budget_init(&b, UINT64_MAX, 5, 6), DYN_EINVAL);
    dyn_quill_budget_preset(&b, DYN_QUILL_SMALL);
    CHECK(b.left == 131072 && b.low == 65536 && b.high == 262144);
    dyn_quill_budget_preset(&b, DYN_QUILL_LARGE);
    CHECK(b.left == 1 << 20 && b.low == 512 << 10 && b.high == 2 << 20);
}

static void a_failed_allocation_is_said(void)
{
    EACH_ALLOCATION_FAILS {
        dyn_quill_reader reader = {0};
        dyn_bytes out = {0};
        dyn_quill_frame frame;
        rc = dyn_quill_write(&out, DYN_QUILL_DATA, "hello", 5);
        for (size_t i = 0; rc >= 0 && i < out.size; i++) {
            dyn_slice piece = {out.data + i, 1};
            rc = dyn_quill_next(&reader, &piece, &frame);
            CHECK_EQ(rc > 0 || rc == DYN_ENOMEM, i == out.size - 1 || rc == DYN_ENOMEM);
        }
        dyn_quill_reader_free(&reader);
        dyn_bytes_free(&out);
    }
}

TEST_MAIN(TEST(golden_bytes), TEST(one_frame_is_read_or_told_what_it_needs),
          TEST(what_can_never_be_a_frame_is_refused_at_once), TEST(a_credit_carries_a_number),
          TEST(pieces_of_any_size_give_the_same_frames), TEST(the_order_of_frames_is_kept), TEST(message_credits),
          TEST(byte_credits_pause_below_low_and_resume_above_high), TEST(a_failed_allocation_is_said))
