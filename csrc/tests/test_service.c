/* Calls over loopback: callbacks, mails, credit, stop, kill, lost peers, refusals. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dynamo/service.h"
#include "test.h"

enum { PATIENCE_MS = 10000 };

/* ---- a caller that remembers ---- */
struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int items, ended, code;
    size_t bytes;
    char last[64], type[64], text[200], trace[64];
};

static void answer_init(struct answer *self)
{
    memset(self, 0, sizeof *self);
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->changed, NULL);
}

static void on_item(void *user, const uint8_t *bytes, size_t size)
{
    struct answer *self = user;
    pthread_mutex_lock(&self->lock);
    self->items++;
    self->bytes += size;
    snprintf(self->last, sizeof self->last, "%.*s", (int)(size < 60 ? size : 60), (const char *)bytes);
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
}

static void on_end(void *user, int rc, const dyn_failure *failure)
{
    struct answer *self = user;
    pthread_mutex_lock(&self->lock);
    self->ended++;
    self->code = rc;
    if (failure != NULL) {
        snprintf(self->type, sizeof self->type, "%s", failure->type);
        snprintf(self->text, sizeof self->text, "%s", failure->text);
        snprintf(self->trace, sizeof self->trace, "%s", failure->trace);
    }
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
}

static const dyn_call_events remember = {on_item, on_end};

/* Wait until it ended, or until there are `items` of them. */
static bool wait_for(struct answer *self, int items)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    int rc = 0;
    pthread_mutex_lock(&self->lock);
    while (rc == 0 && (items > 0 ? self->items < items : !self->ended))
        rc = pthread_cond_timedwait(&self->changed, &self->lock, &until);
    pthread_mutex_unlock(&self->lock);
    CHECK_EQ(rc, 0);
    return rc == 0;
}

/* ---- handlers ---- */
struct worker {
    dyn_server *server;
    dyn_endpoint *endpoint;
    char address[64];
    _Atomic(dyn_stream *) stream; /* what `keep` keeps */
    atomic_int changes;
};

