#include "dynamo/tokens.h"

#include <math.h>

#include "test.h"

/* ---- a small vocabulary: ids 0..255 are the bytes, then words ---- */
enum { EOS = 256, HELLO, EURO_HEAD, EURO_TAIL, SPACE_YES, EMPTY, VOCAB };
static const char *const words[] = {"</s>", "Hello", "\xE2\x82", "\xAC", " yes", ""};

static dyn_vocab *make_vocab(unsigned options)
{
    uint8_t bytes[512], flags[VOCAB] = {0};
    uint32_t ends[VOCAB];
    size_t size = 0;
    dyn_vocab *vocab = NULL;
    for (uint32_t i = 0; i < VOCAB; i++) {
        if (i < 256) {
            bytes[size++] = (uint8_t)i;
        } else {
            memcpy(bytes + size, words[i - 256], strlen(words[i - 256]));
            size += strlen(words[i - 256]);
        }
        ends[i] = (uint32_t)size;
    }
    flags[EOS] = DYN_TOKEN_SPECIAL;
    CHECK_EQ(dyn_vocab_new(&vocab, bytes, size, ends, flags, VOCAB, options), DYN_OK);
    return vocab;
}

static const char *text_of(dyn_text *text)
{
    CHECK_EQ(dyn_text_append(text, "", 1), DYN_OK);
    text->size--;
    return text->data;
}

static void a_character_appears_when_it_is_complete(void)
{
    dyn_vocab *vocab = make_vocab(0);
    dyn_detok *detok;
    dyn_text out = {0};
    CHECK_EQ(dyn_detok_new(&detok, vocab, 0), DYN_OK);
    CHECK_EQ(dyn_detok_push(detok, (uint32_t[]){HELLO, EURO_HEAD}, 2, &out), DYN_OK);
    CHECK_STR(text_of(&out), "Hello");
    CHECK_EQ(dyn_detok_push(detok, (uint32_t[]){EURO_TAIL, SPACE_YES, EMPTY}, 3, &out), DYN_OK);
    CHECK_STR(text_of(&out), "Hello\xE2\x82\xAC yes");
    CHECK_EQ(dyn_detok_push(detok, (uint32_t[]){EURO_HEAD}, 1, &out), DYN_OK);
    CHECK_EQ(dyn_detok_end(detok, &out), DYN_OK);
    CHECK_STR(text_of(&out), "Hello\xE2\x82\xAC yes\xEF\xBF\xBD");
    dyn_detok_free(detok);
    dyn_vocab_unref(vocab);
    dyn_text_free(&out);
}

static void special_tokens_are_hidden_unless_asked_for(void)
{
    for (unsigned flags = 0; flags <= DYN_DETOK_SPECIAL; flags++) {
        dyn_vocab *vocab = make_vocab(0);
        dyn_detok *detok;
        dyn_text out = {0};
        CHECK_EQ(dyn_detok_new(&detok, vocab, flags), DYN_OK);
        CHECK_EQ(dyn_detok_push(detok, (uint32_t[]){HELLO, EOS, 123456789, HELLO}, 4, &out), DYN_OK);
        CHECK_STR(text_of(&out), flags ? "Hello</s>Hello" : "HelloHello");
        dyn_detok_free(detok);
        dyn_vocab_unref(vocab);
        dyn_text_free(&out);
    }
}

static void the_first_space_goes_only_at_the_start_of_a_text(void)
{
    dyn_vocab *vocab = make_vocab(DYN_VOCAB_STRIP_SPACE);
    for (unsigned flags = 0; flags <= DYN_DETOK_AT_START; flags += DYN_DETOK_AT_START) {
        dyn_detok *detok;
        dyn_text out = {0};
        CHECK_EQ(dyn_detok_new(&detok, vocab, flags), DYN_OK);
        CHECK_EQ(dyn_detok_push(detok, (uint32_t[]){EOS, EMPTY, SPACE_YES, SPACE_YES}, 4, &out), DYN_OK);
        CHECK_STR(text_of(&out), flags ? "yes yes" : " yes yes");
        dyn_detok_free(detok);
        dyn_text_free(&out);
    }
    dyn_vocab_unref(vocab);
}

