#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef POLLRDHUP
#define POLLRDHUP POLLHUP /* not everywhere */
#endif

#include "dynamo/http.h"
#include "dynamo/http_client.h"
#include "test.h"

/* ---- our own server: echo, and a stream ------------------------------------------------------- */

static dyn_loop *loop;
static dyn_http_server *server;
static char url[64];

static void echo(void *user, dyn_http_exchange *x)
{
    size_t length;
    const uint8_t *body = dyn_http_body(x, &length);
    const char *mark = dyn_http_header(x, "x-mark", NULL);
    (void)user;
    if (mark != NULL) dyn_http_set_header(x, "X-Mark", mark);
    dyn_http_respond(x, 200, "text/plain", body, length);
    dyn_http_exchange_unref(x);
}
static void *stream_words(void *arg)
{
    dyn_http_exchange *x = arg;
    for (int i = 0; i < 100; i++) {
        char word[16];
        int n = snprintf(word, sizeof(word), "word%d ", i);
        dyn_http_write(x, word, (size_t)n);
        struct timespec short_while = {0, 100000};
        nanosleep(&short_while, NULL);
    }
    dyn_http_end(x);
    dyn_http_exchange_unref(x);
    return NULL;
}
static void words(void *user, dyn_http_exchange *x)
{
    pthread_t thread;
    (void)user;
    dyn_http_begin(x, 200, "text/plain");
    pthread_create(&thread, NULL, stream_words, x);
    pthread_detach(thread);
}
static void start_server(void)
{
    uint16_t port;
    if (server != NULL) return;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_http_server_new(&server, loop, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(server, "POST", "/echo", 0, echo, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(server, "GET", "/words", 0, words, NULL), DYN_OK);
    CHECK_EQ(dyn_http_server_listen(server, NULL, 0, &port), DYN_OK);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", port);
}

/* ---- a server that says what it is told, whatever comes ---------------------------------------- */

typedef struct script {
    const char *say; /* all of it, at once or byte by byte */
    size_t length;
    bool slowly, stay, read_all, deaf; /* deaf: reads no further, until the other side closes */
    int times;                         /* connections to serve, one after the other */
    size_t heard;
    int listener;
    pthread_t thread;
    char url[64];
} script;

static void *play(void *arg)
{
    script *self = arg;
    for (int i = 0; i < self->times; i++) {
        char heard[65536];
        int fd = accept(self->listener, NULL, NULL), one = 1;
        if (fd < 0) break;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        struct timeval limit = {5, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        ssize_t n = recv(fd, heard, sizeof(heard) - 1, 0);
        self->heard += n > 0 ? (size_t)n : 0;
        for (size_t at = 0; at < self->length;) {
            size_t piece = self->slowly ? 1 : self->length - at;
            ssize_t sent = send(fd, self->say + at, piece, MSG_NOSIGNAL);
            if (sent <= 0) break;
            at += (size_t)sent;
        }
        struct pollfd gone = {.fd = fd, .events = POLLRDHUP};
        if (self->deaf) poll(&gone, 1, 5000);
        if (self->stay || self->read_all) {
            if (self->read_all) shutdown(fd, SHUT_WR);
            while ((n = recv(fd, heard, sizeof(heard), 0)) > 0) self->heard += (size_t)n;
        }
        close(fd);
    }
    return NULL;
}
static void perform(script *self)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    if (self->length == 0 && self->say != NULL) self->length = strlen(self->say);
    if (self->times == 0) self->times = 1;
    self->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(self->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    CHECK_EQ(listen(self->listener, 64), 0);
    CHECK_EQ(getsockname(self->listener, (struct sockaddr *)&at, &size), 0);
    snprintf(self->url, sizeof(self->url), "http://127.0.0.1:%u", ntohs(at.sin_port));
    CHECK_EQ(pthread_create(&self->thread, NULL, play, self), 0);
}
static void curtain(script *self)
{
    shutdown(self->listener, SHUT_RDWR);
    pthread_join(self->thread, NULL);
    close(self->listener);
}

/* ---- helpers ----------------------------------------------------------------------------------- */

static int run(dyn_http_call *call)
{
    int rc;
    while ((rc = dyn_http_call_run(call)) == DYN_EAGAIN) continue;
    return rc;
}
static dyn_http_request post(const char *path, const void *body, size_t length)
{
    return (dyn_http_request){.method = "POST", .path = path, .body = body, .length = length, .timeout_ms = 10000};
}
static bool body_is(dyn_http_call *call, const char *text)
{
    size_t length;
    const uint8_t *body = dyn_http_call_body(call, &length);
    if (length == strlen(text) && memcmp(body, text, length) == 0) return true;
    fprintf(stderr, "the body is \"%.*s\" (%zu), want \"%s\"\n", (int)(length < 200 ? length : 200), (const char *)body,
            length, text);
    return false;
}
/* One GET against a script; the code of its end. */
static int get(script *s, dyn_http_client_settings *settings, unsigned flags, char *body, int *status)
{
    dyn_http_client *client = NULL;
    dyn_http_call *call = NULL;
    dyn_http_request request = {.method = "GET", .path = "/", .timeout_ms = 5000, .flags = flags};
    perform(s);
    CHECK_EQ(dyn_http_client_new(&client, s->url, settings), DYN_OK);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    int rc = run(call);
    if (rc == DYN_OK && body != NULL) {
        size_t length;
        const uint8_t *data = dyn_http_call_body(call, &length);
        memcpy(body, data, length);
        body[length] = 0;
    }
    if (status != NULL) *status = dyn_http_call_status(call);
    dyn_http_call_free(call);
    dyn_http_client_unref(client);
    curtain(s);
    return rc;
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void calls_in_this_thread_share_one_connection(void)
{
    dyn_http_client *client;
    dyn_http_client_stats stats;
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, NULL), DYN_OK);
    for (int i = 0; i < 50; i++) {
        char text[32];
        dyn_http_call *call;
        snprintf(text, sizeof(text), "hello %d", i);
        dyn_http_request request = post("/echo", text, strlen(text));
        request.headers = "X-Mark: yes\r\n", request.headers_length = 13;
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        CHECK_EQ(run(call), DYN_OK);
        CHECK_EQ(dyn_http_call_phase_of(call), DYN_HTTP_CALL_DONE);
        CHECK_EQ(dyn_http_call_status(call), 200);
        CHECK_STR(dyn_http_call_header(call, "x-mark", NULL), "yes");
        CHECK_EQ(dyn_http_call_length(call), strlen(text));
        CHECK(body_is(call, text));
        dyn_http_call_free(call);
    }
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.opened, 1);
    CHECK_EQ(stats.reused, 49);
    CHECK_EQ(stats.calls, 50);
    CHECK_EQ(stats.idle, 1);
    dyn_http_client_unref(client);
}

