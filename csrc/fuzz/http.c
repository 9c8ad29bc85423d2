/* http.c -- what a client sends, through the gate, the parser and the connection. The first byte says into pieces of what size the
 * rest is cut; however it is cut, the same requests must come out. */
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_internal.h"

static dyn_loop *loop;
static dyn_http_server *server;
static uint64_t seen; /* a hash of the requests */

static void mix(const void *data, size_t length)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < length; i++) seen = (seen ^ at[i]) * 0x100000001b3u;
    seen = (seen ^ length) * 0x100000001b3u;
}

static void take(void *user, dyn_http_exchange *x)
{
    size_t length;
    (void)user;
    const char *path = dyn_http_path(x, &length);
    mix(path, length);
    const char *query = dyn_http_query(x, &length);
    mix(query, length);
    for (size_t i = 0; i < dyn_http_header_count(x); i++) {
        size_t name_length, value_length;
        const char *value, *name = dyn_http_header_at(x, i, &name_length, &value, &value_length);
        if (strlen(name) != name_length || strlen(value) != value_length || name_length == 0) abort();
        mix(name, name_length);
        mix(value, value_length);
    }
    const uint8_t *body = dyn_http_body(x, &length);
    mix(body, length);
    if (body[length] != 0) abort();
    if (dyn_http_respond(x, 200, "text/plain", body, length < 64 ? length : 64) != DYN_OK) abort();
    dyn_http_exchange_unref(x);
}

/* The same on a live route: the body is read as it comes, the answer given at its end, or in the middle of it. */
static void read_live(void *user)
{
    dyn_http_exchange *x = user;
    uint8_t piece[48];
    size_t got;
    int rc;
    while ((rc = dyn_http_read(x, piece, sizeof(piece), &got)) == DYN_OK)
        for (size_t i = 0; i < got; i++) {
            mix(piece + i, 1);
            if (piece[i] != '!' || dyn_http_begun(x)) continue;
            if (dyn_http_respond(x, 200, "text/plain", "early", 5) != DYN_OK) abort();
            return; /* what is read after that hangs on how it came */
        }
    if (rc == DYN_EAGAIN || dyn_http_begun(x)) return;
    if (rc != DYN_ECLOSED && rc != DYN_EPROTO && rc != DYN_EBROKEN) abort();
    if (rc != DYN_EBROKEN) mix(&rc, sizeof(rc));
    dyn_http_respond(x, 200, "text/plain", "late", 4);
}
static void let_go(void *user)
{
    dyn_http_exchange_unref(user);
}
static void take_live(void *user, dyn_http_exchange *x)
{
    static const dyn_http_events events = {.on_body = read_live, .on_done = let_go};
    (void)user;
    if (dyn_http_watch(x, &events, x) != DYN_OK) abort();
    read_live(x);
}

struct input {
    const uint8_t *data;
    size_t size, piece;
};

static uint64_t feed_all(const struct input *input)
{
    int ends[2];
    seen = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) abort();
    dyn__http_conn *conn = dyn__http_conn_new(server);
    if (conn == NULL || uv_tcp_open(&conn->tcp, ends[0]) != 0) abort();
    for (size_t at = 0; at < input->size && !conn->closing; at += input->piece) {
        size_t left = input->size - at;
        dyn__http_conn_read(conn, (const char *)input->data + at, left < input->piece ? left : input->piece);
        for (int i = 0; i < 64 && !conn->closing && conn->state >= DYN__BUSY && !(conn->live && i > 0); i++)
            dyn__http_conn_pump(conn);
    }
    dyn__http_conn_close(conn);
    close(ends[1]);
    return seen;
}

static int feed_both(void *arg)
{
    const struct input *input = arg;
    if (feed_all(&input[0]) != feed_all(&input[1])) abort();
    return DYN_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (loop == NULL) {
        dyn_http_settings settings = {.max_header_bytes = 600,
                                      .max_url_bytes = 100,
                                      .max_headers = 8,
                                      .max_body_bytes = 500,
                                      .body_window_bytes = 100};
        dyn_log_set_level(DYN_LOG_OFF);
        if (dyn_loop_new(&loop) < 0 || dyn_http_server_new(&server, loop, &settings) < 0) abort();
        if (dyn_http_route(server, "*", "/", DYN_HTTP_PREFIX, take, NULL) < 0) abort();
        if (dyn_http_route(server, "*", "/l", DYN_HTTP_PREFIX | DYN_HTTP_LIVE, take_live, NULL) < 0) abort();
    }
    if (size < 1 || size > 8192) return 0;
    struct input inputs[] = {{data + 1, size - 1, size}, {data + 1, size - 1, data[0] % 64 + 1}};
    return dyn_loop_run(loop, feed_both, inputs);
}