/* The naive twin of the decoder: looks at all bytes at once. */
static size_t character_at(const uint8_t *p, size_t left)
{
    uint32_t c;
    if (p[0] < 0x80) return 1;
    for (size_t n = 2; n <= 4 && n <= left; n++) {
        bool tail = true;
        for (size_t i = 1; i < n; i++) tail &= (p[i] & 0xC0) == 0x80;
        if (!tail) return 0;
        if (n == 2 && (p[0] & 0xE0) == 0xC0 && (c = (p[0] & 31u) << 6 | (p[1] & 63u)) >= 0x80) return 2;
        if (n == 3 && (p[0] & 0xF0) == 0xE0 && (c = (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u)) >= 0x800 &&
            (c < 0xD800 || c > 0xDFFF))
            return 3;
        if (n == 4 && (p[0] & 0xF8) == 0xF0 &&
            (c = (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u)) >= 0x10000 && c <= 0x10FFFF)
            return 4;
    }
    return 0;
}
static bool begins_a_character(const uint8_t *p, size_t size)
{
    static const uint8_t fill[] = {0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF};
    uint8_t whole[4];
    for (int i = 0; i < 216; i++) {
        memcpy(whole, p, size);
        for (size_t k = size, n = (size_t)i; k < 4; k++, n /= 6) whole[k] = fill[n % 6];
        if (character_at(whole, 4) > size) return true;
    }
    return false;
}
static void naive_decode(const uint8_t *p, size_t size, dyn_text *out)
{
    for (size_t i = 0; i < size;) {
        size_t n = character_at(p + i, size - i);
        if (n > 0) {
            dyn_text_append(out, p + i, n);
        } else {
            for (n = 3; n > 1 && (n > size - i || !begins_a_character(p + i, n)); n--) {
            }
            dyn_text_append(out, "\xEF\xBF\xBD", 3);
        }
        i += n;
    }
}

static uint32_t seed = 12345;
static uint32_t dice(uint32_t sides)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % sides;
}

static void any_bytes_in_any_pieces_decode_like_the_naive_twin(void)
{
    static const uint8_t nasty[] = {0x00, 'a',  0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0,
                                    0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF, 0xE2, 0x82, 0xAC, 0x98, 0xB8};
    dyn_vocab *vocab = make_vocab(0);
    dyn_detok *detok;
    CHECK_EQ(dyn_detok_new(&detok, vocab, 0), DYN_OK);
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[24];
        uint32_t ids[24];
        size_t size = dice(24);
        dyn_text want = {0}, got = {0};
        for (size_t i = 0; i < size; i++) ids[i] = bytes[i] = nasty[dice(sizeof(nasty))];
        naive_decode(bytes, size, &want);
        for (size_t i = 0, n; i < size; i += n) {
            n = 1 + dice((uint32_t)(size - i));
            CHECK_EQ(dyn_detok_push(detok, ids + i, n, &got), DYN_OK);
        }
        CHECK_EQ(dyn_detok_end(detok, &got), DYN_OK);
        CHECK(got.size == want.size && (want.size == 0 || memcmp(got.data, want.data, got.size) == 0));
        dyn_text_free(&want);
        dyn_text_free(&got);
    }
    dyn_detok_free(detok);
    dyn_vocab_unref(vocab);
}

static void a_vocabulary_with_wrong_ends_is_refused(void)
{
    dyn_vocab *vocab = NULL;
    CHECK_EQ(dyn_vocab_new(&vocab, (const uint8_t *)"abc", 3, (uint32_t[]){2, 1}, NULL, 2, 0), DYN_EINVAL);
    CHECK_EQ(dyn_vocab_new(&vocab, (const uint8_t *)"abc", 3, (uint32_t[]){2, 4}, NULL, 2, 0), DYN_EINVAL);
    CHECK(vocab == NULL);
    CHECK_EQ(dyn_vocab_new(&vocab, NULL, 0, NULL, NULL, 0, 0), DYN_OK);
    CHECK_EQ(dyn_vocab_count(vocab), 0);
    dyn_vocab_unref(dyn_vocab_ref(vocab));
    dyn_vocab_unref(vocab);
}

