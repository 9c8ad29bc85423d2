/* test_events.c -- reading and writing events; sockets are in test_event_sub.c. */
#include "dynamo/events.h"
#include "dynamo/hash.h"
#include "events/plane.h"
#include "test.h"

static int read_text(dyn_event *e, const char *text)
{
    return dyn_event_read_json(e, DYN_EVENT_INNER, text, strlen(text));
}

static void json_stored_is_read_and_written_back(void)
{
    dyn_event e = {0};
    char out[2048];
    const char *text = "{\"event_id\":18446744073709551615,\"data\":{\"stored\":{\"parent_hash\":7,\"blocks\":["
                       "{\"block_hash\":1,\"tokens_hash\":101},{\"block_hash\":-1,\"tokens_hash\":12345678901234567890}"
                       "]}},\"dp_rank\":3}";
    CHECK_EQ(read_text(&e, text), DYN_OK);
    CHECK_EQ(e.kind, DYN_EVENT_STORED);
    CHECK(e.event_id == UINT64_MAX);
    CHECK(e.has_parent);
    CHECK_EQ(e.parent, 7);
    CHECK_EQ(e.dp_rank, 3);
    CHECK_EQ(e.count, 2);
    CHECK_EQ(e.block_hashes[0], 1);
    CHECK_EQ(e.tokens_hashes[0], 101);
    CHECK(e.block_hashes[1] == UINT64_MAX);
    CHECK(e.tokens_hashes[1] == UINT64_C(12345678901234567890));
    size_t n = dyn_event_write_json(&e, DYN_EVENT_INNER, out);
    out[n] = 0;
    CHECK(n <= dyn_event_json_bound(&e));
    CHECK_STR(out, "{\"event_id\":18446744073709551615,\"data\":{\"stored\":{\"parent_hash\":7,\"blocks\":["
                   "{\"block_hash\":1,\"tokens_hash\":101},{\"block_hash\":18446744073709551615,\"tokens_hash\":"
                   "12345678901234567890}]}},\"dp_rank\":3}");
    dyn_event_reset(&e);
}

static void json_of_every_kind_is_accepted(void)
{
    static const char *const good[] = {
        "{\"event_id\": 1, \"data\": \"cleared\"}",
        "{\"event_id\":1,\"data\":{\"cleared\":null}}",
        "\n{ \"data\" : { \"removed\" : { \"block_hashes\" : [ 1 , 2 ] } } , \"event_id\" : 0 }\n",
        "{\"event_id\":0,\"data\":{\"removed\":{\"block_hashes\":[]}}}",
        "{\"event_id\":0,\"data\":{\"stored\":{\"blocks\":[]}}}",
        "{\"event_id\":0,\"zzz\":{\"a\":[1.5e3,\"\\u00e9\\n\",{}],\"b\":[]},\"data\":{\"stored\":{\"x\":true,"
        "\"blocks\":"
        "[{\"y\":null,\"tokens_hash\":1,\"block_hash\":2,\"mm_extra_info\":{\"mm_objects\":[]}}]}}}",
        "{\"event\\u005fid\":5,\"data\":\"cleared\",\"storage_tier\":\"disk\",\"residency_domain\":\"worker\"}",
        "{\"event_id\":0,\"data\":{\"stored\":{\"parent_hash\":null,\"start_position\":9,\"blocks\":[]}}}",
    };
    dyn_event e = {0};
    for (size_t i = 0; i < DYN__COUNT(good); i++) {
        int rc = read_text(&e, good[i]);
        if (rc < 0) fprintf(stderr, "%s: %s\n", good[i], dyn_error_detail());
        CHECK_EQ(rc, DYN_OK);
    }
    CHECK(e.has_start_position);
    CHECK_EQ(e.start_position, 9);
    const char *router = "{\"worker_id\":-2,\"event\":{\"event_id\":1,\"data\":\"cleared\"}}";
    CHECK_EQ(dyn_event_read_json(&e, DYN_EVENT_ROUTER, router, strlen(router)), DYN_OK);
    CHECK(e.worker_id == UINT64_MAX - 1);
    dyn_event_reset(&e);
}

