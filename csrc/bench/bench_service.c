/* Calls over loopback from C alone: one at a time, and streams of items. Prints a line per figure. */
#include <pthread.h>
#include <stdio.h>

#include "common/common.h"
#include "dynamo/service.h"

enum { CALLS = 20000, STREAMS = 32, ITEMS = 20000, ITEM = 31 };

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int left;
};

static void on_item(void *user, const uint8_t *bytes, size_t size)
{
    (void)user, (void)bytes, (void)size;
}

static void on_end(void *user, int rc, const dyn_failure *failure)
{
    struct answer *self = user;
    (void)failure;
    if (rc != DYN_OK) fprintf(stderr, "a call failed: %s\n", dyn_strerror(rc));
    pthread_mutex_lock(&self->lock);
    if (--self->left == 0) pthread_cond_signal(&self->changed);
    pthread_mutex_unlock(&self->lock);
}

static void wait_all(struct answer *self)
{
    pthread_mutex_lock(&self->lock);
    while (self->left > 0) pthread_cond_wait(&self->changed, &self->lock);
    pthread_mutex_unlock(&self->lock);
}

static void one(void *user, dyn_stream *stream)
{
    char item[ITEM] = {0};
    (void)user;
    dyn_stream_send(stream, item, sizeof item, NULL);
    dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

/* Sends as much as the window takes, goes on when there is room. */
static void pour(void *user, dyn_stream *stream)
{
    char item[ITEM] = {0};
    (void)user;
    size_t sent = (size_t)dyn_stream_user(stream);
    dyn_cork *cork;
    if (dyn_cork_new(&cork) < 0) return;
    int rc = 0;
    while (sent < ITEMS && rc == 0) {
        rc = dyn_stream_send(stream, item, sizeof item, cork);
        sent++;
    }
    dyn_stream_set_user(stream, (void *)sent);
    if (sent == ITEMS) {
        dyn_stream_end(stream, cork);
        dyn_stream_unref(stream);
    }
    dyn_cork_free(cork);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int main(void)
{
    static uint64_t took[CALLS];
    dyn_loop *here, *there;
    dyn_server *server;
    dyn_endpoint *endpoints[2];
    dyn_pool *pool;
    if (dyn_loop_new(&here) < 0 || dyn_loop_new(&there) < 0) return 1;
    if (dyn_server_new(&server, there, "127.0.0.1", 0, NULL) < 0 || dyn_pool_new(&pool, here, NULL) < 0) return 1;
    if (dyn_server_serve(server, "one", &(dyn_endpoint_events){one, NULL}, NULL, &endpoints[0]) < 0) return 1;
    if (dyn_server_serve(server, "pour", &(dyn_endpoint_events){pour, pour}, NULL, &endpoints[1]) < 0) return 1;
    static const dyn_call_events events = {on_item, on_end};
    struct answer answer = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    char address[64];
    dyn_call_request request = {.address = address, .payload = {(const uint8_t *)"0123456789", 10}};
    snprintf(address, sizeof address, "127.0.0.1:%d/one", dyn_server_port(server));
    for (int i = 0; i < CALLS; i++) {
        uint64_t began = dyn_now_ns();
        answer.left = 1;
        if (dyn_call_start(pool, &request, &events, &answer, NULL, NULL) < 0) return 1;
        wait_all(&answer);
        took[i] = dyn_now_ns() - began;
    }
    qsort(took, CALLS, sizeof *took, by_size);
    printf("unary            p50 %6.1f us  p99 %6.1f us\n", took[CALLS / 2] / 1e3, took[CALLS / 100 * 99] / 1e3);

    uint64_t began = dyn_now_ns();
    answer.left = CALLS;
    for (int i = 0; i < CALLS; i++)
        if (dyn_call_start(pool, &request, &events, &answer, NULL, NULL) < 0) answer.left--;
    wait_all(&answer);
    printf("unary, in flight %.0f calls/s\n", CALLS / ((dyn_now_ns() - began) / 1e9));

    snprintf(address, sizeof address, "127.0.0.1:%d/pour", dyn_server_port(server));
    began = dyn_now_ns();
    answer.left = STREAMS;
    for (int i = 0; i < STREAMS; i++)
        if (dyn_call_start(pool, &request, &events, &answer, NULL, NULL) < 0) return 1;
    wait_all(&answer);
    printf("streams x%d       %.2f M items/s\n", STREAMS, (double)STREAMS * ITEMS / ((dyn_now_ns() - began) / 1e3));
    dyn_pool_close(pool);
    dyn_pool_unref(pool);
    dyn_server_free(server);
    dyn_endpoint_unref(endpoints[0]);
    dyn_endpoint_unref(endpoints[1]);
    dyn_loop_unref(here);
    dyn_loop_unref(there);
    return 0;
}
