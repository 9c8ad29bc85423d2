#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "dynamo/http.h"
#include "test.h"

static dyn_loop *loop;
static dyn_http_server *server;
static uint16_t port;

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}
static void send_text(int fd, const char *text)
{
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}
/* Read until the other side closes, the text has come, or 5 s are over. */
static char got[1 << 20];
static size_t read_until(int fd, const char *text)
{
    size_t length = 0;
    got[0] = 0;
    while (length < sizeof(got) - 1 && (text == NULL || strstr(got, text) == NULL)) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, 5000) != 1) break;
        ssize_t n = recv(fd, got + length, sizeof(got) - 1 - length, 0);
        if (n <= 0) break;
        length += (size_t)n;
        got[length] = 0;
    }
    return length;
}
static bool has(const char *text)
{
    if (strstr(got, text) != NULL) return true;
    fprintf(stderr, "no \"%s\" in: %.600s\n", text, got);
    return false;
}
static int count(const char *text)
{
    int n = 0;
    for (const char *at = got; (at = strstr(at, text)) != NULL; at++) n++;
    return n;
}
/* One request on a connection of its own, to its end. */
static void ask(const char *request)
{
    int fd = dial();
    send_text(fd, request);
    read_until(fd, NULL);
    close(fd);
}

static void echo(void *user, dyn_http_exchange *x)
{
    size_t length;
    const uint8_t *body = dyn_http_body(x, &length);
    (void)user;
    CHECK_EQ(body[length], 0);
    int rc = dyn_http_respond(x, 200, "text/plain", body, length);
    CHECK(rc == DYN_OK || rc == DYN_ENOMEM); /* the latter where allocations are made to fail */
    if (rc == DYN_OK) CHECK_EQ(dyn_http_respond(x, 200, "text/plain", body, length), DYN_EBUSY);
    dyn_http_exchange_unref(x);
}

/* A stream whose events come from another thread. */
enum { EVENTS = 1000 };
static void *send_events(void *arg)
{
    dyn_http_exchange *x = arg;
    char line[64];
    for (int i = 0; i < EVENTS; i++) {
        int rc = dyn_http_write(x, line, (size_t)snprintf(line, sizeof(line), "data: %d\n\n", i));
        if (rc == DYN_EAGAIN) {
            struct timespec nap = {.tv_nsec = 1000000};
            nanosleep(&nap, NULL);
            i--;
        } else if (rc < 0)
            break;
    }
    dyn_http_end(x);
    dyn_http_exchange_unref(x);
    return NULL;
}
static void stream(void *user, dyn_http_exchange *x)
{
    pthread_t thread;
    (void)user;
    CHECK_EQ(dyn_http_begin(x, 200, "text/event-stream"), DYN_OK);
    pthread_create(&thread, NULL, send_events, x);
    pthread_detach(thread);
}

static void drop(void *user, dyn_http_exchange *x)
{
    (void)user;
    dyn_http_exchange_unref(x);
}