static void large_bodies_go_straight_to_where_they_belong(void)
{
    enum { SIZE = 5 << 20 };
    dyn_http_client *client;
    char *sent = malloc(SIZE), *got = malloc(SIZE);
    start_server();
    for (int i = 0; i < SIZE; i++) sent[i] = (char)(i * 7 + i / 1000);
    CHECK_EQ(dyn_http_client_new(&client, url, NULL), DYN_OK);
    for (int stop = 0; stop < 2; stop++) {
        dyn_http_call *call;
        dyn_http_request request = post("/echo", sent, SIZE);
        request.flags = stop ? DYN_HTTP_CALL_STOP_LARGE : 0;
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        CHECK_EQ(run(call), DYN_OK);
        if (stop) {
            CHECK_EQ(dyn_http_call_phase_of(call), DYN_HTTP_CALL_HEAD);
            CHECK_EQ(dyn_http_call_length(call), SIZE);
            CHECK_EQ(dyn_http_call_into(call, got), DYN_OK);
            CHECK_EQ(run(call), DYN_OK);
        } else {
            size_t length;
            const uint8_t *body = dyn_http_call_body(call, &length);
            CHECK_EQ(length, SIZE);
            memcpy(got, body, SIZE);
        }
        CHECK_EQ(dyn_http_call_phase_of(call), DYN_HTTP_CALL_DONE);
        CHECK_EQ(memcmp(sent, got, SIZE), 0);
        memset(got, 0, SIZE);
        dyn_http_call_free(call);
    }
    dyn_http_client_unref(client);
    free(sent);
    free(got);
}

