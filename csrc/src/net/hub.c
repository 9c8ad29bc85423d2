/* hub.c -- many calls at once on one thread; see client_internal.h.
 *
 *   hub --+-- lane(client A): idle links, waiting calls
 *         +-- lane(client B)
 *         +-- active: every call that was started and has not ended
 *         +-- news:   calls that somebody has to look at
 *
 * No other thread takes part: whoever owns the hub reads and writes the sockets when the poller's descriptor says so.
 * A thread in between would cost two wake-ups a call.
 *
 * H1  lane->links counts the idle links and those of the lane's active calls; <= max_connections.
 * H2  A call waits only while its lane has max_connections links.
 * H3  While turn() walks over what the poller told, links are buried, not freed: a later entry may name one.
 */
#include <unistd.h>

#include "net/client_internal.h"

enum { AT_ONCE = 128 };

typedef struct lane {
    struct lane *next;
    dyn_http_client *client; /* a reference */
    dyn__link *idle;
    uint32_t idle_count, links;
    dyn_http_call *first_waiting, *last_waiting; /* by call->next */
} lane;

struct dyn_http_hub {
    dyn__poller poller;
    int pid;
    bool walking; /* H3 */
    lane *lanes;
    dyn_http_call *active;                 /* by call->next, prev: without those that wait */
    dyn_http_call *first_news, *last_news; /* by call->next_news */
    dyn__link *buried;
    uint64_t timer_ns; /* 0: off */
};

dyn__poller *dyn__hub_poller(dyn_http_hub *self)
{
    return self->pid == getpid() ? &self->poller : NULL; /* a child shares the parent's epoll: hands off */
}

int dyn_http_hub_new(dyn_http_hub **out)
{
    dyn_http_hub *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->pid = getpid();
    int rc = dyn__poller_open(&self->poller);
    if (rc < 0)
        dyn__free(self);
    else
        *out = self;
    return rc;
}

int dyn_http_hub_fd(const dyn_http_hub *self)
{
    return self->poller.fd;
}

static void arm(dyn_http_hub *self, uint64_t at_ns)
{
    if (at_ns == UINT64_MAX || (self->timer_ns != 0 && self->timer_ns <= at_ns)) return;
    self->timer_ns = at_ns;
    dyn__poller_timer(&self->poller, at_ns);
}

/* ---- lists ------------------------------------------------------------------------------------- */

static void add_active(dyn_http_hub *self, dyn_http_call *call)
{
    call->active = true;
    call->prev = NULL;
    call->next = self->active;
    if (call->next != NULL) call->next->prev = call;
    self->active = call;
}

static void remove_active(dyn_http_hub *self, dyn_http_call *call)
{
    if (!call->active) return;
    call->active = false;
    if (call->next != NULL) call->next->prev = call->prev;
    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        self->active = call->next;
}

static void tell(dyn_http_hub *self, dyn_http_call *call)
{
    if (call->in_news) return;
    call->in_news = true;
    call->next_news = NULL;
    if (self->last_news != NULL)
        self->last_news->next_news = call;
    else
        self->first_news = call;
    self->last_news = call;
}

dyn_http_call *dyn_http_hub_news(dyn_http_hub *self)
{
    dyn_http_call *call = self->first_news;
    if (call == NULL) return NULL;
    self->first_news = call->next_news;
    if (self->first_news == NULL) self->last_news = NULL;
    call->in_news = false;
    if (call->phase >= DYN_HTTP_CALL_DONE) call->hub = NULL; /* it may outlive the hub */
    return call;
}

static lane *lane_of(dyn_http_hub *self, const dyn_http_client *client)
{
    for (lane *at = self->lanes; at != NULL; at = at->next)
        if (at->client == client) return at;
    return NULL;
}

/* A lane goes when nothing is in it. */
static void tidy(dyn_http_hub *self, lane *which)
{
    if (which->links > 0 || which->first_waiting != NULL) return;
    lane **at = &self->lanes;
    while (*at != which) at = &(*at)->next;
    *at = which->next;
    dyn_http_client_unref(which->client);
    dyn__free(which);
}

static void bury(dyn_http_hub *self, lane *which, dyn__link *link)
{
    which->links--;
    if (!self->walking) {
        dyn__link_free(link);
        return;
    }
    link->call = NULL;
    link->ended = link->ended || link->tls == NULL; /* only TLS has something to say at the end */
    link->next = self->buried;
    self->buried = link;
}

static void exhume(dyn_http_hub *self)
{
    while (self->buried != NULL) {
        dyn__link *link = self->buried;
        self->buried = link->next;
        dyn__link_free(link);
    }
}

/* ---- calls ------------------------------------------------------------------------------------- */

