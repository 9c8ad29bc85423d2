/* test_events.c -- reading and writing events; sockets are in test_event_sub.c. */
#include "dynamo/events.h"
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

TEST_MAIN(TEST(json_stored_is_read_and_written_back), TEST(json_of_every_kind_is_accepted),
          TEST(json_that_is_wrong_is_refused_with_its_place), TEST(json_cut_anywhere_is_refused),
          TEST(json_nested_without_end_is_refused), TEST(json_survives_failing_allocations))
