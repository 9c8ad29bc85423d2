/* bench_http.c -- what a request and an event cost. Client and server share the machine: read the ratios, not the figures.
 *   head       gate and parser alone, a head as a client library sends it
 *   echo       POST of 560 B, 32 connections of one client thread that waits for all of them
 *   stream     server-sent events of 190 B written one at a time by another thread
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dynamo/http.h"
#include "net/http_parse.h"

static const char head[] =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: application/json\r\n"
    "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: AsyncOpenAI/Python 2.1\r\n"
    "Authorization: Bearer none\r\nContent-Type: application/json\r\nContent-Length: 560\r\n\r\n";
static uint16_t port;

static int nothing(void *user, const char *data, size_t length)
{
    (void)user, (void)data, (void)length;
    return 0;
}

static void bench_head(void)
{
    enum { ROUNDS = 1000000 };
    dyn__http_parser parser = {.on_url = nothing, .on_name = nothing, .on_value = nothing, .on_body = nothing};
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        int gate = 0;
        dyn__http_parser_reset(&parser);
        if (dyn__http_gate(&gate, head, sizeof(head) - 1) < 0) abort();
        if (dyn__http_parse_head(&parser, head, sizeof(head) - 1) != 0) abort();
    }
    printf("head      %6.0f ns each (%zu bytes)\n", (double)(dyn_now_ns() - start) / ROUNDS, sizeof(head) - 1);
}

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) abort();
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void echo(void *user, dyn_http_exchange *x)
{
    size_t length;
    const uint8_t *body = dyn_http_body(x, &length);
    (void)user;
    dyn_http_respond(x, 200, "application/json", body, length);
    dyn_http_exchange_unref(x);
}

static void bench_echo(void)
{
    enum { CONNS = 32, SECONDS = 2 };
    static char request[sizeof(head) + 560], answer[65536];
    int fds[CONNS];
    long done = 0;
    memcpy(request, head, sizeof(head) - 1);
    memset(request + sizeof(head) - 1, 'x', 560);
    for (int i = 0; i < CONNS; i++) fds[i] = dial();
    uint64_t start = dyn_now_ns();
    while (dyn_now_ns() - start < SECONDS * 1000000000ull) {
        for (int i = 0; i < CONNS; i++)
            if (send(fds[i], request, sizeof(request) - 1, MSG_NOSIGNAL) < 0) abort();
        for (int i = 0; i < CONNS; i++, done++)
            if (recv(fds[i], answer, sizeof(answer), 0) <= 560) abort();
    }
    printf("echo      %6.0f requests/s\n", (double)done * 1e9 / (double)(dyn_now_ns() - start));
    for (int i = 0; i < CONNS; i++) close(fds[i]);
}

enum { EVENTS = 2000000 };
static void *send_events(void *arg)
{
    static char event[190];
    dyn_http_exchange *x = arg;
    memset(event, 'e', sizeof(event));
    for (int i = 0; i < EVENTS;) {
        int rc = dyn_http_write(x, event, sizeof(event));
        if (rc == DYN_OK)
            i++;
        else if (rc == DYN_EAGAIN)
            usleep(50);
        else
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
    dyn_http_begin(x, 200, "text/event-stream");
    pthread_create(&thread, NULL, send_events, x);
    pthread_detach(thread);
}

static void bench_stream(void)
{
    static char space[1 << 20];
    int fd = dial();
    size_t total = 0;
    uint64_t start = dyn_now_ns();
    if (send(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", 33, MSG_NOSIGNAL) != 33) abort();
    while (total < (size_t)EVENTS * 190) {
        ssize_t n = recv(fd, space, sizeof(space), 0);
        if (n <= 0) abort();
        total += (size_t)n;
    }
    printf("stream    %6.0f events/s\n", (double)EVENTS * 1e9 / (double)(dyn_now_ns() - start));
    close(fd);
}

int main(void)
{
    dyn_loop *loop;
    dyn_http_server *server;
    if (dyn_loop_new(&loop) < 0 || dyn_http_server_new(&server, loop, NULL) < 0) return 1;
    if (dyn_http_route(server, "POST", "/v1/chat/completions", 0, echo, NULL) < 0) return 1;
    if (dyn_http_route(server, "GET", "/stream", 0, stream, NULL) < 0) return 1;
    if (dyn_http_server_listen(server, NULL, 0, &port) < 0) return 1;
    bench_head();
    bench_echo();
    bench_stream();
    dyn_http_server_free(server);
    dyn_loop_unref(loop);
    return 0;
}