static int attach(dyn_http_hub *self, lane *which, dyn_http_call *call, bool fresh)
{
    dyn__link *link = NULL;
    while (!fresh && which->idle != NULL) {
        link = which->idle;
        which->idle = link->next;
        which->idle_count--;
        if (dyn__link_good(link, dyn_now_ns())) break;
        bury(self, which, link);
        link = NULL;
    }
    if (link != NULL) {
        atomic_fetch_add_explicit(&which->client->reused, 1, memory_order_relaxed);
    } else {
        int rc = dyn__link_new(&link, which->client, self);
        if (rc < 0) return rc;
        which->links++;
    }
    dyn__call_attach(call, link);
    return DYN_OK;
}

static void advance(dyn_http_hub *self, dyn_http_call *call)
{
    int rc;
    while ((rc = dyn__call_step(call)) == DYN__FRESH) {
        lane *which = lane_of(self, call->client);
        if ((rc = attach(self, which, call, true)) < 0) {
            dyn__call_fail(call, rc);
            break;
        }
    }
    bool relaxed = call->congested && dyn_http_call_unsent(call) <= 64 * 1024;
    if (relaxed) call->congested = false;
    if (rc != DYN_EAGAIN || relaxed) tell(self, call);
    if (call->phase >= DYN_HTTP_CALL_DONE)
        remove_active(self, call);
    else
        arm(self, dyn__call_wakes_ns(call));
}

/* Give calls that wait the links that came free. A loop, not a recursion: each may fail at once. */
static void let_in(dyn_http_hub *self)
{
    for (lane *at = self->lanes, *next; at != NULL; at = next) {
        next = at->next;
        while (at->first_waiting != NULL && (at->idle != NULL || at->links < at->client->limits.max_connections)) {
            dyn_http_call *call = at->first_waiting;
            at->first_waiting = call->next;
            if (at->first_waiting == NULL) at->last_waiting = NULL;
            call->waiting = false;
            add_active(self, call);
            int rc = attach(self, at, call, false);
            if (rc < 0) {
                dyn__call_fail(call, rc);
                remove_active(self, call);
                tell(self, call);
            } else
                advance(self, call);
        }
        tidy(self, at);
    }
}

void dyn_http_hub_start(dyn_http_hub *self, dyn_http_call *call, void *user)
{
    lane *which = lane_of(self, call->client);
    call->user = user;
    call->hub = self;
    if (call->phase >= DYN_HTTP_CALL_DONE || call->link != NULL) {
        dyn__fail(DYN_EBUSY, "a call is started once");
        dyn__call_fail(call, DYN_EBUSY);
        tell(self, call);
        return;
    }
    if (which == NULL) {
        which = dyn__calloc(1, sizeof(*which));
        if (which == NULL) {
            dyn__call_fail(call, DYN_ENOMEM);
            tell(self, call);
            return;
        }
        which->client = dyn_http_client_ref(call->client);
        which->next = self->lanes;
        self->lanes = which;
    }
    call->next = NULL;
    call->prev = which->last_waiting;
    call->waiting = true;
    if (which->last_waiting != NULL)
        which->last_waiting->next = call;
    else
        which->first_waiting = call;
    which->last_waiting = call;
    let_in(self);
    if (call->waiting) arm(self, call->deadline_ns);
}

void dyn_http_hub_go_on(dyn_http_hub *self, dyn_http_call *call)
{
    if (!call->active || call->link == NULL) return;
    call->hungry = true;
    advance(self, call);
    let_in(self);
}

void dyn__hub_release(dyn_http_call *call, dyn__link *link, bool keep)
{
    dyn_http_hub *self = call->hub;
    lane *which = lane_of(self, call->client);
    /* With calls that wait, a link above max_idle is still worth keeping. */
    bool full = which->idle_count >= which->client->limits.max_idle && which->first_waiting == NULL;
    if (!keep || full) {
        bury(self, which, link);
        return;
    }
    link->used = true;
    link->idle_since_ns = dyn_now_ns();
    link->next = which->idle;
    which->idle = link;
    which->idle_count++;
    arm(self, link->idle_since_ns + which->client->limits.idle_timeout_ms * UINT64_C(1000000));
}

static void stop_waiting(dyn_http_hub *self, dyn_http_call *call)
{
    lane *which = lane_of(self, call->client);
    dyn_http_call *before = NULL;
    for (dyn_http_call *at = which->first_waiting; at != call; at = at->next) before = at;
    if (before != NULL)
        before->next = call->next;
    else
        which->first_waiting = call->next;
    if (which->last_waiting == call) which->last_waiting = before;
    call->waiting = false;
}

void dyn__hub_forget(dyn_http_call *call)
{
    dyn_http_hub *self = call->hub;
    if (call->waiting) stop_waiting(self, call);
    remove_active(self, call);
    if (call->in_news) {
        dyn_http_call **at = &self->first_news, *before = NULL;
        while (*at != call) before = *at, at = &(*at)->next_news;
        *at = call->next_news;
        if (self->last_news == call) self->last_news = before;
    }
    call->hub = NULL;
    let_in(self);
}