static void json_that_is_wrong_is_refused_with_its_place(void)
{
    static const char *const bad[][2] = {
        {"", "ends"},
        {"xx", "expected `{`, found `x` at line 1 column 1"},
        {"{}", "missing field `event_id`"},
        {"{\"event_id\":1}", "missing field `data`"},
        {"{\"event_id\":1,\"data\":{\"bogus\":1}}", "unknown variant"},
        {"{\"event_id\":1,\"data\":\"nope\"}", "unknown variant `nope`"},
        {"{\"event_id\":1,\"data\":{}}", "unknown variant"},
        {"{\"event_id\":1,\"data\":{\"stored\":{}}}", "missing field `blocks`"},
        {"{\"event_id\":1,\"data\":{\"stored\":{\"blocks\":[{\"block_hash\":1}]}}}", "missing field `tokens_hash`"},
        {"{\"event_id\":1,\n\"data\":{\"stored\":{\"blocks\":[{]}}}", "line 2 column 30"},
        {"{\"event_id\":-1,\"data\":\"cleared\"}", "negative"},
        {"{\"event_id\":1.0,\"data\":\"cleared\"}", "fraction"},
        {"{\"event_id\":01,\"data\":\"cleared\"}", "starts with 0"},
        {"{\"event_id\":18446744073709551616,\"data\":\"cleared\"}", "64 bits"},
        {"{\"event_id\":99999999999999999999999999,\"data\":\"cleared\"}", "64 bits"},
        {"{\"event_id\":NaN,\"data\":\"cleared\"}", "integer"},
        {"{\"event_id\":1,\"event_id\":1,\"data\":\"cleared\"}", "duplicate"},
        {"{\"event_id\":1,\"data\":\"cleared\"} x", "after the end"},
        {"{\"event_id\":1,\"data\":\"cleared\",}", "name"},
        {"{\"event_id\":1,\"data\":\"cleared\",\"dp_rank\":4294967296}", "32 bits"},
        {"{\"event_id\":1,\"data\":\"cleared\",\"storage_tier\":\"moon\"}", "moon"},
        {"{\"event_id\":1,\"data\":\"cleared\",\"residency_domain\":null}", "expected"},
        {"{\"event_id\":1,\"data\":{\"removed\":{\"block_hashes\":[1,]}}}", "integer"},
        {"{\"event_id\":1,\"data\":{\"removed\":{\"block_hashes\":[\"1\"]}}}", "integer"},
        {"{\"event_id\":1,\"x\":\"a\nb\",\"data\":\"cleared\"}", "control character"},
        {"{\"event_id\":1,\"x\":\"\\u12\"}", "escape"},
        {"{\"event_id\":1,\"x\":[1 2]}", "expected `,`"},
        {"{\"event_id\":1,\"x\":nul}", "value"},
    };
    dyn_event e = {0};
    for (size_t i = 0; i < DYN__COUNT(bad); i++) {
        dyn_error_clear();
        int rc = read_text(&e, bad[i][0]);
        if (rc != DYN_EPROTO || !strstr(dyn_error_detail(), bad[i][1])) {
            fprintf(stderr, "%s -> %d: %s, want: %s\n", bad[i][0], rc, dyn_error_detail(), bad[i][1]);
        }
        CHECK_EQ(rc, DYN_EPROTO);
        CHECK(strstr(dyn_error_detail(), bad[i][1]) != NULL);
        CHECK_EQ(e.count, 0);
    }
    dyn_event_reset(&e);
}

static void json_cut_anywhere_is_refused(void)
{
    const char *text = "{\"event_id\": 1, \"x\": [{\"a\": \"\\u00e9\"}, -1.5e+3, true], \"data\": {\"stored\": "
                       "{\"parent_hash\": 12345678901234567890, "
                       "\"blocks\": [{\"block_hash\": 1, \"tokens_hash\": 12345678901234567890}]}}, \"dp_rank\": 2}";
    dyn_event e = {0};
    for (size_t n = 0; n < strlen(text); n++) {
        char *exact = malloc(n + 1);
        memcpy(exact, text, n);
        CHECK_EQ(dyn_event_read_json(&e, DYN_EVENT_INNER, exact, n), DYN_EPROTO);
        free(exact);
    }
    CHECK_EQ(read_text(&e, text), DYN_OK);
    dyn_event_reset(&e);
}

static void json_nested_without_end_is_refused(void)
{
    char text[4096] = "{\"event_id\":1,\"x\":";
    dyn_event e = {0};
    memset(text + strlen(text), '[', 2000);
    CHECK_EQ(read_text(&e, text), DYN_EPROTO);
    CHECK(strstr(dyn_error_detail(), "deeper") != NULL);
    dyn_event_reset(&e);
}

