/* The whole way of an answer over real sockets: a worker (dyn_server) with scripted items, a caller's pool, an HTTP
 * server, a client with a plain socket. The main thread plays Python: it reads the mails. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dynamo/serve.h"
#include "serve/item.h"
#include "serve/render.h"
#include "test.h"

/* ---- msgpack, just enough ---- */
static void raw(dyn_text *out, const void *bytes, size_t size)
{
    CHECK_EQ(dyn_text_append(out, bytes, size), DYN_OK);
}
static void byte(dyn_text *out, int value)
{
    uint8_t b = (uint8_t)value;
    raw(out, &b, 1);
}
static void map(dyn_text *out, int count)
{
    byte(out, 0x80 | count);
}
static void array(dyn_text *out, int count)
{
    byte(out, 0x90 | count);
}
static void str(dyn_text *out, const char *text)
{
    byte(out, 0xd9);
    byte(out, (int)strlen(text));
    raw(out, text, strlen(text));
}
static void num(dyn_text *out, uint32_t value)
{
    byte(out, 0xce);
    for (int shift = 24; shift >= 0; shift -= 8) byte(out, (int)(value >> shift & 255));
}
static void real(dyn_text *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    byte(out, 0xcb);
    for (int shift = 56; shift >= 0; shift -= 8) byte(out, (int)(bits >> shift & 255));
}

/* ---- the reader alone ---- */

static int read_of(dyn_text *bytes, struct dyn__item *item)
{
    return dyn__item_read((const uint8_t *)bytes->data, bytes->size, item);
}

static void an_item_is_read_bare_and_annotated(void)
{
    for (int annotated = 0; annotated < 2; annotated++) {
        dyn_text out = {0};
        struct dyn__item item;
        struct dyn__top top;
        if (annotated) {
            map(&out, 4);
            str(&out, "id"), byte(&out, 0xc0);
            str(&out, "event"), byte(&out, 0xc0);
            str(&out, "comment"), byte(&out, 0xc0);
            str(&out, "data");
        }
        map(&out, 7);
        str(&out, "token_ids"), array(&out, 2), num(&out, 7), byte(&out, 9);
        str(&out, "log_probs"), array(&out, 2), real(&out, -0.5), byte(&out, 0xc0);
        str(&out, "top_logprobs"), array(&out, 2), array(&out, 1), map(&out, 3);
        str(&out, "token_id"), num(&out, 8), str(&out, "logprob"), real(&out, -2), str(&out, "token"), str(&out, "x");
        byte(&out, 0xc0);
        str(&out, "finish_reason"), str(&out, "length");
        str(&out, "completion_usage"), map(&out, 2);
        str(&out, "prompt_tokens"), num(&out, 12);
        str(&out, "prompt_tokens_details"), map(&out, 1), str(&out, "cached_tokens"), num(&out, 8);
        str(&out, "engine_data"), map(&out, 2), str(&out, "mirror_tokens"), num(&out, 10), str(&out, "cause"),
            str(&out, "busy");
        str(&out, "whatever"), array(&out, 2), map(&out, 1), str(&out, "a"), array(&out, 0), byte(&out, 0xc3);
        CHECK_EQ(read_of(&out, &item), DYN_OK);
        CHECK_EQ(item.token_count, 2);
        CHECK_EQ(dyn__item_token(&item), 7);
        CHECK_EQ(dyn__item_token(&item), 9);
        CHECK(dyn__item_logprob(&item) == -0.5);
        double none = dyn__item_logprob(&item);
        CHECK(none != none);
        CHECK_EQ(dyn__item_tops(&item), 1);
        dyn__item_top(&item, &top);
        CHECK_EQ(top.token_id, 8);
        CHECK(top.logprob == -2 && top.token_size == 1);
        CHECK_EQ(dyn__item_tops(&item), 0);
        CHECK_EQ(item.finish, DYN_FINISH_LENGTH);
        CHECK_EQ(item.cached_tokens, 8);
        CHECK_EQ(item.mirror_tokens, 10);
        CHECK(item.cause_size == 4 && item.error == NULL);
        /* cut anywhere it is refused, and nothing is read past its end (the sanitizers look) */
        for (size_t size = 0; size < out.size; size++) {
            uint8_t *cut = malloc(size + 1);
            memcpy(cut, out.data, size);
            CHECK_EQ(dyn__item_read(cut, size, &item), DYN_EPROTO);
            free(cut);
        }
        dyn_text_free(&out);
    }
}