/* ---- time -------------------------------------------------------------------------------------- */

static void close_old(dyn_http_hub *self, lane *which, uint64_t now, uint64_t *next)
{
    uint64_t lives = which->client->limits.idle_timeout_ms * UINT64_C(1000000);
    for (dyn__link **at = &which->idle; *at != NULL;) {
        dyn__link *link = *at;
        if (now - link->idle_since_ns < lives) {
            if (link->idle_since_ns + lives < *next) *next = link->idle_since_ns + lives;
            at = &link->next;
            continue;
        }
        *at = link->next;
        which->idle_count--;
        bury(self, which, link);
    }
}

static void on_timer(dyn_http_hub *self)
{
    uint64_t now = dyn_now_ns(), next = UINT64_MAX;
    self->timer_ns = 0;
    for (dyn_http_call *call = self->active, *after; call != NULL; call = after) {
        after = call->next;
        if (call->deadline_ns <= now) {
            dyn__call_timed_out(call);
            remove_active(self, call);
            tell(self, call);
            continue;
        }
        if (dyn__call_wakes_ns(call) <= now) {
            advance(self, call);
            after = call->active ? call->next : after;
        }
        if (call->phase < DYN_HTTP_CALL_DONE && dyn__call_wakes_ns(call) < next) next = dyn__call_wakes_ns(call);
    }
    for (lane *at = self->lanes; at != NULL; at = at->next) {
        for (dyn_http_call *call = at->first_waiting, *after; call != NULL; call = after) {
            after = call->next;
            if (call->deadline_ns <= now) {
                stop_waiting(self, call);
                dyn__call_timed_out(call);
                tell(self, call);
            } else if (call->deadline_ns < next)
                next = call->deadline_ns;
        }
        close_old(self, at, now, &next);
    }
    arm(self, next);
}

/* A kept-alive connection has something to say: a TLS ticket, or its end. */
static void look_at_idle(dyn_http_hub *self, dyn__link *link)
{
    lane *which = lane_of(self, link->client);
    if (dyn__link_good(link, dyn_now_ns())) return;
    dyn__link **at = &which->idle;
    while (*at != link) at = &(*at)->next;
    *at = link->next;
    which->idle_count--;
    bury(self, which, link);
}

static bool is_buried(const dyn_http_hub *self, const dyn__link *link)
{
    for (const dyn__link *at = self->buried; at != NULL; at = at->next)
        if (at == link) return true;
    return false;
}

void dyn_http_hub_turn(dyn_http_hub *self)
{
    dyn__ready ready[AT_ONCE];
    int count = dyn__poller_take(&self->poller, ready, AT_ONCE);
    bool timer = false;
    self->walking = true;
    for (int i = 0; i < count; i++) {
        dyn__link *link = ready[i].user;
        if (link == NULL) {
            timer = true;
            continue;
        }
        if (self->buried != NULL && is_buried(self, link)) continue;
        link->readable |= ready[i].readable;
        link->writable |= ready[i].writable;
        link->ending |= ready[i].ending;
        if (link->call != NULL)
            advance(self, link->call);
        else if (ready[i].readable)
            look_at_idle(self, link);
    }
    if (timer) on_timer(self);
    self->walking = false;
    exhume(self);
    let_in(self);
}

void dyn_http_hub_close_idle(dyn_http_hub *self, const dyn_http_client *client)
{
    lane *which = lane_of(self, client);
    if (which == NULL) return;
    while (which->idle != NULL) {
        dyn__link *link = which->idle;
        which->idle = link->next;
        which->idle_count--;
        bury(self, which, link);
    }
    tidy(self, which);
}

void dyn_http_hub_free(dyn_http_hub *self)
{
    if (self == NULL) return;
    for (lane *at = self->lanes; at != NULL; at = at->next)
        while (at->first_waiting != NULL) {
            dyn_http_call *call = at->first_waiting;
            stop_waiting(self, call);
            dyn_error_clear();
            dyn__call_fail(call, DYN_ECANCELED);
            call->hub = NULL;
        }
    while (self->active != NULL) {
        dyn_http_call *call = self->active;
        dyn_error_clear();
        dyn__call_fail(call, DYN_ECANCELED);
        remove_active(self, call);
        call->hub = NULL;
    }
    dyn_http_call *call;
    while ((call = dyn_http_hub_news(self)) != NULL) call->hub = NULL;
    while (self->lanes != NULL) {
        lane *at = self->lanes;
        while (at->idle != NULL) {
            dyn__link *link = at->idle;
            at->idle = link->next;
            bury(self, at, link);
        }
        tidy(self, at);
    }
    dyn__poller_close(&self->poller);
    dyn__free(self);
}