static void a_streamed_answer_comes_in_pieces(void)
{
    dyn_http_client *client;
    dyn_http_call *call;
    char text[2000];
    size_t have = 0;
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, NULL), DYN_OK);
    dyn_http_request request = {.method = "GET", .path = "/words", .timeout_ms = 5000, .flags = DYN_HTTP_CALL_STREAM};
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    CHECK_EQ(run(call), DYN_OK);
    CHECK_EQ(dyn_http_call_phase_of(call), DYN_HTTP_CALL_HEAD);
    int pieces = 0;
    while (dyn_http_call_phase_of(call) != DYN_HTTP_CALL_DONE && run(call) == DYN_OK) {
        size_t length;
        const uint8_t *body = dyn_http_call_body(call, &length);
        memcpy(text + have, body, length);
        have += length;
        dyn_http_call_consume(call, length);
        pieces++;
    }
    CHECK(pieces > 1);
    CHECK_EQ(have, 690);
    CHECK_EQ(memcmp(text + have - 7, "word99 ", 7), 0);
    dyn_http_call_free(call);
    dyn_http_client_stats stats;
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.idle, 1);
    dyn_http_client_unref(client);
}

static void a_request_body_can_follow_in_pieces(void)
{
    dyn_http_client *client;
    dyn_http_call *call;
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, NULL), DYN_OK);
    dyn_http_request request = post("/echo", NULL, 0);
    request.flags = DYN_HTTP_CALL_SEND_LATER;
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(dyn_http_call_send(call, "abc", 3), DYN_OK);
        CHECK_EQ(dyn_http_call_flush(call, 0), DYN_OK);
        CHECK_EQ(dyn_http_call_unsent(call), 0);
    }
    CHECK_EQ(dyn_http_call_send_end(call), DYN_OK);
    CHECK_EQ(dyn_http_call_send(call, "x", 1), DYN_EBUSY);
    CHECK_EQ(run(call), DYN_OK);
    CHECK(body_is(call, "abcabcabc"));
    dyn_http_call_free(call);
    dyn_http_client_unref(client);
}

/* All calls of a hub to their ends; how many were DONE. */
static int drain(dyn_http_hub *hub, int calls)
{
    int good = 0;
    while (calls > 0) {
        struct pollfd ready = {.fd = dyn_http_hub_fd(hub), .events = POLLIN};
        dyn_http_call *call;
        while ((call = dyn_http_hub_news(hub)) != NULL) {
            if (dyn_http_call_phase_of(call) < DYN_HTTP_CALL_DONE) continue;
            good += dyn_http_call_phase_of(call) == DYN_HTTP_CALL_DONE;
            calls--;
            dyn_http_call_free(call);
        }
        if (calls == 0) break;
        if (poll(&ready, 1, 10000) != 1) break;
        dyn_http_hub_turn(hub);
    }
    CHECK_EQ(calls, 0);
    return good;
}