static void ids_may_come_as_an_array_of_numbers(void)
{
    dyn_text out = {0};
    struct dyn__item item;
    map(&out, 1), str(&out, "token_ids");
    byte(&out, 0xc7), byte(&out, 9), byte(&out, 1), byte(&out, 6);
    raw(&out, (uint8_t[]){5, 0, 0, 0, 0, 1, 0, 0}, 8);
    CHECK_EQ(read_of(&out, &item), DYN_OK);
    CHECK_EQ(item.token_count, 2);
    CHECK_EQ(dyn__item_token(&item), 5);
    CHECK_EQ(dyn__item_token(&item), 256);
    dyn_text_free(&out);
}

static void wrong_items_are_refused_by_name(void)
{
    struct {
        const char *bytes;
        size_t size;
        const char *says;
    } cases[] = {
        {"\x93\x01\x02\x03", 4, "not a map"},
        {"\x81\x01\x02", 3, "no text"},
        {"\x81\xa9token_ids\x91\xff", 13, "token_ids"},
        {"\x81\xa9token_ids\xdd\xff\xff\xff\xff", 16, "token_ids"}, /* four thousand million tokens in no bytes */
        {"\x81\xa4text\x05", 7, "text"},
        {"\x80\x80", 2, "after its item"},
        {"\xc1", 1, "not a map"},
        {"", 0, "not a map"},
    };
    struct dyn__item item;
    for (size_t i = 0; i < DYN__COUNT(cases); i++) {
        CHECK_EQ(dyn__item_read((const uint8_t *)cases[i].bytes, cases[i].size, &item), DYN_EPROTO);
        CHECK(strstr(dyn_error_detail(), cases[i].says) != NULL);
    }
}

static void json_strings_are_escaped_and_valid(void)
{
    dyn_text out = {0};
    const char in[] = "a\"b\\c\n\x01\x7f\xE2\x82\xAC\xff\xE2\x82.\xF0\x9F";
    CHECK_EQ(dyn_json_escape(&out, in, sizeof(in) - 1), DYN_OK);
    CHECK_EQ(dyn_text_append(&out, "", 1), DYN_OK);
    CHECK_STR(out.data, "a\\\"b\\\\c\\n\\u0001\x7f\xE2\x82\xAC\xEF\xBF\xBD\xEF\xBF\xBD.\xEF\xBF\xBD");
    dyn_text_free(&out);
}

/* ---- the stage ---- */

static const char *const words[] = {"Hello", " world", "!", " stop", " \xE2\x82", "\xAC", "</s>"};
enum { HELLO, WORLD, BANG, STOP, EURO1, EURO2, EOS };

static dyn_loop *loop;
static dyn_mailbox *box;
static dyn_pool *pool;
static dyn_server *worker;
static dyn_http_server *http;
static dyn_vocab *vocab;
static dyn_endpoint *endpoints[8];
static int endpoint_count;
static char addresses[8][64];
static uint16_t http_port;

/* What the next request gets; set before it is sent. */
static dyn_answer_options options;
static dyn_answer_choice choices[4];
static size_t choice_count;
static const char *to[4];
static atomic_int firsts, ends, tokens_told;
static dyn_answer *current; /* a reference */

static void on_first(void *user)
{
    (void)user, atomic_fetch_add(&firsts, 1);
}
static void on_tokens(void *user, uint32_t count)
{
    (void)user, atomic_fetch_add(&tokens_told, (int)count);
}
static void on_end(void *user)
{
    (void)user, atomic_fetch_add(&ends, 1);
}
static const dyn_answer_hooks hooks = {NULL, on_first, on_tokens, on_end};

static void call(uint32_t choice, const char *address)
{
    dyn_pair header = {{(const uint8_t *)"x-request-id", 12}, {(const uint8_t *)"r1", 2}};
    dyn_call_request request = {
        .address = address, .headers = &header, .header_count = 1, .payload = {(const uint8_t *)"\x80", 1}};
    CHECK_EQ(dyn_answer_call(current, choice, pool, &request, 77, &hooks), DYN_OK);
}

static void on_http(void *user, dyn_http_exchange *x)
{
    (void)user;
    int rc = dyn_answer_new_take(&current, x, &options, choices, choice_count, box, NULL);
    CHECK_EQ(rc, DYN_OK);
    for (uint32_t i = 0; i < choice_count; i++)
        if (to[i] != NULL) call(i, to[i]);
}

