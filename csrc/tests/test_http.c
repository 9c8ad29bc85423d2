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
    CHECK_EQ(dyn_http_respond(x, 200, "text/plain", body, length), DYN_OK);
    CHECK_EQ(dyn_http_respond(x, 200, "text/plain", body, length), DYN_EBUSY);
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
    send_text(fd, "GET /live HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
                  "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
                  "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nHEAD /files/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    read_until(fd, NULL);
    CHECK(has("\r\n\r\n{}HTTP/1.1 200 OK"));
    CHECK(has("\r\n\r\nhelloHTTP/1.1 200"));
    CHECK(has("\r\n\r\nabcdeHTTP/1.1 404 Not Found"));
    CHECK(has("\"type\":\"not_found_error\""));
    CHECK(has("Content-Length: 4\r\nConnection: close"));
    CHECK_EQ(count("HTTP/1.1"), 5);
    CHECK_EQ(count("Date: "), 5);
    CHECK_STR(got + strlen(got) - 4, "\r\n\r\n");
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

TEST_MAIN(TEST(requests_on_one_connection_are_answered_in_order), TEST(a_stream_from_another_thread_arrives_whole))