static void many_calls_run_at_once_in_a_hub(void)
{
    enum { CALLS = 500 };
    dyn_http_client *client;
    dyn_http_hub *hub;
    dyn_http_client_settings settings = {.max_connections = 16};
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, &settings), DYN_OK);
    CHECK_EQ(dyn_http_hub_new(&hub), DYN_OK);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CALLS; i++) {
            dyn_http_call *call;
            dyn_http_request request = post("/echo", "some text", 9);
            CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
            dyn_http_hub_start(hub, call, NULL);
        }
        CHECK_EQ(drain(hub, CALLS), CALLS);
    }
    dyn_http_client_stats stats;
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.calls, 3 * CALLS);
    CHECK_EQ(stats.opened, 16);
    dyn_http_hub_free(hub);
    dyn_http_client_unref(client);
}

static void a_hub_survives_calls_that_are_dropped_anywhere(void)
{
    dyn_http_client *client;
    dyn_http_hub *hub;
    dyn_http_client_settings settings = {.max_connections = 4};
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, &settings), DYN_OK);
    CHECK_EQ(dyn_http_hub_new(&hub), DYN_OK);
    dyn_http_call *calls[20];
    for (int i = 0; i < 20; i++) {
        dyn_http_request request = post("/echo", "some text", 9);
        CHECK_EQ(dyn_http_call_new(&calls[i], client, &request), DYN_OK);
        dyn_http_hub_start(hub, calls[i], NULL);
    }
    for (int i = 0; i < 20; i += 2) dyn_http_call_free(calls[i]); /* some are under way, some wait */
    CHECK_EQ(drain(hub, 10), 10);
    for (int i = 0; i < 10; i++) {
        dyn_http_request request = post("/echo", "some text", 9);
        CHECK_EQ(dyn_http_call_new(&calls[i], client, &request), DYN_OK);
        dyn_http_hub_start(hub, calls[i], NULL);
    }
    dyn_http_hub_free(hub);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(dyn_http_call_phase_of(calls[i]), DYN_HTTP_CALL_FAILED);
        CHECK_EQ(dyn_http_call_error(calls[i]), DYN_ECANCELED);
        dyn_http_call_free(calls[i]);
    }
    dyn_http_client_unref(client);
}

static void a_refused_connection_says_so_and_a_storm_of_them_does_not_recurse(void)
{
    dyn_http_client *client;
    dyn_http_hub *hub;
    dyn_http_call *call;
    script s = {0};
    perform(&s); /* a port that nobody has a moment later */
    curtain(&s);
    CHECK_EQ(dyn_http_client_new(&client, s.url, NULL), DYN_OK);
    dyn_http_request request = post("/", "x", 1);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    CHECK_EQ(run(call), DYN_ECONN);
    CHECK(strstr(dyn_error_detail(), "Connection refused") != NULL);
    CHECK(strstr(dyn_error_detail(), s.url) != NULL);
    dyn_http_call_free(call);
    CHECK_EQ(dyn_http_hub_new(&hub), DYN_OK);
    for (int i = 0; i < 5000; i++) {
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        dyn_http_hub_start(hub, call, NULL);
    }
    CHECK_EQ(drain(hub, 5000), 0);
    dyn_http_hub_free(hub);
    dyn_http_client_unref(client);
}

static void a_name_without_an_address_is_no_connection(void)
{
    dyn_http_client *client;
    dyn_http_call *call;
    CHECK_EQ(dyn_http_client_new(&client, "http://no-such-host.invalid:80", NULL), DYN_OK);
    dyn_http_request request = post("/", "x", 1);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    int rc = run(call);
    CHECK(rc == DYN_ECONN || rc == DYN_ETIMEDOUT);
    dyn_http_call_free(call);
    dyn_http_client_unref(client);
}