static void echo(void *user, dyn_stream *stream)
{
    (void)user;
    dyn_slice payload = dyn_stream_payload(stream);
    for (int i = 0; i < 3; i++) dyn_stream_send(stream, payload.data, payload.size, NULL);
    dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

static void fail(void *user, dyn_stream *stream)
{
    (void)user;
    dyn_stream_send(stream, "one", 3, NULL);
    dyn_stream_fail(stream, &(dyn_failure){DYN_EREMOTE, "ValueError", "bad value", "line 1"}, NULL);
    dyn_stream_unref(stream);
}

static void keep(void *user, dyn_stream *stream)
{
    struct worker *self = user;
    self->stream = stream;
}

static void forget(void *user, dyn_stream *stream)
{
    (void)user;
    dyn_stream_unref(stream);
}

static void changed(void *user, dyn_stream *stream)
{
    struct worker *self = user;
    (void)stream;
    self->changes++;
}

static void work(struct worker *self, dyn_loop *loop, void (*handler)(void *, dyn_stream *))
{
    memset(self, 0, sizeof *self);
    CHECK_EQ(dyn_server_new(&self->server, loop, "127.0.0.1", 0, NULL), DYN_OK);
    CHECK_EQ(
        dyn_server_serve(self->server, "ab/x.y.z", &(dyn_endpoint_events){handler, changed}, self, &self->endpoint),
        DYN_OK);
    snprintf(self->address, sizeof self->address, "127.0.0.1:%d/ab/x.y.z", dyn_server_port(self->server));
}

static void rest(struct worker *self)
{
    dyn_server_free(self->server);
    dyn_endpoint_unref(self->endpoint);
}

static bool soon(bool (*holds)(struct worker *), struct worker *self)
{
    for (int ms = 0; ms < PATIENCE_MS; ms += 2) {
        if (holds(self)) return true;
        poll(NULL, 0, 2);
    }
    return false;
}

static bool has_stream(struct worker *self)
{
    return self->stream != NULL;
}
static bool is_stopped(struct worker *self)
{
    return (dyn_stream_state(self->stream) & DYN_STREAM_STOPPED) != 0;
}
static bool is_killed(struct worker *self)
{
    return (dyn_stream_state(self->stream) & DYN_STREAM_KILLED) != 0;
}
static bool is_not_full(struct worker *self)
{
    return (dyn_stream_state(self->stream) & DYN_STREAM_FULL) == 0;
}
static bool is_idle(struct worker *self)
{
    dyn_endpoint_stats stats;
    dyn_endpoint_get_stats(self->endpoint, &stats);
    return stats.inflight == 0;
}

static void put_away(dyn_pool *pool)
{
    dyn_pool_close(pool);
    dyn_pool_unref(pool);
}

static dyn_call_request to(const char *address)
{
    return (dyn_call_request){.address = address, .payload = {(const uint8_t *)"hello", 5}};
}

static void items_come_in_order_and_then_the_end(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    for (int i = 0; i < 100; i++) {
        struct answer answer;
        answer_init(&answer);
        dyn_call_request request = to(worker.address);
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
        if (!wait_for(&answer, 0)) break;
        CHECK_EQ(answer.items, 3);
        CHECK_EQ(answer.code, DYN_OK);
        CHECK_STR(answer.last, "hello");
    }
    dyn_endpoint_stats stats;
    dyn_endpoint_get_stats(worker.endpoint, &stats);
    CHECK_EQ(stats.requests, 100);
    CHECK_EQ(stats.items, 300);
    CHECK_EQ(stats.failed, 0);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void many_calls_share_a_connection(void)
{
    enum { N = 500 };
    static struct answer answers[N];
    dyn_loop *loop;
    dyn_pool *pool;
    dyn_cork *cork;
    struct worker worker;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    CHECK_EQ(dyn_cork_new(&cork), DYN_OK);
    dyn_call_request request = to(worker.address);
    for (int i = 0; i < N; i++) {
        answer_init(&answers[i]);
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &answers[i], i % 2 ? cork : NULL, NULL), DYN_OK);
    }
    CHECK(dyn_cork_dirty(cork));
    dyn_cork_flush(cork);
    for (int i = 0; i < N; i++) {
        if (!wait_for(&answers[i], 0)) break;
        CHECK_EQ(answers[i].items, 3);
    }
    dyn_pool_stats stats;
    dyn_pool_get_stats(pool, &stats);
    CHECK_EQ(stats.connections, 1);
    CHECK_EQ(stats.calls, N);
    CHECK_EQ(stats.inflight, 0);
    dyn_cork_free(cork);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void failures_arrive_with_type_text_and_trace(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, fail);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.items, 1);
    CHECK_EQ(answer.code, DYN_EREMOTE);
    CHECK_STR(answer.type, "ValueError");
    CHECK_STR(answer.text, "bad value");
    CHECK_STR(answer.trace, "line 1");

    answer_init(&answer); /* a path that nobody serves */
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d/none", dyn_server_port(worker.server));
    request.address = address;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ENOENT);
    CHECK_STR(answer.text, "no endpoint none at this worker");
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void a_handler_that_goes_away_fails_its_stream(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, forget);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_EBROKEN);
    CHECK(soon(is_idle, &worker));
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void nobody_listens(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct answer answer;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    struct sockaddr_in free_port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof free_port;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&free_port, size), 0); /* bound, not listening: refused */
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&free_port, &size), 0);
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d/x", ntohs(free_port.sin_port));
    answer_init(&answer);
    dyn_call_request request = to(address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ECONN);
    CHECK(strstr(answer.text, "refused") != NULL);
    static const char *const wrong[] = {"x", "x/y", "host:/y", "host:99999/y", ":80/y", "host:80/", "host:8x/y"};
    for (size_t i = 0; i < DYN__COUNT(wrong); i++) {
        request.address = wrong[i];
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_EINVAL);
    }
    request.address = "no-such-host.invalid:80/x";
    answer_init(&answer);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ECONN);
    close(fd);
    put_away(pool);
    dyn_loop_unref(loop);
}