/* ---- stop strings ---- */
static dyn_stops *stops_of(const char *const *strings, size_t count)
{
    size_t sizes[8];
    dyn_stops *stops = NULL;
    for (size_t i = 0; i < count; i++) sizes[i] = strlen(strings[i]);
    CHECK_EQ(dyn_stops_new(&stops, strings, sizes, count), DYN_OK);
    return stops;
}

static void a_stop_string_is_cut_off_or_shown(void)
{
    dyn_stops *stops = stops_of((const char *[]){"</s>", "<end>"}, 2);
    for (int include = 0; include < 2; include++) {
        dyn_jail jail;
        dyn_text out = {0};
        dyn_jail_init(&jail, stops, include);
        CHECK_EQ(dyn_jail_push(&jail, "a < b <e", 8, &out), 0);
        CHECK_STR(text_of(&out), "a < b ");
        CHECK_EQ(dyn_jail_held(&jail), 2);
        CHECK_EQ(dyn_jail_push(&jail, "nd", 2, &out), 0);
        CHECK_EQ(dyn_jail_push(&jail, "> more", 6, &out), 1);
        CHECK_STR(text_of(&out), include ? "a < b <end>" : "a < b ");
        CHECK_EQ(jail.matched, 1);
        CHECK_EQ(dyn_jail_push(&jail, "later", 5, &out), 1);
        CHECK_EQ(dyn_jail_end(&jail, &out), DYN_OK);
        CHECK_STR(text_of(&out), include ? "a < b <end>" : "a < b ");
        dyn_text_free(&out);
    }
    dyn_stops_unref(stops);
}

static void what_was_held_back_comes_at_the_end(void)
{
    dyn_stops *stops = stops_of((const char *[]){"abcabd"}, 1);
    dyn_jail jail;
    dyn_text out = {0};
    dyn_jail_init(&jail, stops, false);
    CHECK_EQ(dyn_jail_push(&jail, "xabcabc", 7, &out), 0);
    CHECK_STR(text_of(&out), "xabc"); /* the last abc may still begin the stop string */
    CHECK_EQ(dyn_jail_end(&jail, &out), DYN_OK);
    CHECK_STR(text_of(&out), "xabcabc");
    dyn_text_free(&out);
    dyn_stops_unref(stops);
}

static void stop_strings_agree_with_the_naive_twin(void)
{
    for (int round = 0; round < 20000; round++) {
        char strings[6][6], text[40];
        const char *list[6];
        size_t count = 1 + dice(6), size = dice(sizeof(text)), end, best = 0, held = 0;
        bool include = dice(2);
        for (size_t i = 0; i < count; i++) {
            size_t n = 1 + dice(5);
            for (size_t k = 0; k < n; k++) strings[i][k] = (char)('a' + dice(3));
            strings[i][n] = '\0';
            list[i] = strings[i];
        }
        for (size_t i = 0; i < size; i++) text[i] = (char)('a' + dice(4));
        for (end = 1; end <= size && best == 0; end++) { /* the first end, then the longest */
            for (size_t i = 0; i < count; i++) {
                size_t n = strlen(strings[i]);
                if (n <= end && n > best && memcmp(text + end - n, strings[i], n) == 0) best = n;
            }
        }
        size_t want = best > 0 ? end - 1 - (include ? 0 : best) : size;
        for (size_t n = 1; best == 0 && n < 6 && n <= size; n++) {
            for (size_t i = 0; i < count; i++)
                if (n < strlen(strings[i]) && memcmp(text + size - n, strings[i], n) == 0) held = n;
        }
        dyn_stops *stops = stops_of(list, count);
        dyn_jail jail;
        dyn_text out = {0};
        int rc = 0;
        dyn_jail_init(&jail, stops, include);
        for (size_t i = 0, n; i < size && rc == 0; i += n) {
            n = 1 + dice((uint32_t)(size - i));
            rc = dyn_jail_push(&jail, text + i, n, &out);
        }
        CHECK_EQ(rc, best > 0);
        CHECK_EQ(dyn_jail_held(&jail), held);
        CHECK_EQ(dyn_jail_end(&jail, &out), DYN_OK);
        CHECK(out.size == want && (want == 0 || memcmp(out.data, text, want) == 0));
        dyn_text_free(&out);
        dyn_stops_unref(stops);
    }
}