static void json_survives_failing_allocations(void)
{
    char text[16384] = "{\"event_id\":1,\"data\":{\"removed\":{\"block_hashes\":[0";
    for (int i = 0; i < 500; i++) strcat(text, ",18446744073709551615");
    strcat(text, "]}}}");
    EACH_ALLOCATION_FAILS {
        dyn_event e = {0};
        rc = read_text(&e, "{\"event_id\":1,\"data\":\"cleared\"}");
        char *big = text;
        rc = dyn_event_read_json(&e, DYN_EVENT_INNER, big, strlen(big));
        CHECK_EQ(e.count, rc == DYN_OK ? 501 : 0);
        dyn_event_reset(&e);
    }
}

/* ---- msgpack ---------------------------------------------------------------------------------- */

struct got {
    unsigned count;
    dyn_event last;
    uint64_t block, token;
};
static int take(void *user, const dyn_event *e)
{
    struct got *got = user;
    got->count++, got->last = *e;
    if (e->count > 0) got->block = e->block_hashes[0];
    if (e->count > 0 && e->kind == DYN_EVENT_STORED) got->token = e->tokens_hashes[0];
    return DYN_OK;
}

/* [0, [{"type": "BlockStored", "block_hashes": [..], "token_ids": [..], "block_size": 2, ...}], 5] */
static size_t pack_stored(struct dyn__mp_out *out, unsigned blocks, const char *salt, bool mm)
{
    msgpack_packer p;
    out->size = 0;
    msgpack_packer_init(&p, out, dyn__mp_out_append);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, 0);
    msgpack_pack_array(&p, 1);
    msgpack_pack_map(&p, 4 + (salt != NULL) + mm);
    dyn__mp_text(&p, "type"), dyn__mp_text(&p, "BlockStored");
    dyn__mp_text(&p, "block_hashes"), msgpack_pack_array(&p, blocks);
    for (unsigned i = 0; i < blocks; i++) msgpack_pack_int64(&p, -1 - (int64_t)i);
    dyn__mp_text(&p, "token_ids"), msgpack_pack_array(&p, 2 * blocks);
    for (unsigned i = 0; i < 2 * blocks; i++) msgpack_pack_uint32(&p, i);
    dyn__mp_text(&p, "block_size"), msgpack_pack_int(&p, 2);
    if (salt) dyn__mp_text(&p, "cache_salt"), dyn__mp_text(&p, salt);
    if (mm) {
        dyn__mp_text(&p, "extra_keys"), msgpack_pack_array(&p, 1), msgpack_pack_array(&p, 1);
        msgpack_pack_array(&p, 2), dyn__mp_text(&p, "image"), msgpack_pack_int(&p, 0);
    }
    msgpack_pack_int(&p, 5);
    return out->size;
}

static void msgpack_store_becomes_hashes_under_salt_and_images(void)
{
    struct dyn__mp_out bytes = {0};
    struct got got = {0};
    dyn_event_decoder *decoder;
    uint32_t tokens[] = {0, 1, 0, 0};
    uint64_t want;
    CHECK_EQ(dyn_event_decoder_new(&decoder, 2), DYN_OK);
    pack_stored(&bytes, 3, NULL, false);
    CHECK_EQ(dyn_event_decode(decoder, bytes.data, bytes.size, 1, take, &got), DYN_OK);
    CHECK_EQ(got.count, 1);
    CHECK_EQ(got.last.count, 3);
    CHECK_EQ(got.last.dp_rank, 5);
    CHECK(got.block == UINT64_MAX);
    dyn_hash_blocks(tokens, 2, 2, false, DYN_HASH_SEED, &want);
    CHECK(got.token == want);
    pack_stored(&bytes, 3, "salt", true);
    CHECK_EQ(dyn_event_decode(decoder, bytes.data, bytes.size, 1, take, &got), DYN_OK);
    uint64_t image = dyn_hash_seed("image", 5, NULL, 0) - DYN_HASH_SEED;
    memcpy(&tokens[2], &image, 8); /* little-endian, as all machines this runs on */
    dyn_hash_blocks(tokens, 4, 4, false, dyn_hash_seed(NULL, 0, "salt", 4), &want);
    CHECK(got.token == want);
    dyn_event_decoder_free(decoder);
    dyn__mp_out_free(&bytes);
}