static void stop_and_kill_differ(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    dyn_call *call;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, &call), DYN_OK);
    CHECK(soon(has_stream, &worker));
    CHECK_EQ(dyn_stream_state(worker.stream), 0);
    dyn_call_stop(call, NULL);
    CHECK(soon(is_stopped, &worker));
    CHECK(!is_killed(&worker));
    CHECK_EQ(dyn_stream_send(worker.stream, "last", 4, NULL), 0);
    wait_for(&answer, 1);
    CHECK_STR(answer.last, "last");
    dyn_call_kill(call, NULL);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ECANCELED);
    CHECK(soon(is_killed, &worker));
    CHECK_EQ(dyn_stream_send(worker.stream, "late", 4, NULL), DYN_ECANCELED);
    CHECK_EQ(dyn_stream_end(worker.stream, NULL), DYN_ECANCELED);
    CHECK_EQ(dyn_stream_end(worker.stream, NULL), DYN_ECLOSED);
    CHECK(worker.changes > 0);
    dyn_stream_unref(worker.stream);
    dyn_call_kill(call, NULL); /* again: nothing */
    dyn_call_unref(call);
    put_away(pool);
    CHECK_EQ(answer.ended, 1);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void a_deadline_ends_a_call(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    request.deadline_ms = 50;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ETIMEDOUT);
    CHECK(soon(has_stream, &worker) && soon(is_killed, &worker));
    dyn_stream_unref(worker.stream);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void a_limit_ends_a_call_that_is_under_way(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    dyn_call *call;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, &call), DYN_OK);
    CHECK(soon(has_stream, &worker));
    dyn_call_stop(call, NULL);
    CHECK(soon(is_stopped, &worker) && !is_killed(&worker));
    dyn_call_limit(call, 50);
    dyn_call_limit(call, 60000); /* the shorter one holds */
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ETIMEDOUT);
    CHECK(soon(is_killed, &worker));
    dyn_call_limit(call, 1); /* it is over: nothing */
    dyn_stream_unref(worker.stream);
    dyn_call_unref(call);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void silence_ends_a_call_unless_its_reader_is_behind(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    dyn_call *call;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    request.quiet_ms = 400;
    request.manual_credit = true;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, &call), DYN_OK);
    CHECK(soon(has_stream, &worker));
    CHECK_EQ(dyn_stream_send(worker.stream, "one", 3, NULL), DYN_OK);
    wait_for(&answer, 1);
    poll(NULL, 0, 700); /* nothing comes, but what came is not consumed yet */
    CHECK_EQ(answer.ended, 0);
    dyn_call_consumed(call, 4, NULL);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_ETIMEDOUT);
    CHECK_STR(answer.text, "the worker was silent for too long");
    dyn_stream_unref(worker.stream);
    dyn_call_unref(call);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void a_slow_reader_stops_its_producer_only(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker, other;
    struct answer answer, quick;
    dyn_call *call;
    char item[1000] = {0};
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_server_serve(worker.server, "echo", &(dyn_endpoint_events){echo, NULL}, NULL, &other.endpoint),
             DYN_OK);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    request.manual_credit = true, request.window = 10000;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, &call), DYN_OK);
    CHECK(soon(has_stream, &worker));
    int sent = 0, rc;
    while ((rc = dyn_stream_send(worker.stream, item, sizeof item, NULL)) == 0) sent++;
    CHECK_EQ(rc, 1); /* taken, and full */
    sent++;
    CHECK_EQ(sent, 10);
    CHECK_EQ(dyn_stream_state(worker.stream), DYN_STREAM_FULL);
    while ((rc = dyn_stream_send(worker.stream, item, sizeof item, NULL)) == 1) sent++;
    CHECK_EQ(rc, DYN_EOVERLOAD);
    CHECK(sent <= 52);
    wait_for(&answer, 10);

    answer_init(&quick); /* on the same connection */
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d/echo", dyn_server_port(worker.server));
    dyn_call_request another = to(address);
    CHECK_EQ(dyn_call_start(pool, &another, &remember, &quick, NULL, NULL), DYN_OK);
    wait_for(&quick, 0);
    CHECK_EQ(quick.items, 3);
    CHECK_EQ(answer.items, 10);

    CHECK_EQ(dyn_stream_end(worker.stream, NULL), DYN_OK); /* behind what is held */
    for (int seen = 10; seen < sent;) {
        dyn_call_consumed(call, 10020, NULL);
        seen = seen + 10 < sent ? seen + 10 : sent;
        if (!wait_for(&answer, seen)) break;
    }
    wait_for(&answer, 0);
    CHECK_EQ(answer.items, sent);
    CHECK_EQ(answer.code, DYN_OK);
    dyn_call_unref(call);
    dyn_stream_unref(worker.stream);
    put_away(pool);
    dyn_endpoint_unref(other.endpoint);
    rest(&worker);
    dyn_loop_unref(loop);
}