static const char *endpoint(void (*on_request)(void *user, dyn_stream *stream), void (*on_change)(void *, dyn_stream *))
{
    int i = endpoint_count++;
    char path[16];
    static dyn_endpoint_events all[8];
    dyn_endpoint_events *events = &all[i];
    *events = (dyn_endpoint_events){on_request, on_change};
    snprintf(path, sizeof(path), "e%d", i);
    CHECK_EQ(dyn_server_serve(worker, path, events, events, &endpoints[i]), DYN_OK);
    snprintf(addresses[i], sizeof(addresses[i]), "127.0.0.1:%u/%s", dyn_server_port(worker), path);
    return addresses[i];
}

static void set_up(void)
{
    uint8_t flags[DYN__COUNT(words)] = {0};
    uint32_t ends_[DYN__COUNT(words)], size = 0;
    uint8_t bytes[128];
    for (size_t i = 0; i < DYN__COUNT(words); i++) {
        memcpy(bytes + size, words[i], strlen(words[i]));
        ends_[i] = size += (uint32_t)strlen(words[i]);
    }
    flags[EOS] = DYN_TOKEN_SPECIAL;
    CHECK_EQ(dyn_vocab_new(&vocab, bytes, size, ends_, flags, DYN__COUNT(words), 0), DYN_OK);
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_mailbox_new(&box), DYN_OK);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    CHECK_EQ(dyn_server_new(&worker, loop, "127.0.0.1", 0, NULL), DYN_OK);
    dyn_http_settings settings = {.low_water_bytes = 16 << 10, .max_pending_bytes = 256 << 10};
    CHECK_EQ(dyn_http_server_new(&http, loop, &settings), DYN_OK);
    CHECK_EQ(dyn_http_route(http, "POST", "/x", 0, on_http, NULL), DYN_OK);
    CHECK_EQ(dyn_http_server_listen(http, NULL, 0, &http_port), DYN_OK);
    options = (dyn_answer_options){.kind = DYN_ANSWER_CHAT,
                                   .stream = true,
                                   .id = "chatcmpl-1",
                                   .model = "m\"1",
                                   .created = 5,
                                   .vocab = vocab,
                                   .logprobs = -1};
    memset(choices, 0, sizeof(choices));
    memset(to, 0, sizeof(to));
    choices[0].prompt_tokens = 10;
    choice_count = 1;
    endpoint_count = 0;
    atomic_store(&firsts, 0), atomic_store(&ends, 0), atomic_store(&tokens_told, 0);
}

static void tear_down(void)
{
    dyn_http_server_free(http);
    dyn_answer_unref(current), current = NULL;
    dyn_pool_close(pool), dyn_pool_unref(pool);
    for (int i = 0; i < endpoint_count; i++) dyn_endpoint_unref(endpoints[i]);
    dyn_server_free(worker);
    dyn_mailbox_unref(box);
    dyn_vocab_unref(vocab);
    dyn_loop_unref(loop);
}

static int client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(http_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static const char request[] = "POST /x HTTP/1.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    CHECK_EQ(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    CHECK_EQ(send(fd, request, sizeof(request) - 1, 0), sizeof(request) - 1);
    return fd;
}

/* The whole answer of an HTTP/1.0 connection; static memory. */
static const char *read_all(int fd)
{
    static char answer[1 << 22];
    size_t size = 0;
    for (ssize_t n; size < sizeof(answer) - 1 && (n = read(fd, answer + size, sizeof(answer) - 1 - size)) > 0;)
        size += (size_t)n;
    answer[size] = '\0';
    close(fd);
    return answer;
}

/* The next mail, copied; its drop() is called. */
static dyn_answer_mail next_mail(void)
{
    static dyn_mail *list;
    dyn_answer_mail copy = {.kind = -1};
    if (list == NULL && dyn_mailbox_wait(box, 10000) == DYN_OK) list = dyn_mailbox_take(box);
    CHECK(list != NULL);
    if (list == NULL) return copy;
    dyn_mail *mail = list;
    list = mail->next;
    copy = *DYN__CONTAINER(mail, dyn_answer_mail, mail);
    mail->drop(mail);
    return copy;
}

/* ---- workers ---- */