static void msgpack_cut_anywhere_is_refused_and_delivers_nothing(void)
{
    struct dyn__mp_out bytes = {0};
    struct got got = {0};
    dyn_event_decoder *decoder;
    CHECK_EQ(dyn_event_decoder_new(&decoder, 2), DYN_OK);
    size_t size = pack_stored(&bytes, 3, "salt", true);
    for (size_t n = 0; n < size; n++) {
        uint8_t *exact = malloc(n + 1);
        memcpy(exact, bytes.data, n);
        CHECK_EQ(dyn_event_decode(decoder, exact, n, 0, take, &got), DYN_EPROTO);
        free(exact);
    }
    CHECK_EQ(got.count, 0);
    CHECK_EQ(dyn_event_decode(decoder, (const uint8_t *)"\x92\x00\xdd\xff\xff\xff\xff", 7, 0, take, &got), DYN_EPROTO);
    CHECK(strstr(dyn_error_detail(), "count") != NULL);
    uint8_t deep[200];
    memset(deep, 0x91, sizeof(deep));
    CHECK_EQ(dyn_event_decode(decoder, deep, sizeof(deep), 0, take, &got), DYN_EPROTO);
    CHECK(strstr(dyn_error_detail(), "deep") != NULL);
    dyn_event_decoder_free(decoder);
    dyn__mp_out_free(&bytes);
}

static void msgpack_survives_failing_allocations(void)
{
    struct dyn__mp_out bytes = {0};
    pack_stored(&bytes, 100, "salt", true);
    EACH_ALLOCATION_FAILS {
        dyn_event_decoder *decoder = NULL;
        struct got got = {0};
        if ((rc = dyn_event_decoder_new(&decoder, 2)) == DYN_OK) {
            rc = dyn_event_decode(decoder, bytes.data, bytes.size, 0, take, &got);
            CHECK_EQ(got.count, rc == DYN_OK);
        }
        dyn_event_decoder_free(decoder);
    }
    dyn__mp_out_free(&bytes);
}

static void the_event_plane_reads_what_it_writes(void)
{
    uint64_t blocks[] = {1, UINT64_MAX}, tokens[] = {3, 4};
    struct dyn__mp_out items = {0}, frame = {0};
    struct dyn__envelope envelope;
    struct got got = {0};
    dyn_event scratch = {0};
    msgpack_packer p;
    dyn_event e = {.kind = DYN_EVENT_STORED,
                   .count = 2,
                   .block_hashes = blocks,
                   .tokens_hashes = tokens,
                   .worker_id = 9,
                   .event_id = 8,
                   .dp_rank = 7,
                   .has_parent = true,
                   .parent = 6,
                   .tier = DYN_TIER_HOST};
    EACH_ALLOCATION_FAILS {
        items.size = 0;
        msgpack_packer_init(&p, &items, dyn__mp_out_append);
        dyn__plane_pack_event(&p, &e);
        rc = items.failed ? DYN_ENOMEM : dyn__plane_frame(&frame, 9, 77, "kv-events", true, 1, &items);
        items.failed = false;
        if (rc < 0) dyn__mp_out_free(&items), dyn__mp_out_free(&frame);
    }
    CHECK_EQ(dyn__plane_open(frame.data, frame.size, &envelope), DYN_OK);
    CHECK_EQ(envelope.sequence, 77);
    CHECK_EQ(dyn__plane_events(envelope.payload, envelope.size, &scratch, take, &got), DYN_OK);
    CHECK_EQ(got.count, 1);
    CHECK_EQ(got.last.worker_id, 9);
    CHECK_EQ(got.last.event_id, 8);
    CHECK_EQ(got.last.dp_rank, 7);
    CHECK_EQ(got.last.parent, 6);
    CHECK_EQ(got.last.tier, DYN_TIER_HOST);
    CHECK_EQ(got.last.count, 2);
    CHECK(scratch.block_hashes[1] == UINT64_MAX);
    CHECK_EQ(scratch.tokens_hashes[1], 4);
    for (size_t n = 0; n < frame.size; n++) CHECK_EQ(dyn__plane_open(frame.data, n, &envelope), DYN_EPROTO);
    dyn_event_reset(&scratch);
    dyn__mp_out_free(&items);
    dyn__mp_out_free(&frame);
}

TEST_MAIN(TEST(json_stored_is_read_and_written_back), TEST(json_of_every_kind_is_accepted),
          TEST(json_that_is_wrong_is_refused_with_its_place), TEST(json_cut_anywhere_is_refused),
          TEST(json_nested_without_end_is_refused), TEST(json_survives_failing_allocations),
          TEST(msgpack_store_becomes_hashes_under_salt_and_images),
          TEST(msgpack_cut_anywhere_is_refused_and_delivers_nothing), TEST(msgpack_survives_failing_allocations),
          TEST(the_event_plane_reads_what_it_writes))