/* What serves the credit: each item as it comes, as the header says. */
struct payer {
    struct answer answer; /* first: remember's callbacks see it */
    _Atomic(dyn_call *) call;
};

static void on_item_pay(void *user, const uint8_t *bytes, size_t size)
{
    struct payer *self = user;
    on_item(&self->answer, bytes, size);
    dyn_call_consumed(self->call, dyn_items_cost(size), NULL);
}

static void credit_counts_an_item_with_its_size(void)
{
    enum { ITEMS = 5000 };
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct payer payer = {.call = NULL};
    dyn_call *call;
    char item[200] = {0};
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&payer.answer);
    dyn_call_request request = to(worker.address);
    request.manual_credit = true, request.window = 1000;
    CHECK_EQ(dyn_call_start(pool, &request, &(dyn_call_events){on_item_pay, on_end}, &payer, NULL, &call), DYN_OK);
    payer.call = call; /* nothing was sent yet */
    CHECK(soon(has_stream, &worker));
    /* One of 498 bytes goes with a size of two: half of the window. */
    char half[498] = {0};
    CHECK_EQ(dyn_items_cost(sizeof half), 500);
    CHECK_EQ(dyn_stream_send(worker.stream, half, sizeof half, NULL), 0);
    for (int i = 1; i < ITEMS; i++) { /* five windows of sizes alone: who gave back the items' bytes only would stop */
        if (dyn_stream_send(worker.stream, item, (size_t)i % sizeof item, NULL) == 1) CHECK(soon(is_not_full, &worker));
    }
    CHECK_EQ(dyn_stream_end(worker.stream, NULL), DYN_OK);
    wait_for(&payer.answer, 0);
    CHECK_EQ(payer.answer.items, ITEMS);
    CHECK_EQ(payer.answer.code, DYN_OK);
    dyn_call_unref(call);
    dyn_stream_unref(worker.stream);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

/* ---- a handler that keeps three */
struct keeper {
    dyn_stream *streams[3];
    atomic_int count;
};

static void keep_many(void *user, dyn_stream *stream)
{
    struct keeper *self = user;
    int at = atomic_load(&self->count);
    CHECK(at < 3);
    self->streams[at] = stream;
    atomic_store(&self->count, at + 1);
}