static void start(const dyn_http_settings *settings)
{
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_http_server_new(&server, loop, settings), DYN_OK);
    CHECK_EQ(dyn_http_route(server, "POST", "/echo", 0, echo, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(server, "POST", "/echo", 0, echo, NULL), DYN_EEXIST);
    CHECK_EQ(dyn_http_route(server, "GET", "/stream", 0, stream, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(server, "GET", "/drop", 0, drop, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route_static(server, "/live", DYN_HTTP_OPEN, 200, "application/json", "{}", 2), DYN_OK);
    CHECK_EQ(dyn_http_route_static(server, "/files/", DYN_HTTP_PREFIX, 200, "text/plain", "file", 4), DYN_OK);
    CHECK_EQ(dyn_http_server_listen(server, NULL, 0, &port), DYN_OK);
}
static void stop(void)
{
    dyn_http_server_free(server);
    dyn_loop_unref(loop);
}

static void requests_on_one_connection_are_answered_in_order(void)
{
    start(NULL);
    int fd = dial();
    send_text(fd,
              "GET /live HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
              "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nHEAD /files/a HTTP/1.1\r\nHost: x\r\n\r\n"
              "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
              "chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: 1\r\n\r\n");
    read_until(fd, NULL);
    CHECK(has("\r\n\r\n{}HTTP/1.1 200 OK"));
    CHECK(has("\r\n\r\nhelloHTTP/1.1 404 Not Found"));
    CHECK(has("\"type\":\"not_found_error\""));
    CHECK(has("Content-Length: 4\r\nx-request-id: "));
    CHECK(has("Connection: close"));
    CHECK_EQ(count("HTTP/1.1"), 5);
    CHECK_EQ(count("Date: "), 5);
    CHECK_STR(got + strlen(got) - 9, "\r\n\r\nabcde");
    close(fd);
    stop();
}

static void a_stream_from_another_thread_arrives_whole(void)
{
    start(NULL);
    ask("GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK(has("Transfer-Encoding: chunked"));
    CHECK(has("data: 999\n\n\r\n0\r\n\r\n"));
    CHECK_EQ(count("data: "), EVENTS);
    ask("GET /stream HTTP/1.0\r\n\r\n");
    CHECK_EQ(count("chunked"), 0);
    CHECK_EQ(count("data: "), EVENTS);
    ask("GET /drop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK(has("HTTP/1.1 500"));
    stop();
}

/* ---- refusals ---------------------------------------------------------------------------------- */

static char big[300 * 1024];
static const char *filled(const char *before, char fill, size_t times, const char *after)
{
    size_t at = strlen(before);
    memcpy(big, before, at);
    memset(big + at, fill, times);
    strcpy(big + at + times, after);
    return big;
}

static void malformed_requests_are_refused_with_their_status(void)
{
#define POST "POST /echo HTTP/1.1\r\nHost: x\r\n"
    static const struct {
        int status;
        const char *request;
    } cases[] = {
        {400, "garbage\r\n\r\n"},
        {400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls hello\r\n\r\n"},
        {501, "BREW /echo HTTP/1.1\r\nHost: x\r\n\r\n"},
        {505, "GET /live HTTP/2.0\r\nHost: x\r\n\r\n"},
#ifdef DYN_LLHTTP
        {400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"},
#endif
        {400, "GET /live\r\n\r\n"},
        {400, "GET live HTTP/1.1\r\nHost: x\r\n\r\n"},
        {400, "GET /live HTTP/1.1\r\n\r\n"}, /* no Host */
        {400, "GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"},
        {400, "GET /live HTTP/1.1\nHost: x\n\n"},                     /* bare LF */
        {400, "GET /live HTTP/1.1\r\nHost: x\rX: y\r\n\r\n"},         /* bare CR */
        {400, "GET /live HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"}, /* folded */
        {400, "GET /live HTTP/1.1\r\n Host: x\r\n\r\n"},
        {400, "GET /live HTTP/1.1\r\nHost : x\r\n\r\n"},
        {400, "GET /live HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n"},
        {400, "GET /live HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n"},
        {400, "GET /live HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"},
        {400, POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"},
        {400, POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"},
        {400, POST "Content-Length: 5, 5\r\n\r\nhello"},
        {400, POST "Content-Length: -1\r\n\r\n"},
        {400, POST "Content-Length: +5\r\n\r\nhello"},
        {400, POST "Content-Length: 0x5\r\n\r\nhello"},
        {400, POST "Content-Length: 99999999999999999999999\r\n\r\nhello"},
        {400, POST "Content-Length: \r\n\r\nhello"},
        {400, POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
        {501, POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
        {417, POST "Expect: a miracle\r\nContent-Length: 5\r\n\r\nhello"},
        {501, "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"},
        {404, "GET /no HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
        {405, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
        {404, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
        {200, "GET http://x/live?a=1#b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
        {200, "\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, close\r\n\r\n"},
        {200, "GET /live HTTP/1.1\r\nhost:x\r\nA:  b  \r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n"},
        {200, POST "Connection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"},
        {413, POST "Content-Length: 2000000\r\n\r\n"},
    };
    dyn_http_settings settings = {.max_body_bytes = 1000000};
    start(&settings);
    for (size_t i = 0; i < DYN__COUNT(cases); i++) {
        char want[32];
        ask(cases[i].request);
        snprintf(want, sizeof(want), "HTTP/1.1 %d ", cases[i].status);
        /* The 100 comes before the answer. */
        const char *answer = strncmp(got, "HTTP/1.1 100 Continue\r\n\r\n", 25) == 0 ? got + 25 : got;
        if (strncmp(answer, want, strlen(want)) != 0) {
            fprintf(stderr, "case %zu: want %d, got %.40s\n  for %.200s\n", i, cases[i].status, got, cases[i].request);
            test_failures++;
        }
        if (cases[i].status >= 400)
            CHECK(strstr(got, "{\"error\":{\"message\":\"") != NULL && strstr(got, "Connection: close") != NULL);
    }
    /* Each of these again, one byte at a time: the pieces must not matter. */
    for (size_t i = 0; i < DYN__COUNT(cases); i++) {
        char want[32];
        int fd = dial(), one = 1;
        setsockopt(fd, 6 /* TCP */, 1 /* NODELAY */, &one, sizeof(one));
        for (const char *at = cases[i].request; *at != 0; at++)
            if (send(fd, at, 1, MSG_NOSIGNAL) != 1) break;
        read_until(fd, NULL);
        close(fd);
        snprintf(want, sizeof(want), "HTTP/1.1 %d ", cases[i].status);
        CHECK(strstr(got, want) != NULL);
    }
    ask(filled("GET /", 'a', 9000, " HTTP/1.1\r\nHost: x\r\n\r\n"));
    CHECK(has("HTTP/1.1 414"));
    ask(filled("GET /live HTTP/1.1\r\nHost: x\r\nA: ", 'a', 40000, "\r\n\r\n"));
    CHECK(has("HTTP/1.1 431"));
    ask(filled("GET /live HTTP/1.1\r\nHost: x\r\n", 'a', 40000, ": b\r\n\r\n"));
    CHECK(has("HTTP/1.1 431"));
    size_t at = (size_t)sprintf(big, "GET /live HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 120; i++) at += (size_t)sprintf(big + at, "A%d: b\r\n", i);
    strcpy(big + at, "\r\n");
    ask(big);
    CHECK(has("HTTP/1.1 431"));
    /* Chunks of one byte are allowed, extensions without end are not. */
    at = (size_t)sprintf(big, POST "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 5000; i++) at += (size_t)sprintf(big + at, "1\r\nx\r\n");
    strcpy(big + at, "0\r\n\r\n");
    ask(big);
    CHECK(has("HTTP/1.1 200") && has("Content-Length: 5000"));
    ask(filled(POST "Transfer-Encoding: chunked\r\n\r\n1;", 'x', 200000, "\r\nx\r\n0\r\n\r\n"));
    CHECK(has("HTTP/1.1 400"));
    dyn_http_stats stats;
    dyn_http_server_stats(server, &stats);
    CHECK(stats.malformed > 2 * 35);
    CHECK_EQ(stats.body_bytes, 0);
    stop();
}

static void a_key_is_asked_for_except_on_open_routes(void)
{
    dyn_http_settings settings = {.api_key = "secret", .allow_origin = "https://a.b"};
    start(&settings);
#define REST "Host: x\r\nConnection: close\r\n"
    ask("GET /files/a HTTP/1.1\r\n" REST "\r\n");
    CHECK(has("HTTP/1.1 401") && has("WWW-Authenticate: Bearer") && has("authentication_error"));
    ask("GET /files/a HTTP/1.1\r\n" REST "Authorization: Bearer secreT\r\n\r\n");
    CHECK(has("HTTP/1.1 401"));
    ask("GET /files/a HTTP/1.1\r\n" REST "Authorization: Bearer secretsecret\r\n\r\n");
    CHECK(has("HTTP/1.1 401"));
    ask("GET /no HTTP/1.1\r\n" REST "\r\n"); /* what exists is not told without the key */
    CHECK(has("HTTP/1.1 401"));
    ask("GET /files/a HTTP/1.1\r\n" REST "authorization: bearer secret\r\nx-request-id: abc-1\r\n\r\n");
    CHECK(has("HTTP/1.1 200") && has("x-request-id: abc-1\r\n") &&
          has("Access-Control-Allow-Origin: https://a.b\r\nVary: Origin"));
    ask("GET /live HTTP/1.1\r\n" REST "\r\n");
    CHECK(has("HTTP/1.1 200"));
    ask("OPTIONS /echo HTTP/1.1\r\n" REST "Origin: https://a.b\r\nAccess-Control-Request-Method: POST\r\n\r\n");
    CHECK(has("HTTP/1.1 204") && has("Access-Control-Allow-Methods"));
    CHECK_EQ(count("Content-Length"), 0);
    ask("POST /echo HTTP/1.1\r\n" REST "Expect: 100-continue\r\nContent-Length: 900000\r\n\r\n");
    CHECK(strncmp(got, "HTTP/1.1 401", 12) == 0); /* no 100: the body need not come */
    stop();
    settings.api_key = "";
    dyn_http_server *none = NULL;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_http_server_new(&none, loop, &settings), DYN_EINVAL);
    dyn_loop_unref(loop);
}

/* ---- time, loss, back-pressure ------------------------------------------------------------------ */

static void slow_clients_are_told_or_cut(void)
{
    dyn_http_settings settings = {
        .header_timeout_ms = 150, .body_timeout_ms = 150, .idle_timeout_ms = 300, .write_timeout_ms = 150};
    start(&settings);
    int silent = dial(), header = dial(), body = dial(), idle = dial();
    send_text(header, "GET /live HT");
    send_text(body, POST "Content-Length: 100\r\n\r\nab");
    send_text(idle, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    read_until(header, NULL);
    CHECK(has("HTTP/1.1 408"));
    read_until(body, NULL);
    CHECK(has("HTTP/1.1 408"));
    CHECK_EQ(read_until(silent, NULL), 0);
    read_until(idle, NULL);
    CHECK(has("HTTP/1.1 200"));
    close(silent), close(header), close(body), close(idle);
    dyn_http_stats stats;
    dyn_http_server_stats(server, &stats);
    CHECK_EQ(stats.timed_out, 2);
    stop();
}

/* A handler that keeps its exchange for the test. */
static _Atomic(dyn_http_exchange *) kept;
static atomic_int closed_calls, done_calls, drain_calls;
static void count_closed(void *user)
{
    (void)user;
    closed_calls++;
}
static void count_done(void *user)
{
    (void)user;
    done_calls++;
}
static void count_drain(void *user)
{
    (void)user;
    drain_calls++;
}
static const dyn_http_events counters = {count_drain, count_closed, count_done};
static void keep(void *user, dyn_http_exchange *x)
{
    (void)user;
    CHECK_EQ(dyn_http_watch(x, &counters, NULL), DYN_OK);
    CHECK_EQ(dyn_http_watch(x, &counters, NULL), DYN_EBUSY);
    kept = x;
}
static dyn_http_exchange *take_kept(void)
{
    for (int i = 0; i < 5000 && kept == NULL; i++) usleep(1000);
    return atomic_exchange(&kept, NULL);
}
static bool within_5s(atomic_int *number, int want)
{
    for (int i = 0; i < 5000 && *number != want; i++) usleep(1000);
    return *number == want;
}

static void a_client_that_never_reads_costs_bounded_memory_and_is_cut(void)
{
    dyn_http_settings settings = {.max_pending_bytes = 1 << 20, .write_timeout_ms = 300};
    static char block[64 * 1024];
    closed_calls = done_calls = drain_calls = 0;
    start(&settings);
    CHECK_EQ(dyn_http_route(server, "GET", "/keep", 0, keep, NULL), DYN_OK);
    int fd = dial();
    send_text(fd, "GET /keep HTTP/1.1\r\nHost: x\r\n\r\n");
    dyn_http_exchange *x = take_kept();
    CHECK(x != NULL);
    CHECK_EQ(dyn_http_write(x, block, 1), DYN_EBUSY);
    CHECK_EQ(dyn_http_begin(x, 200, "text/event-stream"), DYN_OK);
    int rc, refused = 0;
    size_t most = 0;
    uint64_t patience = dyn_now_ns() + UINT64_C(10000000000);
    while ((rc = dyn_http_write(x, block, sizeof(block))) != DYN_ECLOSED && dyn_now_ns() < patience) {
        if (rc == DYN_EAGAIN) refused++, usleep(1000);
        size_t pending = dyn_http_pending(x);
        if (pending > most) most = pending;
    }
    CHECK_EQ(rc, DYN_ECLOSED);
    CHECK(refused > 0);
    CHECK(most <= (1 << 20) + sizeof(block));
    CHECK(dyn_http_closed(x));
    CHECK(within_5s(&closed_calls, 1) && within_5s(&done_calls, 1));
    CHECK_EQ(dyn_http_end(x), DYN_ECLOSED);
    dyn_http_exchange_unref(x);
    close(fd);
    stop();
}

static void congestion_ends_with_a_drain(void)
{
    static char block[64 * 1024];
    closed_calls = done_calls = drain_calls = 0;
    start(NULL);
    CHECK_EQ(dyn_http_route(server, "GET", "/keep", 0, keep, NULL), DYN_OK);
    int fd = dial();
    send_text(fd, "GET /keep HTTP/1.1\r\nHost: x\r\n\r\n");
    dyn_http_exchange *x = take_kept();
    CHECK_EQ(dyn_http_begin(x, 200, "text/plain"), DYN_OK);
    size_t sent = 0;
    memset(block, 'a', sizeof(block));
    while (dyn_http_write(x, block, sizeof(block)) == DYN_OK) sent += sizeof(block);
    CHECK(dyn_http_congested(x));
    drain_calls = 0; /* what the socket's own buffers took may have drained before */
    size_t back = 0;
    while (drain_calls == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, 5000) != 1) break;
        back += (size_t)recv(fd, got, sizeof(got), 0);
    }
    CHECK_EQ(drain_calls, 1);
    CHECK(!dyn_http_congested(x) && dyn_http_pending(x) <= 64 * 1024);
    CHECK_EQ(dyn_http_end(x), DYN_OK);
    dyn_http_exchange_unref(x);
    while (back < sent) {
        ssize_t n = recv(fd, got, sizeof(got), 0);
        if (n <= 0) break;
        back += (size_t)n;
    }
    CHECK(back >= sent);
    CHECK(within_5s(&done_calls, 1));
    CHECK_EQ(closed_calls, 0);
    /* The connection is good for the next one. */
    send_text(fd, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    read_until(fd, "{}");
    CHECK(has("200 OK"));
    close(fd);
    stop();
}

static void a_half_closed_client_gets_its_answer_and_a_gone_one_is_told(void)
{
    closed_calls = done_calls = 0;
    start(NULL);
    CHECK_EQ(dyn_http_route(server, "GET", "/keep", 0, keep, NULL), DYN_OK);
    int fd = dial();
    send_text(fd, "GET /keep HTTP/1.1\r\nHost: x\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    shutdown(fd, SHUT_WR);
    dyn_http_exchange *x = take_kept();
    CHECK(within_5s(&closed_calls, 1));
    CHECK_EQ(dyn_http_respond(x, 200, "text/plain", "all the same", 12), DYN_OK);
    dyn_http_exchange_unref(x);
    read_until(fd, NULL);
    CHECK(has("all the sameHTTP/1.1 200 OK") && has("{}"));
    close(fd);

    fd = dial();
    send_text(fd, "GET /keep HTTP/1.1\r\nHost: x\r\n\r\n");
    x = take_kept();
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd); /* a reset */
    CHECK(within_5s(&closed_calls, 2) && within_5s(&done_calls, 2));
    CHECK_EQ(dyn_http_respond(x, 200, NULL, "", 0), DYN_ECLOSED);
    dyn_http_exchange_unref(x);
    stop();
}

static void too_many_connections_are_told(void)
{
    dyn_http_settings settings = {.max_connections = 2};
    start(&settings);
    int a = dial(), b = dial();
    send_text(a, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    read_until(a, "{}");
    send_text(b, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    read_until(b, "{}");
    int c = dial();
    read_until(c, NULL);
    CHECK(has("HTTP/1.1 503") && has("Retry-After") && has("\"code\":\"connections\"}}\n"));
    close(a), close(b), close(c);
    stop();
}

static atomic_int stopped;
static void note_stopped(void *user)
{
    (void)user;
    stopped++;
}
static void a_graceful_stop_lets_answers_end(void)
{
    for (int in_time = 0; in_time < 2; in_time++) {
        uint16_t again;
        closed_calls = done_calls = stopped = 0;
        start(NULL);
        CHECK_EQ(dyn_http_route(server, "GET", "/keep", 0, keep, NULL), DYN_OK);
        int fd = dial(), idle = dial();
        send_text(idle, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
        read_until(idle, "{}");
        send_text(fd, "GET /keep HTTP/1.1\r\nHost: x\r\n\r\n");
        dyn_http_exchange *x = take_kept();
        CHECK_EQ(dyn_http_server_stop(server, in_time ? 5000 : 100, note_stopped, NULL), DYN_OK);
        CHECK_EQ(dyn_http_server_stop(server, 5000, note_stopped, NULL), DYN_EBUSY);
        CHECK_EQ(dyn_http_server_listen(server, NULL, 0, &again), DYN_ECLOSED);
        CHECK_EQ(read_until(idle, NULL), 0);
        if (in_time) {
            CHECK_EQ(dyn_http_respond(x, 200, "text/plain", "done", 4), DYN_OK);
            read_until(fd, NULL);
            CHECK(has("Connection: close") && has("done"));
        } else
            CHECK_EQ(read_until(fd, NULL), 0);
        dyn_http_exchange_unref(x);
        close(fd), close(idle);
        CHECK(within_5s(&stopped, 1));
        stop();
    }
}

static int fail_allocations_here(void *arg)
{
    dyn__fail_after = *(int *)arg;
    return DYN_OK;
}

/* ---- answers that are not copied ------------------------------------------------------------------- */

enum { PIECES = 3000, LENT = 4096 };
static char owned[LENT];
static atomic_int released;
static void note_released(void *user)
{
    CHECK(user == owned);
    released++;
}
static void lend(void *user, dyn_http_exchange *x)
{
    static dyn_http_piece pieces[PIECES];
    (void)user;
    for (int i = 0; i < PIECES; i++) pieces[i] = (dyn_http_piece){owned, i % 3 != 1 ? LENT : 0};
    int rc = dyn_http_respond_pieces(x, 99, "text/plain", pieces, PIECES, note_released, owned);
    CHECK(rc == DYN_EINVAL || rc == DYN_ENOMEM);
    rc = dyn_http_respond_pieces(x, 200, "text/plain", pieces, PIECES, note_released, owned);
    CHECK(rc == DYN_OK || rc == DYN_ENOMEM);
    if (rc < 0) { /* the next one might get through */
        dyn_http_exchange_unref(x);
        return;
    }
    int again = dyn_http_respond_pieces(x, 200, NULL, pieces, 1, note_released, owned);
    CHECK(again == DYN_EBUSY || again == DYN_ENOMEM);
    memset(pieces, 0, sizeof(pieces));
    dyn_http_exchange_unref(x);
}

static void lent_pieces_are_sent_and_given_back(void)
{
    static char body[PIECES * LENT];
    size_t want = (size_t)PIECES / 3 * 2 * LENT, length = 0;
    memset(owned, 'o', sizeof(owned));
    released = 0;
    start(NULL);
    CHECK_EQ(dyn_http_route(server, "GET", "/lend", 0, lend, NULL), DYN_OK);
    int fd = dial();
    send_text(fd,
              "GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET /lend HTTP/1.1\r\nHost: x\r\n\r\nHEAD /lend HTTP/1.1\r\nHost: "
              "x\r\nConnection: close\r\n\r\n");
    usleep(20000); /* the kernel takes some, the rest waits */
    for (ssize_t n; (n = recv(fd, body + length, sizeof(body) - length, 0)) > 0;) length += (size_t)n;
    char *at = strstr(body, "Content-Length: 8192000\r\n");
    CHECK(at != NULL && (at = strstr(at, "\r\n\r\n")) != NULL);
    if (at == NULL) return;
    at += 4;
    size_t same = 0;
    while (same < want && at[same] == 'o') same++;
    CHECK_EQ(same, want);
    CHECK(strncmp(at + want, "HTTP/1.1 200 OK\r\n", 17) == 0);
    CHECK(within_5s(&released, 2));
    close(fd);
    fd = dial(); /* nobody reads: it is given back when the connection is cut */
    send_text(fd, "GET /lend HTTP/1.1\r\nHost: x\r\n\r\n");
    usleep(20000);
    close(fd);
    CHECK(within_5s(&released, 3));
    for (int nth = 0; nth < 12; nth++) {
        int never = -1, before = released;
        fd = dial();
        CHECK_EQ(dyn_loop_run(loop, fail_allocations_here, &nth), DYN_OK);
        send_text(fd, "GET /lend HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, 300);
        CHECK_EQ(dyn_loop_run(loop, fail_allocations_here, &never), DYN_OK);
        length = 0;
        for (ssize_t n; (n = recv(fd, body, sizeof(body), 0)) > 0;) length += (size_t)n;
        if (length > want) CHECK_EQ(released, before + 1);
        close(fd);
    }
    stop();
}

/* ---- bodies that come while their handler runs ---------------------------------------------------- */

#define LIVE "POST /live-body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

static atomic_int bodies; /* on_body calls */
static void note_body(void *user)
{
    (void)user;
    bodies++;
}
static const dyn_http_events live_events = {.on_body = note_body};
static atomic_bool greedy = true; /* does the handler's thread read? */
static atomic_int live_end;       /* what the last read gave */
static atomic_size_t live_total;

/* Writes back what it reads, as it comes, until "quit" comes or the body ends. */
static void *talk(void *arg)
{
    dyn_http_exchange *x = arg;
    char piece[5000];
    size_t size = 0;
    struct timespec nap = {.tv_nsec = 1000000};
    for (bool quit = false; !quit;) {
        int rc = greedy ? dyn_http_read(x, piece, sizeof(piece), &size) : DYN_EAGAIN;
        live_end = rc;
        if (rc == DYN_EAGAIN)
            nanosleep(&nap, NULL);
        else if (rc < 0)
            break;
        else {
            live_total += size;
            quit = memmem(piece, size, "quit", 4) != NULL;
            if (live_total < 1000) dyn_http_write(x, piece, size);
        }
    }
    dyn_http_end(x);
    dyn_http_exchange_unref(x);
    return NULL;
}
static void live(void *user, dyn_http_exchange *x)
{
    pthread_t thread;
    char early;
    size_t size;
    (void)user;
    CHECK_EQ(dyn_http_body(x, &size)[0], 0);
    CHECK_EQ(size, 0);
    live_end = dyn_http_read(x, &early, 1, &size);
    CHECK(live_end == DYN_EAGAIN || live_end == DYN_ECLOSED);
    CHECK_EQ(dyn_http_watch(x, &live_events, NULL), DYN_OK);
    CHECK_EQ(dyn_http_begin(x, 200, "text/plain"), DYN_OK);
    live_total = 0;
    pthread_create(&thread, NULL, talk, x);
    pthread_detach(thread);
}
static int start_live(const dyn_http_settings *settings, const char *request)
{
    start(settings);
    CHECK_EQ(dyn_http_route(server, "POST", "/live-body", DYN_HTTP_LIVE, live, NULL), DYN_OK);
    int fd = dial();
    send_text(fd, request);
    return fd;
}

static void a_live_body_is_read_and_answered_as_it_comes(void)
{
    bodies = 0;
    int fd = start_live(NULL, LIVE);
    read_until(fd, "chunked\r\n");
    for (char word[] = "5\r\nword0\r\n"; word[7] < '9'; word[7]++) {
        char want[] = "word0";
        want[4] = word[7];
        send_text(fd, word);
        read_until(fd, want);
        CHECK(has(want));
    }
    CHECK(bodies > 0);
    send_text(fd, "0\r\n\r\n" LIVE "1;x\r\n!\r\n0\r\nA: b\r\n\r\n"); /* and the next one on the same connection */
    read_until(fd, "0\r\n\r\nHTTP/1.1 200");
    if (strstr(got, "!\r\n") == NULL) read_until(fd, "!\r\n");
    CHECK(has("!\r\n"));
    send_text(fd, "POST /live-body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n");
    send_text(fd, "abc");
    read_until(fd, "abc");
    CHECK(has("abc"));
    send_text(fd, "POST /live-body HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    read_until(fd, NULL);
    CHECK(has("\r\n\r\n0\r\n\r\n"));
    close(fd);
    stop();
}

static void a_live_body_that_is_not_read_waits_in_its_sender(void)
{
    enum { PIECE = 64 * 1024, MOST = 64 << 20 };
    static char chunk[8 + PIECE + 2];
    dyn_http_settings settings = {.body_window_bytes = 10000, .max_body_bytes = 1000};
    dyn_http_stats stats;
    int few = 64 * 1024;
    greedy = false;
    int fd = start_live(&settings, LIVE);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &few, sizeof(few));
    memcpy(chunk, "10000\r\n", 7);
    memset(chunk + 7, 'x', PIECE);
    memcpy(chunk + 7 + PIECE, "\r\n", 2);
    size_t sent = 0, size = PIECE + 9;
    while (sent < MOST) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (poll(&ready, 1, 300) != 1) break;
        ssize_t n = send(fd, chunk + sent % size, size - sent % size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
    }
    CHECK(sent > 0 && sent < MOST / 2);
    dyn_http_server_stats(server, &stats);
    CHECK_EQ(stats.body_bytes, 10000);
    CHECK(stats.bytes_in < 1 << 20); /* the window, what waits to be parsed, one read */
    greedy = true;
    while (sent % size != 0) sent += (size_t)send(fd, chunk + sent % size, size - sent % size, MSG_NOSIGNAL);
    send_text(fd, "0\r\n\r\n");
    read_until(fd, "\r\n0\r\n\r\n");
    CHECK_EQ(live_total, sent / size * PIECE);
    CHECK_EQ(live_end, DYN_ECLOSED);
    close(fd);
    stop();
}

static void an_answer_may_end_before_the_request(void)
{
    int fd = start_live(NULL, LIVE "4\r\nquit\r\n");
    read_until(fd, "\r\n0\r\n\r\n");
    CHECK(has("quit"));
    send_text(fd, "3\r\nmor\r\n"); /* the rest is read off, and the connection is good again */
    send_text(fd, "0\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n");
    read_until(fd, "{}");
    CHECK(has("{}"));
    close(fd);
    fd = dial(); /* the rest never comes */
    send_text(fd, LIVE "4\r\nquit\r\n");
    read_until(fd, NULL);
    CHECK(has("\r\n0\r\n\r\n"));
    close(fd);
    stop();
}

static void a_live_body_that_breaks_is_told(void)
{
    int fd = start_live(NULL, LIVE "1\r\na\r\n");
    read_until(fd, "\r\na\r\n");
    send_text(fd, "no number\r\n");
    read_until(fd, NULL); /* the connection does not outlive it */
    CHECK(has("0\r\n\r\n"));
    CHECK_EQ(live_end, DYN_EPROTO);
    close(fd);
    fd = dial();
    send_text(fd, LIVE "1\r\na\r\n");
    read_until(fd, "\r\na\r\n");
    live_end = DYN_OK;
    close(fd);
    struct timespec nap = {.tv_nsec = 1000000};
    for (int i = 0; i < 5000 && live_end != DYN_EBROKEN; i++) nanosleep(&nap, NULL);
    CHECK_EQ(live_end, DYN_EBROKEN);
    stop();
}

/* ---- mail --------------------------------------------------------------------------------------- */

static void requests_and_events_travel_by_mail(void)
{
    int route_owner = 1, watch_owner = 2;
    dyn_mailbox *box;
    start(NULL);
    CHECK_EQ(dyn_mailbox_new(&box), DYN_OK);
    CHECK_EQ(dyn_http_route_mail(server, "GET", "/mail", 0, box, &route_owner), DYN_OK);
    int fd = dial();
    send_text(fd, "GET /mail?a=b HTTP/1.1\r\nHost: x\r\nX-Y: z\r\nX-Y: 2\r\n\r\n");
    CHECK_EQ(dyn_mailbox_wait(box, 5000), DYN_OK);
    dyn_mail *mail = dyn_mailbox_take(box);
    CHECK(mail != NULL && mail->owner == &route_owner);
    dyn_http_exchange *x = dyn_http_from_mail(mail);
    size_t length;
    CHECK_STR(dyn_http_path(x, &length), "/mail");
    CHECK_STR(dyn_http_query(x, &length), "a=b");
    CHECK_STR(dyn_http_header(x, "x-y", &length), "z");
    CHECK_EQ(dyn_http_header_count(x), 3);
    CHECK_STR(dyn_http_method(x), "GET");
    CHECK_EQ(strlen(dyn_http_request_id(x)), 32);
    CHECK(strncmp(dyn_http_peer(x), "127.0.0.1:", 10) == 0);
    CHECK_EQ(dyn_http_set_header(x, "X-A", "b"), DYN_OK);
    CHECK_EQ(dyn_http_set_header(x, "X-A", "b\r\nEvil: 1"), DYN_EINVAL);
    CHECK_EQ(dyn_http_set_header(x, "X A", "b"), DYN_EINVAL);
    CHECK_EQ(dyn_http_set_header(x, "Content-Length", "1"), DYN_EINVAL);
    CHECK_EQ(dyn_http_watch_mail(x, box, &watch_owner), DYN_OK);
    CHECK_EQ(dyn_http_watch_mail(x, box, &watch_owner), DYN_EBUSY);
    close(fd);
    CHECK_EQ(dyn_mailbox_wait(box, 5000), DYN_OK);
    mail = dyn_mailbox_take(box);
    CHECK(mail != NULL && mail->owner == &watch_owner);
    CHECK_EQ(dyn_http_event_from_mail(mail), DYN_HTTP_EVENT_CLOSED);
    CHECK(dyn_http_unwatch_mail(x));
    dyn_http_exchange_unref(x); /* unanswered */
    CHECK_EQ(dyn_http_unroute(server, "GET", "/mail", 0), DYN_OK);
    CHECK_EQ(dyn_http_unroute(server, "GET", "/mail", 0), DYN_ENOENT);
    CHECK_EQ(dyn_mailbox_wait(box, 5000), DYN_OK);
    mail = dyn_mailbox_take(box);
    CHECK(mail != NULL && mail->owner == &route_owner && dyn_http_from_mail(mail) == NULL);

    /* An exact route and a prefix of the same path are two, and go one by one. */
    CHECK_EQ(dyn_http_route_static(server, "/two", 0, 200, NULL, "exact", 5), DYN_OK);
    CHECK_EQ(dyn_http_route_static(server, "/two", DYN_HTTP_PREFIX, 200, NULL, "prefix", 6), DYN_OK);
    CHECK_EQ(dyn_http_route_static(server, "/two", DYN_HTTP_PREFIX, 200, NULL, "", 0), DYN_EEXIST);
    static const struct {
        const char *path, *answer;
        unsigned gone; /* taken away afterwards: 0 exact, 1 prefix */
    } asked[] = {{"/two", "exact", 0}, {"/two", "prefix", 2}, {"/two/x", "prefix", 1}, {"/two", "404", 2}};
    for (size_t i = 0; i < DYN__COUNT(asked); i++) {
        fd = dial();
        char text[80];
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", asked[i].path);
        send_text(fd, text);
        read_until(fd, NULL);
        CHECK(has(asked[i].answer));
        close(fd);
        if (asked[i].gone > 1) continue;
        CHECK_EQ(dyn_http_unroute(server, "GET", "/two", asked[i].gone ? DYN_HTTP_PREFIX : 0), DYN_OK);
        CHECK_EQ(dyn_http_unroute(server, "GET", "/two", asked[i].gone ? DYN_HTTP_PREFIX : 0), DYN_ENOENT);
    }

    /* A mail that nobody takes is answered when its box goes. */
    CHECK_EQ(dyn_http_route_mail(server, "GET", "/mail", 0, box, &route_owner), DYN_OK);
    fd = dial();
    send_text(fd, "GET /mail HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK_EQ(dyn_mailbox_wait(box, 5000), DYN_OK);
    CHECK_EQ(dyn_http_unroute(server, "GET", "/mail", 0), DYN_OK);
    dyn_mailbox_unref(box);
    read_until(fd, NULL);
    CHECK(has("HTTP/1.1 500"));
    close(fd);
    stop();
}

/* ---- memory ------------------------------------------------------------------------------------- */

static void failing_allocations_cost_an_answer_never_the_server(void)
{
    static const char request[] = POST "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: 7\r\nH: 8\r\nI: 9\r\nJ: "
                                       "1\r\nK: 1\r\nL: 1\r\nM: 1\r\nN: 1\r\n"
                                       "O: 1\r\nP: 1\r\nQ: 1\r\nR: 1\r\nS: 1\r\nT: 1\r\nU: 1\r\nV: 1\r\nConnection: "
                                       "close\r\nTransfer-Encoding: chunked\r\n\r\n"
                                       "5\r\nhello\r\n0\r\n\r\n";
    start(NULL);
    bool whole = false;
    for (int nth = 0; nth < 40 && !whole; nth++) { /* on the loop's thread the nth allocation fails, and all after it */
        int fd = dial(), never = -1;
        CHECK_EQ(dyn_loop_run(loop, fail_allocations_here, &nth), DYN_OK);
        send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, 300); /* a conn that could not be made is made when memory is back */
        CHECK_EQ(dyn_loop_run(loop, fail_allocations_here, &never), DYN_OK);
        read_until(fd, NULL);
        whole = strstr(got, "\r\n\r\nhello") != NULL;
        if (!whole) CHECK(got[0] == 0 || strstr(got, "HTTP/1.1 503") != NULL || strstr(got, "HTTP/1.1 500") != NULL);
        close(fd);
    }
    CHECK(whole);
    ask("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK(has("{}"));
    stop();
    EACH_ALLOCATION_FAILS {
        dyn_http_settings settings = {.api_key = "k", .allow_origin = "*"};
        dyn_http_server *each = NULL;
        int saved = dyn__fail_after;
        dyn__fail_after = -1;
        dyn_loop_new(&loop);
        dyn__fail_after = saved;
        rc = dyn_http_server_new(&each, loop, &settings);
        if (rc == DYN_OK) rc = dyn_http_route(each, "GET", "/", 0, drop, NULL);
        if (rc == DYN_OK) rc = dyn_http_route_static(each, "/s", 0, 200, "text/plain", "x", 1);
        dyn_http_server_free(each);
        dyn_loop_unref(loop);
    }
}

TEST_MAIN(TEST(requests_on_one_connection_are_answered_in_order), TEST(a_stream_from_another_thread_arrives_whole),
          TEST(malformed_requests_are_refused_with_their_status), TEST(a_key_is_asked_for_except_on_open_routes),
          TEST(slow_clients_are_told_or_cut), TEST(a_client_that_never_reads_costs_bounded_memory_and_is_cut),
          TEST(congestion_ends_with_a_drain), TEST(a_half_closed_client_gets_its_answer_and_a_gone_one_is_told),
          TEST(too_many_connections_are_told), TEST(a_graceful_stop_lets_answers_end),
          TEST(lent_pieces_are_sent_and_given_back), TEST(a_live_body_is_read_and_answered_as_it_comes),
          TEST(a_live_body_that_is_not_read_waits_in_its_sender), TEST(an_answer_may_end_before_the_request),
          TEST(a_live_body_that_breaks_is_told), TEST(requests_and_events_travel_by_mail),
          TEST(failing_allocations_cost_an_answer_never_the_server))