static void send_tokens(dyn_stream *stream, const uint32_t *ids, int count, const char *finish)
{
    dyn_text out = {0};
    map(&out, finish != NULL ? 2 : 1);
    str(&out, "token_ids"), array(&out, count);
    for (int i = 0; i < count; i++) num(&out, ids[i]);
    if (finish != NULL) str(&out, "finish_reason"), str(&out, finish);
    CHECK(dyn_stream_send(stream, out.data, out.size, NULL) >= 0 || dyn_stream_state(stream) != 0);
    dyn_text_free(&out);
}

static void says_hello(void *user, dyn_stream *stream)
{
    (void)user;
    send_tokens(stream, (uint32_t[]){HELLO}, 1, NULL);
    send_tokens(stream, (uint32_t[]){WORLD, EURO1}, 2, NULL);
    send_tokens(stream, (uint32_t[]){EURO2, BANG, EOS}, 3, "eos");
    dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

static void breaks_after_two(void *user, dyn_stream *stream)
{
    (void)user;
    send_tokens(stream, (uint32_t[]){HELLO}, 1, NULL);
    send_tokens(stream, (uint32_t[]){WORLD}, 1, NULL);
    dyn_failure failure = {.code = DYN_ESHUTDOWN, .type = "EngineShutdown", .text = "leaving", .trace = ""};
    dyn_stream_fail(stream, &failure, NULL);
    dyn_stream_unref(stream);
}

static void goes_on(void *user, dyn_stream *stream)
{
    (void)user;
    send_tokens(stream, (uint32_t[]){BANG}, 1, "stop");
    dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

static atomic_int stopped, killed;
static void waits_for_stop(void *user, dyn_stream *stream)
{
    (void)user;
    send_tokens(stream, (uint32_t[]){HELLO, STOP, WORLD}, 3, NULL);
    /* the reference stays until the caller stops or leaves */
}
static void stop_came(void *user, dyn_stream *stream)
{
    (void)user;
    unsigned state = dyn_stream_state(stream);
    if (state & DYN_STREAM_STOPPED) atomic_fetch_add(&stopped, 1);
    if (state & DYN_STREAM_KILLED) atomic_fetch_add(&killed, 1);
    if (!(state & (DYN_STREAM_STOPPED | DYN_STREAM_KILLED))) return;
    if (!(state & DYN_STREAM_KILLED)) dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

static const char chunk[] =
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"m\\\"1\",";

/* ---- what holds ---- */

static void a_stream_is_chunks_in_the_form_of_openai(void)
{
    char want[1024];
    set_up();
    options.include_usage = true;
    to[0] = endpoint(says_hello, NULL);
    const char *got = read_all(client());
    snprintf(want, sizeof(want),
             "%s\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"logprobs\":null,"
             "\"finish_reason\":null}],\"usage\":null}\n\n"
             "%s\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world "
             "\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"
             "%s\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xE2\x82\xAC!\"},\"logprobs\":null,\"finish_"
             "reason\":\"stop\"}],\"usage\":null}\n\n"
             "%s\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":6,\"total_tokens\":16}}\n\n"
             "data: [DONE]\n\n",
             chunk, chunk, chunk, chunk);
    const char *body = strstr(got, "\r\n\r\n");
    CHECK(strstr(got, "HTTP/1.1 200") == got || strstr(got, "HTTP/1.0 200") == got);
    CHECK(strstr(got, "x-dynamo-worker-instance-id: 77") != NULL);
    CHECK(strstr(got, "text/event-stream") != NULL);
    /* EURO1 is " \xE2\x82": the space is complete and comes at once, the sign with its last byte */
    CHECK_STR(body ? body + 4 : NULL, want);
    dyn_answer_mail mail = next_mail();
    CHECK_EQ(mail.kind, DYN_ANSWER_DONE);
    dyn_answer_summary summary;
    dyn_choice_summary choice;
    dyn_answer_summarize(current, &summary);
    CHECK_EQ(dyn_answer_summarize_choice(current, 0, &choice), DYN_OK);
    CHECK_EQ(summary.completion_tokens, 6);
    CHECK_EQ(summary.status, 200);
    CHECK(summary.first_ns >= summary.started_ns && summary.ended_ns >= summary.last_ns);
    CHECK_EQ(choice.finish, DYN_FINISH_STOP);
    CHECK_EQ(choice.worker, 77);
    CHECK_EQ(atomic_load(&firsts), 1);
    CHECK_EQ(atomic_load(&ends), 1);
    tear_down();
}

static void a_body_joins_its_choices(void)
{
    set_up();
    options.stream = false;
    options.kind = DYN_ANSWER_COMPLETION;
    options.extra = (dyn_slice){(const uint8_t *)"\"nvext\":{}", 10};
    options.logprobs = 1;
    choice_count = 2;
    choices[0].prefix = (dyn_slice){(const uint8_t *)"\"p\" ", 4};
    to[0] = endpoint(says_hello, NULL);
    to[1] = endpoint(goes_on, NULL);
    const char *got = read_all(client());
    const char *body = strstr(got, "\r\n\r\n");
    CHECK_STR(body ? body + 4 : NULL,
              "{\"id\":\"chatcmpl-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"m\\\"1\",\"choices\":["
              "{\"index\":0,\"text\":\"\\\"p\\\" Hello world \xE2\x82\xAC!\",\"logprobs\":{\"tokens\":[\"Hello\",\" "
              "world\",\" \xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"!\",\"</s>\"],"
              "\"token_logprobs\":[-9999,-9999,-9999,-9999,-9999,-9999],\"top_logprobs\":[{},{},{},{},{},{}],\"text_"
              "offset\":[4,9,15,16,17,18]},\"finish_reason\":\"stop\"},"
              "{\"index\":1,\"text\":\"!\",\"logprobs\":{\"tokens\":[\"!\"],\"token_logprobs\":[-9999],\"top_"
              "logprobs\":[{}],\"text_offset\":[0]},\"finish_reason\":\"stop\"}],"
              "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":7,\"total_tokens\":17},\"nvext\":{}}");
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    CHECK_EQ(atomic_load(&ends), 2);
    tear_down();
}

static void a_stop_string_ends_the_answer_and_the_worker(void)
{
    set_up();
    size_t size = 5;
    options.stream = false;
    CHECK_EQ(dyn_stops_new(&options.stops, (const char *[]){"o sto"}, &size, 1), DYN_OK);
    atomic_store(&stopped, 0);
    to[0] = endpoint(waits_for_stop, stop_came);
    const char *got = read_all(client());
    CHECK(strstr(got, "\"content\":\"Hell\",") != NULL);
    CHECK(strstr(got, "\"finish_reason\":\"stop\"") != NULL);
    CHECK(strstr(got, "\"completion_tokens\":2,") != NULL);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    CHECK(atomic_load(&stopped) >= 1);
    dyn_stops_unref(options.stops);
    tear_down();
}

static void max_tokens_and_stop_ids_hold_whatever_the_worker_does(void)
{
    set_up();
    options.stream = false;
    choices[0].max_tokens = 1;
    to[0] = endpoint(waits_for_stop, stop_came);
    const char *got = read_all(client());
    CHECK(strstr(got, "\"content\":\"Hello\",") != NULL && strstr(got, "\"finish_reason\":\"length\"") != NULL);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    dyn_answer_unref(current), current = NULL;
    choices[0].max_tokens = 0;
    options.stop_ids = (uint32_t[]){STOP};
    options.stop_id_count = 1;
    got = read_all(client());
    CHECK(strstr(got, "\"content\":\"Hello\",") != NULL && strstr(got, "\"finish_reason\":\"stop\"") != NULL);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    dyn_answer_unref(current), current = NULL;
    choices[0].min_tokens = 2; /* STOP is the second: shown */
    choices[0].max_tokens = 2;
    got = read_all(client());
    CHECK(strstr(got, "\"content\":\"Hello stop\",") != NULL);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    tear_down();
}

static void a_broken_call_is_carried_on_without_losing_a_token(void)
{
    for (int stream = 0; stream < 2; stream++) {
        set_up();
        options.stream = stream;
        to[0] = endpoint(breaks_after_two, NULL);
        const char *next = endpoint(goes_on, NULL);
        int fd = client();
        dyn_answer_mail mail = next_mail();
        CHECK_EQ(mail.kind, DYN_ANSWER_BROKE);
        CHECK_EQ(mail.code, DYN_ESHUTDOWN);
        const dyn_token_batch *tokens = dyn_answer_tokens(current, 0);
        CHECK_EQ(dyn_token_batch_count(tokens), 2);
        CHECK_EQ(dyn_token_batch_ids(tokens)[1], WORLD);
        call(0, next);
        const char *got = read_all(fd);
        CHECK(strstr(got, stream ? "\"content\":\"!\"" : "\"content\":\"Hello world!\"") != NULL);
        if (stream) CHECK(strstr(got, "\"content\":\" world\"") != NULL && strstr(got, "[DONE]") != NULL);
        CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
        dyn_choice_summary choice;
        dyn_answer_summarize_choice(current, 0, &choice);
        CHECK_EQ(choice.calls, 2);
        CHECK_EQ(choice.completion_tokens, 3);
        CHECK_EQ(atomic_load(&ends), 2);
        tear_down();
    }
}

static void with_nobody_left_the_client_is_told(void)
{
    set_up();
    to[0] = "127.0.0.1:1/nobody";
    int fd = client();
    CHECK_EQ(next_mail().code, DYN_ECONN);
    CHECK_EQ(dyn_answer_fail(current, 503, "no worker is left", "service_unavailable", NULL, "unavailable", 2), DYN_OK);
    const char *got = read_all(fd);
    CHECK(strstr(got, " 503 ") != NULL && strstr(got, "retry-after: 2") != NULL);
    CHECK(strstr(got, "{\"error\":{\"message\":\"no worker is "
                      "left\",\"type\":\"service_unavailable\",\"param\":null,\"code\":\"unavailable\"}}"));
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    dyn_answer_unref(current), current = NULL;
    to[0] = endpoint(breaks_after_two, NULL); /* with something sent: an event in the stream */
    fd = client();
    CHECK_EQ(next_mail().kind, DYN_ANSWER_BROKE);
    CHECK_EQ(dyn_answer_fail(current, 503, "no worker is left", NULL, NULL, NULL, 2), DYN_OK);
    got = read_all(fd);
    CHECK(strstr(got, " 200 ") != NULL &&
          strstr(got, "event: error\ndata: {\"error\":{\"message\":\"no worker") != NULL);
    CHECK(strstr(got, "[DONE]") == NULL);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    CHECK_EQ(atomic_load(&ends), 2);
    tear_down();
}

static void a_client_that_leaves_kills_the_call(void)
{
    set_up();
    atomic_store(&killed, 0);
    to[0] = endpoint(waits_for_stop, stop_came);
    int fd = client();
    char some[64];
    CHECK(read(fd, some, sizeof(some)) > 0);
    close(fd);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    for (int i = 0; i < 1000 && atomic_load(&killed) == 0; i++) poll(NULL, 0, 5);
    CHECK_EQ(atomic_load(&killed), 1);
    dyn_answer_summary summary;
    dyn_answer_summarize(current, &summary);
    CHECK(summary.cancelled);
    CHECK_EQ(atomic_load(&ends), 1);
    tear_down();
}

/* ---- back-pressure: a worker that sends as fast as it may; more items than the window has bytes, so that what is
 * not given back for each of them would be missed ---- */
enum { MANY = 150000 };
static atomic_int sent_items;
static void flood(dyn_stream *stream)
{
    dyn_text out = {0};
    map(&out, 1), str(&out, "token_ids"), array(&out, 1), num(&out, WORLD);
    while (atomic_load(&sent_items) < MANY && !(dyn_stream_state(stream) & (DYN_STREAM_FULL | DYN_STREAM_KILLED))) {
        if (dyn_stream_send(stream, out.data, out.size, NULL) < 0) break;
        atomic_fetch_add(&sent_items, 1);
    }
    dyn_text_free(&out);
    if (dyn_stream_state(stream) & DYN_STREAM_KILLED) {
        dyn_stream_unref(stream);
    } else if (atomic_load(&sent_items) == MANY) {
        dyn_stream_end(stream, NULL);
        dyn_stream_unref(stream);
    }
}
static void on_flood(void *user, dyn_stream *stream)
{
    (void)user, flood(stream);
}

static void a_slow_client_slows_its_worker_and_loses_nothing(void)
{
    set_up();
    atomic_store(&sent_items, 0);
    to[0] = endpoint(on_flood, on_flood);
    int fd = client();
    /* not reading: the worker comes to a halt well before its end */
    int before = -1;
    for (int i = 0; i < 200 && (before != atomic_load(&sent_items) || before == 0); i++) {
        before = atomic_load(&sent_items);
        poll(NULL, 0, 50);
    }
    CHECK(atomic_load(&sent_items) > 0 && atomic_load(&sent_items) < MANY);
    static char piece[1 << 16];
    size_t found = 0, done = 0;
    char last = 0;
    for (ssize_t n; (n = read(fd, piece, sizeof(piece))) > 0;) {
        for (ssize_t i = 0; i < n; i++) { /* count "world" by its w, which nothing else has */
            found += piece[i] == 'w' && last == ' ';
            done += piece[i] == 'D' && last == '[';
            last = piece[i];
        }
    }
    close(fd);
    CHECK_EQ(found, MANY);
    CHECK_EQ(done, 1);
    CHECK_EQ(next_mail().kind, DYN_ANSWER_DONE);
    tear_down();
}

/* ---- a slow memory ---- */
static void new_in_short_memory(void *user, dyn_http_exchange *x)
{
    (void)user;
    EACH_ALLOCATION_FAILS {
        dyn_answer *answer = NULL;
        options.preamble = (dyn_slice){(const uint8_t *)":x\n\n", 4};
        options.stop_ids = (uint32_t[]){1, 2};
        options.stop_id_count = 2;
        rc = dyn_answer_new_take(&answer, dyn_http_exchange_ref(x), &options, choices, 2, box, NULL);
        dyn__fail_after = -1;
        if (rc == DYN_OK) dyn_answer_unref(answer);
    }
    CHECK_EQ(dyn_answer_new_take(&current, dyn_http_exchange_ref(x), &options, choices, 0, box, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_answer_new_take(&current, dyn_http_exchange_ref(x), &options, choices, DYN_ANSWER_MAX_CHOICES + 1, box,
                                 NULL),
             DYN_ELIMIT);
    dyn_http_respond(x, 200, "text/plain", "ok", 2);
    dyn_http_exchange_unref(x);
}

static void an_answer_that_cannot_be_made_leaves_the_exchange_alone(void)
{
    set_up();
    CHECK_EQ(dyn_http_route(http, "PUT", "/y", 0, new_in_short_memory, NULL), DYN_OK);
    CHECK_EQ(dyn_http_unroute(http, "POST", "/x", 0), DYN_OK);
    CHECK_EQ(dyn_http_route(http, "POST", "/x", 0, new_in_short_memory, NULL), DYN_OK);
    CHECK(strstr(read_all(client()), "\r\n\r\nok") != NULL);
    tear_down();
}

/* Every allocation of the loop thread fails in turn while an item is taken in; what is there stays consistent, and
 * the client always hears an end. */
static void feeding_survives_short_memory(void)
{
    dyn_text bytes = {0};
    map(&bytes, 2);
    str(&bytes, "token_ids"), array(&bytes, 3), num(&bytes, HELLO), num(&bytes, WORLD), num(&bytes, BANG);
    str(&bytes, "text"), str(&bytes, "never shown beside ids");
    struct dyn__item item;
    EACH_ALLOCATION_FAILS {
        struct json columns[4] = {0}, out = {0};
        struct dyn__naming naming = {NULL, false};
        rc = read_of(&bytes, &item);
        for (int i = 0; i < 3; i++)
            dyn__render_token(columns, DYN_ANSWER_COMPLETION, &naming, dyn__item_token(&item), -1, &item, 1, 0);
        dyn__render_logprobs(&out, columns, DYN_ANSWER_COMPLETION, true);
        dyn__render_usage(&out, 1, 2, 3);
        dyn__render_error(&out, 400, "m\n", NULL, "p", NULL);
        rc = out.rc;
        for (int i = 0; i < 4; i++) dyn__json_free(&columns[i]);
        dyn__json_free(&out);
    }
    dyn_text_free(&bytes);
}

TEST_MAIN(TEST(an_item_is_read_bare_and_annotated), TEST(ids_may_come_as_an_array_of_numbers),
          TEST(wrong_items_are_refused_by_name), TEST(json_strings_are_escaped_and_valid),
          TEST(a_stream_is_chunks_in_the_form_of_openai), TEST(a_body_joins_its_choices),
          TEST(a_stop_string_ends_the_answer_and_the_worker),
          TEST(max_tokens_and_stop_ids_hold_whatever_the_worker_does),
          TEST(a_broken_call_is_carried_on_without_losing_a_token), TEST(with_nobody_left_the_client_is_told),
          TEST(a_client_that_leaves_kills_the_call), TEST(a_slow_client_slows_its_worker_and_loses_nothing),
          TEST(an_answer_that_cannot_be_made_leaves_the_exchange_alone), TEST(feeding_survives_short_memory))