static void an_endpoint_takes_so_many_requests_and_refuses_the_next(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    dyn_server *server;
    dyn_endpoint *endpoint, *other;
    struct keeper keeper = {.count = 0};
    struct answer answers[4], quick;
    dyn_endpoint_stats stats;
    char address[64];
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_server_new(&server, loop, "127.0.0.1", 0, &(dyn_service_options){.max_requests = 2}), DYN_OK);
    CHECK_EQ(dyn_server_serve(server, "slow", &(dyn_endpoint_events){keep_many, NULL}, &keeper, &endpoint), DYN_OK);
    CHECK_EQ(dyn_server_serve(server, "quick", &(dyn_endpoint_events){echo, NULL}, NULL, &other), DYN_OK);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    snprintf(address, sizeof address, "127.0.0.1:%d/slow", dyn_server_port(server));
    dyn_call_request request = to(address);
    for (int i = 0; i < 3; i++) {
        answer_init(&answers[i]);
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &answers[i], NULL, NULL), DYN_OK);
    }
    wait_for(&answers[2], 0); /* requests of one connection come in order: the third is one too many */
    CHECK_EQ(answers[2].code, DYN_EOVERLOAD);
    CHECK(strstr(answers[2].text, "endpoint slow: 2 requests are running") != NULL);
    CHECK(strstr(answers[2].text, "ask another worker") != NULL);
    CHECK_EQ(keeper.count, 2);
    dyn_endpoint_get_stats(endpoint, &stats);
    CHECK_EQ(stats.inflight, 2);
    CHECK_EQ(stats.requests, 2);
    CHECK_EQ(stats.refused, 1);

    char elsewhere[64]; /* the other endpoint of that worker has a count of its own */
    snprintf(elsewhere, sizeof elsewhere, "127.0.0.1:%d/quick", dyn_server_port(server));
    dyn_call_request another = to(elsewhere);
    answer_init(&quick);
    CHECK_EQ(dyn_call_start(pool, &another, &remember, &quick, NULL, NULL), DYN_OK);
    wait_for(&quick, 0);
    CHECK_EQ(quick.code, DYN_OK);

    CHECK_EQ(dyn_stream_end(keeper.streams[0], NULL), DYN_OK); /* one ends: there is room for one */
    wait_for(&answers[0], 0);
    answer_init(&answers[3]);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answers[3], NULL, NULL), DYN_OK);
    for (int ms = 0; ms < PATIENCE_MS && keeper.count < 3; ms += 2) poll(NULL, 0, 2);
    CHECK_EQ(keeper.count, 3);
    for (int i = 1; i < 3; i++) CHECK_EQ(dyn_stream_end(keeper.streams[i], NULL), DYN_OK);
    wait_for(&answers[1], 0);
    wait_for(&answers[3], 0);
    CHECK_EQ(answers[3].code, DYN_OK);
    dyn_endpoint_get_stats(endpoint, &stats);
    CHECK_EQ(stats.inflight, 0);
    for (int i = 0; i < 3; i++) dyn_stream_unref(keeper.streams[i]);
    put_away(pool);
    dyn_server_free(server);
    dyn_endpoint_unref(endpoint);
    dyn_endpoint_unref(other);
    dyn_loop_unref(loop);
}

static void room_is_told(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    dyn_call *call;
    char item[2000] = {0};
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    request.manual_credit = true, request.window = 1000;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, &call), DYN_OK);
    CHECK(soon(has_stream, &worker));
    CHECK_EQ(dyn_stream_send(worker.stream, item, sizeof item, NULL), 1); /* larger than the window: travels alone */
    wait_for(&answer, 1);
    dyn_call_consumed(call, 2002, NULL);
    CHECK(soon(is_not_full, &worker));
    CHECK_EQ(dyn_stream_end(worker.stream, NULL), DYN_OK);
    wait_for(&answer, 0);
    dyn_call_unref(call);
    dyn_stream_unref(worker.stream);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void a_lost_peer_ends_its_calls_at_once(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answers[2];
    dyn_stream *kept[2];
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    dyn_call_request request = to(worker.address);
    for (int i = 0; i < 2; i++) {
        worker.stream = NULL;
        answer_init(&answers[i]);
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &answers[i], NULL, NULL), DYN_OK);
        CHECK(soon(has_stream, &worker));
        kept[i] = worker.stream;
    }
    dyn_server_free(worker.server);
    for (int i = 0; i < 2; i++) {
        wait_for(&answers[i], 0);
        CHECK_EQ(answers[i].code, DYN_EBROKEN);
        CHECK(dyn_stream_state(kept[i]) & DYN_STREAM_KILLED);
        dyn_stream_unref(kept[i]);
    }
    dyn_endpoint_unref(worker.endpoint);
    put_away(pool);
    dyn_loop_unref(loop);
}

static void closing_a_pool_cancels_its_calls(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    dyn_pool_close(pool);
    CHECK_EQ(answer.ended, 1); /* no callback comes later */
    CHECK_EQ(answer.code, DYN_ECANCELED);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_ECLOSED);
    put_away(pool);
    rest(&worker);
    if (worker.stream != NULL) dyn_stream_unref(worker.stream);
    dyn_loop_unref(loop);
}

