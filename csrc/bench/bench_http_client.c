/* bench_http_client.c -- what a call costs a client. Client and server share the machine: read CPU time and ratios.
 *   socket     the floor: send and recv on one blocking socket, against our server
 *   call       the same request by dyn_http_call_run()
 *   hub        64 calls under way in one thread
 *   TLS        bytes through the filter and back, in one thread
 *   zstd       1 MiB of text, 1 MiB of noise
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/common.h"
#include "dynamo/http.h"
#include "dynamo/http_client.h"
#include "dynamo/zstd.h"

enum { ROUNDS = 20000, BODY = 1024 };
static uint16_t port;
static char url[64], body[BODY];

static void answer(void *user, dyn_http_exchange *x)
{
    (void)user;
    dyn_http_respond(x, 200, "application/json", body, BODY);
    dyn_http_exchange_unref(x);
}
static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
static double thread_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
static void report(const char *name, uint64_t *times, int count, double cpu, uint64_t wall_ns)
{
    if (times != NULL) qsort(times, (size_t)count, sizeof(*times), by_size);
    printf("%-8s", name);
    if (times != NULL)
        printf(" p50 %6.1f us, p99 %7.1f us,", (double)times[count / 2] / 1e3, (double)times[count / 100 * 99] / 1e3);
    printf(" %6.2f us of CPU in the client, %.0f calls/s\n", cpu / count, (double)count / ((double)wall_ns / 1e9));
}

static void bench_socket(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    char out[BODY + 200], in[8192];
    uint64_t *times = malloc(ROUNDS * sizeof(*times));
    int n = snprintf(out, 200, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", BODY);
    memcpy(out + n, body, BODY);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) abort();
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    double cpu = thread_us();
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t t = dyn_now_ns();
        if (send(fd, out, (size_t)n + BODY, 0) != n + BODY) abort();
        for (ssize_t have = 0, got; have < BODY; have += got)
            if ((got = recv(fd, in, sizeof(in), 0)) <= 0) abort();
        times[i] = dyn_now_ns() - t;
    }
    report("socket", times, ROUNDS, thread_us() - cpu, dyn_now_ns() - start);
    close(fd);
    free(times);
}

static void bench_call(dyn_http_client *client)
{
    uint64_t *times = malloc(ROUNDS * sizeof(*times));
    dyn_http_request request = {.method = "POST", .path = "/x", .body = body, .length = BODY, .timeout_ms = 30000};
    double cpu = thread_us();
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t t = dyn_now_ns();
        dyn_http_call *call;
        if (dyn_http_call_new(&call, client, &request) < 0) abort();
        while (dyn_http_call_run(call) == DYN_EAGAIN) continue;
        if (dyn_http_call_status(call) != 200) abort();
        dyn_http_call_free(call);
        times[i] = dyn_now_ns() - t;
    }
    report("call", times, ROUNDS, thread_us() - cpu, dyn_now_ns() - start);
    free(times);
}

static void bench_hub(dyn_http_client *client)
{
    enum { AT_ONCE = 64, CALLS = 100000 };
    dyn_http_hub *hub;
    dyn_http_call *call;
    dyn_http_request request = {.method = "POST", .path = "/x", .body = body, .length = BODY, .timeout_ms = 30000};
    if (dyn_http_hub_new(&hub) < 0) abort();
    double cpu = thread_us();
    uint64_t start = dyn_now_ns();
    int begun = 0, done = 0;
    while (done < CALLS) {
        while (begun < CALLS && begun - done < AT_ONCE) {
            if (dyn_http_call_new(&call, client, &request) < 0) abort();
            dyn_http_hub_start(hub, call, NULL);
            begun++;
        }
        struct pollfd ready = {.fd = dyn_http_hub_fd(hub), .events = POLLIN};
        poll(&ready, 1, 1000);
        dyn_http_hub_turn(hub);
        while ((call = dyn_http_hub_news(hub)) != NULL) {
            if (dyn_http_call_status(call) != 200) abort();
            dyn_http_call_free(call);
            done++;
        }
    }
    report("hub", NULL, CALLS, thread_us() - cpu, dyn_now_ns() - start);
    dyn_http_hub_free(hub);
}

static void carry(dyn_tls *from, dyn_tls *to)
{
    const char *data;
    char *room;
    size_t size, length;
    while ((length = dyn_tls_pending(from, &data)) > 0) {
        if (dyn_tls_room(to, &room, &size) < 0) abort();
        if (length > size) length = size;
        memcpy(room, data, length);
        dyn_tls_fed(to, length);
        dyn_tls_sent(from, length);
        if (length == size) return;
    }
}

static void bench_tls(void)
{
    enum { PIECE = 256 << 10, PIECES = 1024 };
    char path[] = "/tmp/dyn_bench_XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_sign(cert, key, EVP_sha256());
    PEM_write_X509(file, cert);
    PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
    dyn_tls_settings one = {.trust_anyone = true}, two = {.server = true, .certificate = path};
    dyn_tls_context *ours, *theirs;
    dyn_tls *client, *server;
    if (dyn_tls_context_new(&ours, &one) < 0 || dyn_tls_context_new(&theirs, &two) < 0) abort();
    double start = thread_us();
    enum { SHAKES = 200 };
    for (int i = 0; i < SHAKES; i++) {
        if (dyn_tls_new(&client, ours, "localhost") < 0 || dyn_tls_new(&server, theirs, NULL) < 0) abort();
        while (dyn_tls_handshake(client) == DYN_EAGAIN || dyn_tls_handshake(server) == DYN_EAGAIN)
            carry(client, server), dyn_tls_handshake(server), carry(server, client);
        if (i + 1 < SHAKES) dyn_tls_free(client), dyn_tls_free(server);
    }
    printf("TLS      %6.0f us of CPU for a handshake, both sides\n", (thread_us() - start) / SHAKES);
    char *plain = calloc(1, PIECE), *got = malloc(PIECE);
    double writing = 0;
    start = thread_us();
    for (int i = 0; i < PIECES; i++) {
        size_t have = 0, n;
        double t = thread_us();
        if (dyn_tls_write(client, plain, PIECE) < 0) abort();
        writing += thread_us() - t;
        while (have < PIECE) {
            carry(client, server);
            while (have < PIECE && dyn_tls_read(server, got, PIECE - have, &n) == DYN_OK) have += n;
        }
    }
    printf("TLS      %6.2f GB/s written, %.2f GB/s written, carried and read in one thread (%s)\n",
           (double)PIECE * PIECES / writing / 1e3, (double)PIECE * PIECES / (thread_us() - start) / 1e3,
           dyn_tls_version(client));
    dyn_tls_free(client), dyn_tls_free(server);
    dyn_tls_context_unref(ours), dyn_tls_context_unref(theirs);
    X509_free(cert), EVP_PKEY_free(key);
    unlink(path);
    free(plain), free(got);
}

static void bench_zstd(const char *name, bool noise)
{
    enum { SIZE = 1 << 20, TIMES = 50 };
    uint8_t *data = malloc(SIZE);
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < SIZE; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        data[i] = noise ? (uint8_t)state : (uint8_t)("the quick brown fox jumps over the lazy dog "[(state >> 3) % 44]);
    }
    dyn_bytes packed = {0}, back = {0};
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < TIMES; i++) packed.size = 0, dyn_zstd_compress(&packed, data, SIZE, DYN_ZSTD_LEVEL);
    double there = (double)(dyn_now_ns() - start);
    start = dyn_now_ns();
    for (int i = 0; i < TIMES; i++) back.size = 0, dyn_zstd_decompress(&back, packed.data, packed.size, SIZE);
    printf("zstd     %s: %.2f GB/s to %.0f %%, %.2f GB/s back\n", name, (double)SIZE * TIMES / there,
           100.0 * (double)packed.size / SIZE, (double)SIZE * TIMES / (double)(dyn_now_ns() - start));
    dyn_bytes_free(&packed), dyn_bytes_free(&back);
    free(data);
}

int main(void)
{
    dyn_loop *loop;
    dyn_http_server *server;
    dyn_http_client *client;
    if (dyn_loop_new(&loop) < 0 || dyn_http_server_new(&server, loop, NULL) < 0) abort();
    if (dyn_http_route(server, "POST", "/x", 0, answer, NULL) < 0) abort();
    if (dyn_http_server_listen(server, NULL, 0, &port) < 0) abort();
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", port);
    if (dyn_http_client_new(&client, url, NULL) < 0) abort();
    for (int i = 0; i < 2; i++) {
        bench_socket();
        bench_call(client);
    }
    bench_hub(client);
    bench_tls();
    bench_zstd("text", false);
    bench_zstd("noise", true);
    dyn_http_client_unref(client);
    dyn_http_server_free(server);
    dyn_loop_unref(loop);
    return 0;
}