static void absurd_stop_strings_are_refused(void)
{
    static char huge[DYN_STOPS_MAX_BYTES + 1];
    const char *many[DYN_STOPS_MAX + 1];
    size_t sizes[DYN_STOPS_MAX + 1];
    dyn_stops *stops = NULL;
    for (size_t i = 0; i <= DYN_STOPS_MAX; i++) many[i] = "x", sizes[i] = 1;
    CHECK_EQ(dyn_stops_new(&stops, many, sizes, DYN_STOPS_MAX + 1), DYN_ELIMIT);
    CHECK_EQ(dyn_stops_new(&stops, (const char *[]){huge}, (size_t[]){sizeof(huge)}, 1), DYN_ELIMIT);
    CHECK_EQ(dyn_stops_new(&stops, (const char *[]){""}, (size_t[]){0}, 1), DYN_EINVAL);
    CHECK_EQ(dyn_stops_new(&stops, (const char *[]){huge}, (size_t[]){sizeof(huge) - 1}, 1), DYN_OK);
    dyn_stops_unref(stops);
    CHECK_EQ(dyn_stops_new(&stops, NULL, NULL, 0), DYN_OK);
    dyn_stops_unref(stops);
}

/* ---- columns ---- */
static void a_batch_keeps_its_columns_together(void)
{
    dyn_token_batch *batch;
    CHECK_EQ(dyn_token_batch_new(&batch, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_append(batch, (uint32_t[]){7, 8}, (uint32_t[]){100, 101}, (float[]){-0.5f, -1}, 2),
             DYN_OK);
    for (uint32_t i = 0; i < 100; i++) CHECK_EQ(dyn_token_batch_append(batch, &i, NULL, NULL, 1), DYN_OK);
    CHECK_EQ(dyn_token_batch_count(batch), 102);
    CHECK_EQ(dyn_token_batch_ids(batch)[1], 8);
    CHECK_EQ(dyn_token_batch_ids(batch)[101], 99);
    CHECK_EQ(dyn_token_batch_positions(batch)[101], 201);
    CHECK(dyn_token_batch_logprobs(batch)[0] == -0.5f);
    CHECK(isnan(dyn_token_batch_logprobs(batch)[50]));
    CHECK_EQ((uintptr_t)dyn_token_batch_logprobs(batch) % 64, 0);
    CHECK(dyn_token_batch_bytes(batch) >= 102 * 12);
    dyn_token_batch_truncate(batch, 0);
    CHECK_EQ(dyn_token_batch_count(batch), 0);
    dyn_token_batch_free(batch);
    CHECK_EQ(dyn_token_batch_new(&batch, (size_t)DYN_TOKEN_BATCH_MAX + 1), DYN_ERANGE);
}

static void a_failed_allocation_changes_nothing(void)
{
    static uint32_t ids[64];
    dyn_vocab *vocab = make_vocab(0);
    EACH_ALLOCATION_FAILS {
        dyn_detok *detok = NULL;
        dyn_stops *stops = NULL;
        dyn_token_batch *batch = NULL;
        dyn_vocab *other = NULL;
        dyn_text text = {0}, out = {0};
        dyn_jail jail;
        if ((rc = dyn_vocab_new(&other, (const uint8_t *)"ab", 2, (uint32_t[]){1, 2}, NULL, 2, 0)) < 0) goto done;
        if ((rc = dyn_detok_new(&detok, vocab, 0)) < 0) goto done;
        for (int i = 0; i < 64; i++) ids[i] = HELLO;
        if ((rc = dyn_detok_push(detok, ids, 64, &text)) < 0) {
            CHECK_EQ(text.size, 0);
            goto done;
        }
        CHECK_EQ(text.size, 320);
        if ((rc = dyn_stops_new(&stops, (const char *[]){"Hex"}, (size_t[]){3}, 1)) < 0) goto done;
        dyn_jail_init(&jail, stops, false);
        if ((rc = dyn_jail_push(&jail, text.data, text.size, &out)) < 0) {
            CHECK_EQ(dyn_jail_held(&jail), 0);
            CHECK_EQ(out.size, 0);
            goto done;
        }
        if ((rc = dyn_jail_end(&jail, &out)) < 0) goto done;
        CHECK_EQ(out.size, 320);
        if ((rc = dyn_token_batch_new(&batch, 4)) < 0) goto done;
        if ((rc = dyn_token_batch_append(batch, ids, NULL, NULL, 64)) < 0) CHECK_EQ(dyn_token_batch_count(batch), 0);
    done:
        dyn__fail_after = -1;
        dyn_detok_free(detok);
        dyn_stops_unref(stops);
        dyn_token_batch_free(batch);
        dyn_vocab_unref(other);
        dyn_text_free(&text);
        dyn_text_free(&out);
    }
    dyn_vocab_unref(vocab);
}

static const dyn_token GREETING = {42, 0, -0.5f, DYN_TOKEN_HAS_TEXT | DYN_TOKEN_HAS_LOGPROB, "hello", 5};

static void a_token_travels_as_its_golden_bytes(void)
{
    static const uint8_t want[] = {0, 0, 0, 42, 0, 0, 0, 0, 3, 0xbf, 0, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o'};
    uint8_t out[64];
    size_t size, used;
    dyn_token back;
    CHECK_EQ(dyn_token_encoded_size(&GREETING, &size), DYN_OK);
    CHECK_EQ(size, sizeof want);
    CHECK(dyn_token_encode(&GREETING, out) == out + size);
    CHECK(memcmp(out, want, sizeof want) == 0);
    for (size_t cut = 0; cut < size; cut++) CHECK_EQ(dyn_token_decode(want, cut, &back, &used), DYN_ETRUNC);
    CHECK_EQ(dyn_token_decode(want, size, &back, &used), DYN_OK);
    CHECK(used == size && back.id == 42 && back.logprob == -0.5f && back.flags == 3 && back.text_size == 5);
    const dyn_token empty = {9, 1, 0, DYN_TOKEN_HAS_TEXT, NULL, 0};
    CHECK_EQ(dyn_token_encoded_size(&empty, &size), DYN_OK);
    CHECK(size == 11 && dyn_token_encode(&empty, out) == out + 11 && memcmp(out + 8, "\1\0\0", 3) == 0);
    const dyn_token large = {1, 0, 0, DYN_TOKEN_HAS_TEXT, "", 65536};
    CHECK_EQ(dyn_token_encoded_size(&large, &size), DYN_ERANGE);
}

static dyn_token at(const dyn_token_batch *batch, size_t index)
{
    dyn_token token;
    dyn_token_batch_get(batch, index, &token);
    return token;
}

static void a_batch_travels_as_its_golden_bytes(void)
{
    static const uint8_t want[] = {1,   0,   0,   0,   1,   0,   3, 0, 0, 0, 1, 0, 0,   0,   0,   1,   0,
                                   5,   'H', 'e', 'l', 'l', 'o', 0, 0, 0, 2, 0, 0, 0,   1,   1,   0,   1,
                                   ' ', 0,   0,   0,   3,   0,   0, 0, 2, 1, 0, 5, 'W', 'o', 'r', 'l', 'd'};
    const dyn_token_batch_head seq = {.has_sequence = true, .sequence = 1};
    dyn_token_batch_head head;
    dyn_token_batch *batch, *back;
    uint8_t out[256];
    size_t size, used;
    CHECK_EQ(dyn_token_batch_new(&batch, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &seq, &size), DYN_OK);
    dyn_token_batch_encode(batch, &seq, out);
    CHECK(size == 7 && memcmp(out, "\1\0\0\0\1\0\0", 7) == 0);
    CHECK_EQ(dyn_token_batch_add(batch, &(dyn_token){1, 0, 0, DYN_TOKEN_HAS_TEXT, "Hello", 5}), DYN_OK);
    CHECK_EQ(dyn_token_batch_add(batch, &(dyn_token){2, 1, 0, DYN_TOKEN_HAS_TEXT, " ", 1}), DYN_OK);
    CHECK_EQ(dyn_token_batch_add(batch, &(dyn_token){3, 2, 0, DYN_TOKEN_HAS_TEXT, "World", 5}), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &seq, &size), DYN_OK);
    CHECK_EQ(size, sizeof want);
    dyn_token_batch_encode(batch, &seq, out);
    CHECK(memcmp(out, want, sizeof want) == 0);
    CHECK_EQ(dyn_token_batch_new(&back, 0), DYN_OK);
    for (size_t cut = 0; cut < size; cut++) {
        CHECK_EQ(dyn_token_batch_decode(back, want, cut, &head, &used), DYN_ETRUNC);
        CHECK_EQ(dyn_token_batch_count(back), 0);
    }
    CHECK_EQ(dyn_token_batch_decode(back, want, size, &head, &used), DYN_OK);
    CHECK(used == size && head.has_sequence && head.sequence == 1 && !head.final);
    CHECK_EQ(dyn_token_batch_count(back), 3);
    const char *text = dyn_token_batch_text(back, &size);
    CHECK(size == 11 && memcmp(text, "Hello World", 11) == 0);
    CHECK(at(back, 2).text_size == 5 && at(back, 2).id == 3 && at(back, 1).position == 1);
    dyn_token_batch_free(batch);
    dyn_token_batch_free(back);
}

static void texts_and_columns_mix(void)
{
    dyn_token_batch *batch, *part;
    size_t size;
    CHECK_EQ(dyn_token_batch_new(&batch, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_append(batch, (uint32_t[]){5, 6}, NULL, (float[]){-1, NAN}, 2), DYN_OK);
    CHECK(at(batch, 0).flags == DYN_TOKEN_HAS_LOGPROB && at(batch, 1).flags == 0);
    CHECK_EQ(dyn_token_batch_add(batch, &GREETING), DYN_OK);
    CHECK_EQ(dyn_token_batch_append(batch, (uint32_t[]){8}, NULL, NULL, 1), DYN_OK);
    for (int i = 0; i < 200; i++) CHECK_EQ(dyn_token_batch_add(batch, &GREETING), DYN_OK);
    CHECK(at(batch, 1).text_size == 0 && at(batch, 2).text_size == 5 && at(batch, 3).text_size == 0);
    CHECK(at(batch, 203).text_size == 5 && at(batch, 3).position == 1);
    CHECK_EQ(dyn_token_batch_new(&part, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_extend(part, batch, 3, -1, 4), DYN_OK);
    CHECK(at(part, 0).id == 8 && at(part, 1).text_size == 5 && at(part, 3).id == 5);
    CHECK_EQ(dyn_token_batch_extend(part, part, 0, 1, 4), DYN_OK);
    CHECK(dyn_token_batch_count(part) == 8 && at(part, 5).text_size == 5 && at(part, 5).text[4] == 'o');
    CHECK_EQ(dyn_token_batch_extend(part, batch, 0, 2, 103), DYN_ERANGE);
    CHECK_EQ(dyn_token_batch_extend(part, batch, 0, 2, 102), DYN_OK);
    CHECK_EQ(dyn_token_batch_extend(part, batch, 204, 1, 1), DYN_ERANGE);
    CHECK_EQ(dyn_token_batch_extend(part, batch, 3, -2, 3), DYN_ERANGE);
    dyn_token_batch_truncate(part, 0);
    dyn_token_batch_text(part, &size);
    CHECK_EQ(size, 0);
    dyn_token_batch_free(part);
    dyn_token_batch_free(batch);
}

static void broken_text_is_replaced(void)
{
    dyn_token_batch *batch;
    dyn_token_batch_head head;
    size_t size;
    static const uint8_t bytes[] = {4, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0xf9, 0, 4, 'a', 0xff, 0xc3, 0xa9, 7};
    CHECK_EQ(dyn_token_batch_new(&batch, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_decode(batch, bytes, sizeof bytes, &head, &size), DYN_OK);
    CHECK_EQ(size, sizeof bytes - 1);
    const char *text = dyn_token_batch_text(batch, &size);
    CHECK(size == 6 && memcmp(text, "a\xef\xbf\xbd\xc3\xa9", 6) == 0);
    CHECK_EQ(at(batch, 0).flags, DYN_TOKEN_HAS_TEXT);
    dyn_token_batch_free(batch);
}

static void what_does_not_fit_its_size_field_is_refused(void)
{
    dyn_token_batch *batch;
    const dyn_token_batch_head head = {0};
    size_t size;
    char *text = calloc(1, 65536);
    CHECK_EQ(dyn_token_batch_new(&batch, 0), DYN_OK);
    CHECK_EQ(dyn_token_batch_add(batch, &(dyn_token){1, 0, 0, DYN_TOKEN_HAS_TEXT, text, 65535}), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &head, &size), DYN_OK);
    CHECK_EQ(size, 3 + 11 + 65535);
    CHECK_EQ(dyn_token_batch_add(batch, &(dyn_token){1, 0, 0, DYN_TOKEN_HAS_TEXT, text, 65536}), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &head, &size), DYN_ERANGE);
    dyn_token_batch_truncate(batch, 0);
    for (uint32_t i = 0; i < 65535; i++) CHECK_EQ(dyn_token_batch_append(batch, &i, NULL, NULL, 1), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &head, &size), DYN_OK);
    CHECK_EQ(dyn_token_batch_append(batch, (uint32_t[]){1}, NULL, NULL, 1), DYN_OK);
    CHECK_EQ(dyn_token_batch_encoded_size(batch, &head, &size), DYN_ERANGE);
    free(text);
    dyn_token_batch_free(batch);
}

static void a_batch_that_could_not_grow_is_as_it_was(void)
{
    static const uint8_t bytes[] = {0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 2, 0xff, 0xff};
    EACH_ALLOCATION_FAILS {
        dyn_token_batch *batch = NULL, *copy = NULL;
        dyn_token_batch_head head;
        if ((rc = dyn_token_batch_new(&batch, 0)) < 0) goto done;
        if ((rc = dyn_token_batch_append(batch, (uint32_t[]){1}, NULL, NULL, 1)) < 0) goto done;
        if ((rc = dyn_token_batch_decode(batch, bytes, sizeof bytes, &head, NULL)) < 0) {
            CHECK_EQ(dyn_token_batch_count(batch), 1);
            goto done;
        }
        for (int i = 0; i < 70 && rc == DYN_OK; i++) {
            size_t before = dyn_token_batch_count(batch);
            if ((rc = dyn_token_batch_add(batch, &GREETING)) < 0) CHECK_EQ(dyn_token_batch_count(batch), before);
        }
        if (rc < 0 || (rc = dyn_token_batch_new(&copy, 0)) < 0) goto done;
        if ((rc = dyn_token_batch_extend(copy, batch, 0, 1, 73)) < 0) CHECK_EQ(dyn_token_batch_count(copy), 0);
    done:
        dyn_token_batch_free(batch);
        dyn_token_batch_free(copy);
    }
}

TEST_MAIN(TEST(a_character_appears_when_it_is_complete), TEST(special_tokens_are_hidden_unless_asked_for),
          TEST(the_first_space_goes_only_at_the_start_of_a_text),
          TEST(any_bytes_in_any_pieces_decode_like_the_naive_twin), TEST(a_vocabulary_with_wrong_ends_is_refused),
          TEST(a_stop_string_is_cut_off_or_shown), TEST(what_was_held_back_comes_at_the_end),
          TEST(stop_strings_agree_with_the_naive_twin), TEST(absurd_stop_strings_are_refused),
          TEST(a_batch_keeps_its_columns_together), TEST(a_failed_allocation_changes_nothing),
          TEST(a_token_travels_as_its_golden_bytes), TEST(a_batch_travels_as_its_golden_bytes),
          TEST(texts_and_columns_mix), TEST(broken_text_is_replaced), TEST(what_does_not_fit_its_size_field_is_refused),
          TEST(a_batch_that_could_not_grow_is_as_it_was))