static void mails_carry_items_and_the_end(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    dyn_mailbox *box;
    dyn_call *call;
    struct worker worker;
    int owner, user, items = 0, ends = 0;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    CHECK_EQ(dyn_mailbox_new(&box), DYN_OK);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start_mail(pool, &request, box, &owner, &user, NULL, &call), DYN_OK);
    while (ends == 0 && dyn_mailbox_wait(box, PATIENCE_MS) == DYN_OK) {
        for (dyn_mail *mail = dyn_mailbox_take(box), *next; mail != NULL; mail = next) {
            next = mail->next;
            dyn_call_mail *it = DYN__CONTAINER(mail, dyn_call_mail, mail);
            CHECK(mail->owner == &owner && dyn_call_user(it->call) == &user);
            dyn_slice rest_ = it->items, item;
            while (it->kind == DYN_CALL_ITEMS && dyn_items_next(&rest_, &item)) items++;
            if (it->kind == DYN_CALL_END) ends++;
            mail->drop(mail);
        }
    }
    CHECK_EQ(items, 3);
    CHECK_EQ(ends, 1);
    CHECK_EQ(dyn_call_failure(call)->code, DYN_OK);
    dyn_call_unref(call);

    dyn_endpoint *endpoint; /* a request nobody takes out of the box is refused */
    CHECK_EQ(dyn_server_serve_mail(worker.server, "box", box, &owner, &endpoint), DYN_OK);
    CHECK_EQ(dyn_server_serve_mail(worker.server, "box", box, &owner, &endpoint), DYN_EEXIST);
    struct answer answer;
    answer_init(&answer);
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d/box", dyn_server_port(worker.server));
    request.address = address;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    CHECK_EQ(dyn_mailbox_wait(box, PATIENCE_MS), DYN_OK);
    for (dyn_mail *mail = dyn_mailbox_take(box), *next; mail != NULL; mail = next) next = mail->next, mail->drop(mail);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_EUNAVAIL);
    dyn_endpoint_unref(endpoint);
    put_away(pool);
    rest(&worker);
    dyn_mailbox_unref(box);
    dyn_loop_unref(loop);
}

static int late_code(struct answer *self)
{
    pthread_mutex_lock(&self->lock);
    int code = self->code;
    pthread_mutex_unlock(&self->lock);
    return code;
}

static void draining_sends_callers_elsewhere(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer, late;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, keep);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer), answer_init(&late);
    dyn_call_request request = to(worker.address);
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    CHECK(soon(has_stream, &worker));
    dyn_server_drain(worker.server);
    dyn_stream *first = worker.stream;
    for (int i = 0; i < 1000; i++) { /* until the caller has heard of it, new calls may still get through */
        worker.stream = NULL;
        answer_init(&late);
        CHECK_EQ(dyn_call_start(pool, &request, &remember, &late, NULL, NULL), DYN_OK);
        while (worker.stream == NULL && late_code(&late) == 0) poll(NULL, 0, 1);
        if (worker.stream == NULL) break;
        dyn_stream_end(worker.stream, NULL), dyn_stream_unref(worker.stream);
        wait_for(&late, 0);
    }
    worker.stream = first;
    wait_for(&late, 0);
    CHECK_EQ(late.code, DYN_ECONN);
    CHECK_EQ(answer.ended, 0); /* what runs goes on */
    dyn_stream_send(worker.stream, "x", 1, NULL);
    dyn_stream_end(worker.stream, NULL);
    dyn_stream_unref(worker.stream);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_OK);
    CHECK_EQ(answer.items, 1);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void large_payloads_travel(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct worker worker;
    struct answer answer;
    size_t size = 5 << 20;
    uint8_t *payload = calloc(1, size);
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    CHECK_EQ(dyn_pool_new(&pool, loop, NULL), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(worker.address);
    request.payload = (dyn_slice){payload, size};
    request.window = 64 << 20;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    wait_for(&answer, 0);
    CHECK_EQ(answer.items, 3);
    CHECK_EQ(answer.bytes, 3 * size);
    request.payload.size = (size_t)65 << 20;
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_ELIMIT);
    free(payload);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(loop);
}