static void a_silent_server_is_timed_out_in_a_thread_and_in_a_hub(void)
{
    script s = {.say = "", .stay = true, .times = 2};
    dyn_http_client *client;
    dyn_http_call *call;
    dyn_http_hub *hub;
    perform(&s);
    CHECK_EQ(dyn_http_client_new(&client, s.url, NULL), DYN_OK);
    dyn_http_request request = post("/", "x", 1);
    request.timeout_ms = 50;
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    CHECK_EQ(run(call), DYN_ETIMEDOUT);
    CHECK(strstr(dyn_error_detail(), "Request timed out after 50ms, waiting for the answer") != NULL);
    dyn_http_call_free(call);
    CHECK_EQ(dyn_http_hub_new(&hub), DYN_OK);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    dyn_http_hub_start(hub, call, NULL);
    CHECK_EQ(drain(hub, 1), 0);
    dyn_http_hub_free(hub);
    dyn_http_client_unref(client);
    curtain(&s);
}

static void answers_of_every_framing_are_read(void)
{
    static const struct {
        const char *say, *body;
        int status;
    } table[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200},
        {"HTTP/1.1 200 \r\nContent-Length:5\r\nEmpty:\r\n\r\nhello", "hello", 200},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n",
         "hello", 200},
        {"HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", 200},
        {"HTTP/1.0 200 OK\r\n\r\nto the end", "to the end", 200},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
         "2\r\n\r\nok",
         "ok", 200},
        {"HTTP/1.1 204 No Content\r\n\r\n", "", 204},
        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", "", 304},
        {"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "", 503},
    };
    for (size_t i = 0; i < DYN__COUNT(table); i++)
        for (int slowly = 0; slowly < 2; slowly++) {
            script s = {.say = table[i].say, .slowly = slowly};
            char body[100];
            int status = 0;
            int rc = get(&s, NULL, 0, body, &status);
            if (rc != DYN_OK) fprintf(stderr, "answer %zu: %s\n", i, dyn_error_detail());
            CHECK_EQ(rc, DYN_OK);
            CHECK_EQ(status, table[i].status);
            CHECK_STR(body, table[i].body);
        }
}