static void silence_is_death(void)
{
    dyn_loop *loop;
    dyn_pool *pool;
    struct answer answer;
    char address[64], sink[256];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    dyn_service_options options = {.ping_ms = 100, .dead_ms = 500};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&at, size), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&at, &size), 0);
    snprintf(address, sizeof address, "127.0.0.1:%d/x", ntohs(at.sin_port));
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK_EQ(dyn_pool_new(&pool, loop, &options), DYN_OK);
    answer_init(&answer);
    dyn_call_request request = to(address);
    uint64_t began = dyn_now_ns();
    CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
    int fd = accept(listener, NULL, NULL); /* it takes the request and says nothing, as a stopped process does */
    CHECK(fd >= 0);
    wait_for(&answer, 0);
    CHECK_EQ(answer.code, DYN_EBROKEN);
    CHECK(strstr(answer.text, "no sign of life") != NULL);
    CHECK(dyn_now_ns() - began >= UINT64_C(400000000));
    dyn_frame frame;
    size_t used, seen = 0, pings = 0;
    ssize_t n = recv(fd, sink, sizeof sink, 0);
    while (n > 0 && dyn_frame_read((uint8_t *)sink + seen, (size_t)n - seen, 1000, &frame, &used) == DYN_OK) {
        pings += frame.type == DYN_FRAME_PING;
        seen += used;
    }
    CHECK(pings >= 2);
    close(fd);
    close(listener);
    put_away(pool);
    dyn_loop_unref(loop);
}

static void strangers_are_shown_the_door(void)
{
    dyn_loop *loop;
    struct worker worker;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(dyn_server_port(worker.server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static const char *const says[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\2\0\0\0\2\1", "\xff\xff\xff\xff"};
    for (size_t i = 0; i < DYN__COUNT(says); i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        char sink[256];
        struct timeval patience = {10, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        CHECK_EQ(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
        CHECK(send(fd, says[i], i == 0 ? strlen(says[i]) : i == 1 ? 6 : 4, 0) > 0);
        ssize_t n;
        while ((n = recv(fd, sink, sizeof sink, 0)) > 0) {
        }
        CHECK(n == 0 || errno == ECONNRESET);
        close(fd);
    }
    rest(&worker);
    dyn_loop_unref(loop);
}

static void starting_survives_every_failed_allocation(void)
{
    dyn_loop *loop;
    struct worker worker;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    work(&worker, loop, echo);
    EACH_ALLOCATION_FAILS {
        dyn_pool *pool = NULL;
        struct answer answer;
        answer_init(&answer);
        rc = dyn_pool_new(&pool, loop, NULL);
        if (rc == DYN_OK) {
            dyn_call_request request = to(worker.address);
            rc = dyn_call_start(pool, &request, &remember, &answer, NULL, NULL);
            dyn__fail_after = -1;
            if (rc == DYN_OK)
                wait_for(&answer, 0);
            else
                CHECK_EQ(answer.ended, 0);
            put_away(pool);
        }
    }
    EACH_ALLOCATION_FAILS {
        dyn_server *server = NULL;
        rc = dyn_server_new(&server, loop, "127.0.0.1", 0, NULL);
        if (rc == DYN_OK) {
            dyn_endpoint *endpoint = NULL;
            rc = dyn_server_serve(server, "p", &(dyn_endpoint_events){echo, NULL}, NULL, &endpoint);
            dyn_endpoint_unref(endpoint);
            dyn_server_free(server);
        }
    }
    rest(&worker);
    dyn_loop_unref(loop);
}

static int fail_on_this_thread(void *arg)
{
    dyn__fail_after = *(int *)arg;
    return DYN_OK;
}

/* The loop threads run out of memory anywhere between a request and its end: the call ends, somehow, and the next one
 * works. */
static void loop_threads_survive_every_failed_allocation(void)
{
    dyn_loop *here, *there;
    dyn_pool *pool;
    struct worker worker;
    int none = -1;
    CHECK_EQ(dyn_loop_new(&here), DYN_OK);
    CHECK_EQ(dyn_loop_new(&there), DYN_OK);
    work(&worker, there, echo);
    dyn_service_options options = {.dead_ms = 2000, .ping_ms = 500};
    CHECK_EQ(dyn_pool_new(&pool, here, &options), DYN_OK);
    dyn_call_request request = to(worker.address);
    for (int side = 0; side < 2; side++) {
        for (int nth = 0; nth < 12; nth++) {
            struct answer answer;
            answer_init(&answer);
            dyn_loop_run(side == 0 ? here : there, fail_on_this_thread, &nth);
            request.deadline_ms = 1000; /* a refusal that finds no memory is silence */
            CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
            bool ended = wait_for(&answer, 0);
            dyn_loop_run(side == 0 ? here : there, fail_on_this_thread, &none);
            if (!ended) break;
            CHECK(answer.code == DYN_OK || answer.items < 3 || answer.code == DYN_EBROKEN);
            answer_init(&answer);
            CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
            wait_for(&answer, 0);
            if (answer.code != DYN_OK) { /* it caught the connection that was about to break */
                answer_init(&answer);
                CHECK_EQ(dyn_call_start(pool, &request, &remember, &answer, NULL, NULL), DYN_OK);
                wait_for(&answer, 0);
            }
            CHECK_EQ(answer.code, DYN_OK);
            CHECK_EQ(answer.items, 3);
        }
    }
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(here);
    dyn_loop_unref(there);
}

struct caller {
    dyn_pool *pool;
    const char *address;
};
static void *call_often(void *arg)
{
    struct caller *self = arg;
    for (int i = 0; i < 200; i++) {
        struct answer answer;
        answer_init(&answer);
        dyn_call_request request = to(self->address);
        dyn_call *call;
        CHECK_EQ(dyn_call_start(self->pool, &request, &remember, &answer, NULL, &call), DYN_OK);
        if (i % 3 == 0) dyn_call_kill(call, NULL);
        wait_for(&answer, 0);
        CHECK(answer.ended == 1 && (answer.code == DYN_OK || i % 3 == 0));
        dyn_call_unref(call);
    }
    return NULL;
}

static void threads_share_a_pool(void)
{
    dyn_loop *here, *there;
    dyn_pool *pool;
    struct worker worker;
    pthread_t threads[4];
    CHECK_EQ(dyn_loop_new(&here), DYN_OK);
    CHECK_EQ(dyn_loop_new(&there), DYN_OK);
    work(&worker, there, echo);
    CHECK_EQ(dyn_pool_new(&pool, here, NULL), DYN_OK);
    struct caller caller = {pool, worker.address};
    for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&threads[i], NULL, call_often, &caller), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    put_away(pool);
    rest(&worker);
    dyn_loop_unref(here);
    dyn_loop_unref(there);
}

TEST_MAIN(TEST(items_come_in_order_and_then_the_end), TEST(many_calls_share_a_connection),
          TEST(failures_arrive_with_type_text_and_trace), TEST(a_handler_that_goes_away_fails_its_stream),
          TEST(nobody_listens), TEST(stop_and_kill_differ), TEST(a_deadline_ends_a_call),
          TEST(a_limit_ends_a_call_that_is_under_way), TEST(silence_ends_a_call_unless_its_reader_is_behind),
          TEST(a_slow_reader_stops_its_producer_only), TEST(room_is_told), TEST(credit_counts_an_item_with_its_size),
          TEST(an_endpoint_takes_so_many_requests_and_refuses_the_next), TEST(a_lost_peer_ends_its_calls_at_once),
          TEST(closing_a_pool_cancels_its_calls), TEST(mails_carry_items_and_the_end),
          TEST(draining_sends_callers_elsewhere), TEST(large_payloads_travel), TEST(silence_is_death),
          TEST(strangers_are_shown_the_door), TEST(starting_survives_every_failed_allocation),
          TEST(loop_threads_survive_every_failed_allocation), TEST(threads_share_a_pool))