#define INTERIM "HTTP/1.1 100 Continue\r\n\r\n"
static void answers_that_are_not_http_are_refused(void)
{
    static const struct {
        const char *say;
        int rc;
        const char *why;
    } table[] = {
        {"", DYN_EBROKEN, "without an answer"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", DYN_EBROKEN, "2 bytes before the end"},
        {"HTTP/1.1 200 OK\r\nContent-Le", DYN_EBROKEN, "without an answer"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", DYN_EBROKEN, "before the end"},
        {"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", DYN_EPROTO, "begins with \"SSH-2.0"},
        {"\x15\x03\x01 and so on, for some bytes", DYN_EPROTO, "use https://"},
        {"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\n folded: yes\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 200 OK\r\nbad name: yes\r\n\r\n", DYN_EPROTO, ""},
        {"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", DYN_EPROTO, "nobody asked"},
        {"HTTP/1.1 999 What\r\n\r\n", DYN_EPROTO, ""},
        {INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM, DYN_EPROTO, "interim"},
    };
    for (size_t i = 0; i < DYN__COUNT(table); i++)
        for (int slowly = 0; slowly < 2; slowly++) {
            script s = {.say = table[i].say, .slowly = slowly, .read_all = true};
            int rc = get(&s, NULL, 0, NULL, NULL);
            if (rc != table[i].rc || strstr(dyn_error_detail(), table[i].why) == NULL)
                fprintf(stderr, "answer %zu: %s\n", i, dyn_error_detail());
            CHECK_EQ(rc, table[i].rc);
            CHECK(strstr(dyn_error_detail(), table[i].why) != NULL);
        }
}

static void answers_over_a_limit_are_refused(void)
{
    char *many = malloc(200 * 1024);
    dyn_http_client_settings small = {.max_response_bytes = 100, .max_header_bytes = 1000, .max_headers = 10};
    script length = {.say = "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", .read_all = true};
    CHECK_EQ(get(&length, &small, 0, NULL, NULL), DYN_ELIMIT);
    CHECK(strstr(dyn_error_detail(), "limit of 100 bytes") != NULL ||
          strstr(dyn_error_detail(), "limit of 100:") != NULL);

    strcpy(many, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n60\r\n");
    memset(many + strlen(many), 'x', 0x60);
    many[strlen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n60\r\n") + 0x60] = 0;
    strcat(many, "\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    script chunks = {.say = many, .read_all = true};
    CHECK_EQ(get(&chunks, &small, 0, NULL, NULL), DYN_ELIMIT);

    strcpy(many, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 11; i++) strcat(many, "A: b\r\n");
    strcat(many, "\r\n");
    script fields = {.say = many, .read_all = true};
    CHECK_EQ(get(&fields, &small, 0, NULL, NULL), DYN_ELIMIT);

    strcpy(many, "HTTP/1.1 200 OK\r\nLong: ");
    size_t n = strlen(many);
    memset(many + n, 'y', 100 * 1024);
    many[n + 100 * 1024] = 0;
    script head = {.say = many, .read_all = true};
    CHECK_EQ(get(&head, &small, 0, NULL, NULL), DYN_ELIMIT);
    script endless = {.say = many, .read_all = true};
    CHECK_EQ(get(&endless, NULL, 0, NULL, NULL), DYN_ELIMIT);
    free(many);
}

static void a_dead_kept_alive_connection_is_found_before_it_is_used(void)
{
    script s = {.say = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", .times = 3};
    dyn_http_client *client;
    perform(&s); /* answers once a connection, then closes it without a word */
    CHECK_EQ(dyn_http_client_new(&client, s.url, NULL), DYN_OK);
    for (int i = 0; i < 3; i++) {
        dyn_http_call *call;
        dyn_http_request request = post("/", "x", 1);
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        CHECK_EQ(run(call), DYN_OK);
        CHECK(body_is(call, "ok"));
        dyn_http_call_free(call);
        struct timespec while_it_closes = {0, 20000000};
        nanosleep(&while_it_closes, NULL);
    }
    dyn_http_client_stats stats;
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.opened, 3);
    CHECK_EQ(stats.reused, 0);
    dyn_http_client_unref(client);
    curtain(&s);
}

static void an_answer_with_something_behind_it_ends_its_connection(void)
{
    script s = {.say = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", .stay = true};
    dyn_http_client *client;
    dyn_http_call *call;
    dyn_http_client_stats stats;
    perform(&s);
    CHECK_EQ(dyn_http_client_new(&client, s.url, NULL), DYN_OK);
    dyn_http_request request = post("/", "x", 1);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    CHECK_EQ(run(call), DYN_OK);
    CHECK(body_is(call, "ok"));
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.idle, 0);
    dyn_http_call_free(call);
    dyn_http_client_unref(client);
    curtain(&s);
}

static void an_answer_before_the_end_of_the_request_is_heard(void)
{
    enum { SIZE = 32 << 20 };
    script s = {.say = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig", .deaf = true};
    dyn_http_client *client;
    dyn_http_call *call;
    char *body = calloc(1, SIZE);
    perform(&s);
    CHECK_EQ(dyn_http_client_new(&client, s.url, NULL), DYN_OK);
    dyn_http_request request = post("/", body, SIZE);
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
    CHECK_EQ(run(call), DYN_OK);
    CHECK_EQ(dyn_http_call_status(call), 413);
    CHECK(body_is(call, "big"));
    dyn_http_call_free(call);
    dyn_http_client_unref(client);
    curtain(&s);
    CHECK(s.heard < SIZE);
    free(body);
}

static void urls_that_cannot_be_are_refused(void)
{
    static const char *const bad[] = {"",           "localhost:8000",   "ftp://x",        "http://",
                                      "http://:80", "http://a:0",       "http://a:65536", "http://a:8x",
                                      "http://a:",  "http://user:pw@a", "http://a?x=1",   "http://a#x",
                                      "http://a b", "http://a\r\nX: y", "http://[::1",    "http://[::1]x",
                                      "http://a,b", "http://\xc3\xa9"};
    dyn_http_client *client = NULL;
    for (size_t i = 0; i < DYN__COUNT(bad); i++) {
        int rc = dyn_http_client_new(&client, bad[i], NULL);
        if (rc != DYN_EINVAL) fprintf(stderr, "taken: %s\n", bad[i]);
        CHECK_EQ(rc, DYN_EINVAL);
        CHECK(strstr(dyn_error_detail(), "pw") == NULL);
    }
    static const char *const good[] = {"http://a", "HTTPS://a.b-c_d:1/", "http://[::1]:80/x/y/",
                                       "http://127.0.0.1:65535"};
    for (size_t i = 0; i < DYN__COUNT(good); i++) {
        CHECK_EQ(dyn_http_client_new(&client, good[i], NULL), DYN_OK);
        dyn_http_client_unref(client);
    }
}

static void headers_and_paths_that_cannot_be_are_refused(void)
{
    CHECK_EQ(dyn_http_header_check("X-Key", 5, "a b\tc", 5), DYN_OK);
    CHECK_EQ(dyn_http_header_check("X-Key", 5, "\xc3\xa9", 2), DYN_OK);
    CHECK_EQ(dyn_http_header_check("X-Key", 5, "a\r\nB: c", 7), DYN_EINVAL);
    CHECK_EQ(dyn_http_header_check("X-Key", 5, "a\0b", 3), DYN_EINVAL);
    CHECK_EQ(dyn_http_header_check("X Key", 5, "a", 1), DYN_EINVAL);
    CHECK_EQ(dyn_http_header_check("", 0, "a", 1), DYN_EINVAL);
    CHECK_EQ(dyn_http_header_check("X:", 2, "a", 1), DYN_EINVAL);
    CHECK_EQ(dyn_http_header_check("content-LENGTH", 14, "1", 1), DYN_EINVAL);
    dyn_http_client *client;
    dyn_http_call *call = NULL;
    CHECK_EQ(dyn_http_client_new(&client, "http://127.0.0.1:1/base/", NULL), DYN_OK);
    static const char *const paths[] = {"", "x", "/a b", "/a\r\nb", "/a#b", "/\xc3\xa9"};
    for (size_t i = 0; i < DYN__COUNT(paths); i++) {
        dyn_http_request request = post(paths[i], NULL, 0);
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_EINVAL);
    }
    dyn_http_request request = post("/", NULL, 0);
    request.headers = "A: b\r\n\r\nGET", request.headers_length = 11;
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_EINVAL);
    request.headers = "A: b", request.headers_length = 4;
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_EINVAL);
    request = post("/", NULL, 0);
    request.method = "PO ST";
    CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_EINVAL);
    dyn_http_client_unref(client);
}

static void a_child_of_fork_makes_its_own_connection(void)
{
    dyn_http_client *client;
    dyn_http_client_stats stats;
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, NULL), DYN_OK);
    for (int i = 0; i < 2; i++) {
        dyn_http_call *call;
        dyn_http_request request = post("/echo", "parent", 6);
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        CHECK_EQ(run(call), DYN_OK);
        CHECK(body_is(call, "parent"));
        dyn_http_call_free(call);
        if (i > 0) break;
        pid_t child = fork();
        if (child == 0) {
            request = post("/echo", "child", 5);
            bool good =
                dyn_http_call_new(&call, client, &request) == DYN_OK && run(call) == DYN_OK && body_is(call, "child");
            dyn_http_client_stats_read(client, &stats);
            _exit(good && stats.opened == 2 ? 0 : 1);
        }
        int how = -1;
        CHECK_EQ(waitpid(child, &how, 0), child);
        CHECK_EQ(how, 0);
    }
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.opened, 1); /* the child left the parent's connection alone */
    CHECK_EQ(stats.reused, 1);
    dyn_http_client_unref(client);
}

static void *call_often(void *arg)
{
    dyn_http_client *client = arg;
    for (int i = 0; i < 100; i++) {
        dyn_http_call *call;
        dyn_http_request request = post("/echo", "thread", 6);
        CHECK_EQ(dyn_http_call_new(&call, client, &request), DYN_OK);
        CHECK_EQ(run(call), DYN_OK);
        CHECK(body_is(call, "thread"));
        dyn_http_call_free(call);
    }
    return NULL;
}
static void threads_share_a_client(void)
{
    pthread_t threads[8];
    dyn_http_client *client;
    dyn_http_client_settings settings = {.max_idle = 3};
    start_server();
    CHECK_EQ(dyn_http_client_new(&client, url, &settings), DYN_OK);
    for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&threads[i], NULL, call_often, client), 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    dyn_http_client_stats stats;
    dyn_http_client_stats_read(client, &stats);
    CHECK_EQ(stats.calls, 800);
    CHECK(stats.idle <= 3);
    dyn_http_client_unref(client);
}

static void every_allocation_may_fail(void)
{
    start_server();
    EACH_ALLOCATION_FAILS {
        dyn_http_client *client = NULL;
        dyn_http_call *call = NULL;
        dyn_http_request request = post("/echo", "hello", 5);
        if ((rc = dyn_http_client_new(&client, url, NULL)) == DYN_OK &&
            (rc = dyn_http_call_new(&call, client, &request)) == DYN_OK && (rc = run(call)) == DYN_OK)
            CHECK(body_is(call, "hello"));
        dyn_http_call_free(call);
        dyn_http_client_unref(client);
    }
    EACH_ALLOCATION_FAILS {
        dyn_http_client *client = NULL;
        dyn_http_call *call = NULL;
        dyn_http_hub *hub = NULL;
        dyn_http_request request = post("/echo", "hello", 5);
        if ((rc = dyn_http_client_new(&client, url, NULL)) == DYN_OK && (rc = dyn_http_hub_new(&hub)) == DYN_OK &&
            (rc = dyn_http_call_new(&call, client, &request)) == DYN_OK) {
            dyn_http_hub_start(hub, call, NULL);
            struct pollfd ready = {.fd = dyn_http_hub_fd(hub), .events = POLLIN};
            while (dyn_http_call_phase_of(call) < DYN_HTTP_CALL_DONE && poll(&ready, 1, 5000) == 1)
                dyn_http_hub_turn(hub);
            rc = dyn_http_call_error(call);
        }
        dyn_http_call_free(call);
        dyn_http_hub_free(hub);
        dyn_http_client_unref(client);
    }
}

static void the_server_is_stopped(void)
{
    dyn_http_server_free(server);
    dyn_loop_unref(loop);
}

TEST_MAIN(TEST(calls_in_this_thread_share_one_connection), TEST(large_bodies_go_straight_to_where_they_belong),
          TEST(a_streamed_answer_comes_in_pieces), TEST(a_request_body_can_follow_in_pieces),
          TEST(many_calls_run_at_once_in_a_hub), TEST(a_hub_survives_calls_that_are_dropped_anywhere),
          TEST(a_refused_connection_says_so_and_a_storm_of_them_does_not_recurse),
          TEST(a_name_without_an_address_is_no_connection), TEST(a_silent_server_is_timed_out_in_a_thread_and_in_a_hub),
          TEST(answers_of_every_framing_are_read), TEST(answers_that_are_not_http_are_refused),
          TEST(answers_over_a_limit_are_refused), TEST(a_dead_kept_alive_connection_is_found_before_it_is_used),
          TEST(an_answer_with_something_behind_it_ends_its_connection),
          TEST(an_answer_before_the_end_of_the_request_is_heard), TEST(urls_that_cannot_be_are_refused),
          TEST(headers_and_paths_that_cannot_be_are_refused), TEST(a_child_of_fork_makes_its_own_connection),
          TEST(threads_share_a_client), TEST(every_allocation_may_fail), TEST(the_server_is_stopped))
