/* engine.c -- see dynamo/mocker.h, "in real time", for the contract.
 *
 *   lock { step: tokens into `mail` } -> sleep(duration / speedup) -> put(mail) -> again, or wait for a request
 *
 * I1  `mail` has room for one token of every sequence that may run, before a step begins.
 */
#include <uv.h>

#include "common/common.h"
#include "dynamo/mocker.h"

struct dyn_mocker_engine {
    dyn_mocker *mocker;
    dyn_mailbox *box;
    void *owner;
    dyn_mocker_mail *mail; /* being filled by the step under way */
    dyn_mocker_sink events;
    double speedup;
    size_t room;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t wake;
    bool stopping;
};

static void drop_mail(dyn_mail *mail)
{
    dyn__free(mail);
}

static void keep_token(void *user, const dyn_mocker_token *token)
{
    dyn_mocker_engine *self = user;
    assert(self->mail->count < self->room);
    self->mail->tokens[self->mail->count++] = *token;
}

static void pass_stored(void *user, const uint64_t *parent, const uint64_t *sequences, const uint64_t *locals,
                        size_t count)
{
    dyn_mocker_engine *self = user;
    if (self->events.stored != NULL) self->events.stored(self->events.user, parent, sequences, locals, count);
}

static void pass_removed(void *user, const uint64_t *sequences, size_t count)
{
    dyn_mocker_engine *self = user;
    if (self->events.removed != NULL) self->events.removed(self->events.user, sequences, count);
}

static dyn_mocker_mail *new_mail(const dyn_mocker_engine *self)
{
    dyn_mocker_mail *mail = dyn__malloc(sizeof(*mail) + self->room * sizeof(mail->tokens[0]));
    if (mail != NULL) *mail = (dyn_mocker_mail){.mail = {.owner = self->owner, .drop = drop_mail}};
    return mail;
}

/* Sleep with the lock given up, until the time is over or the engine stops. */
static void rest(dyn_mocker_engine *self, double ms)
{
    uint64_t until = dyn_now_ns() + (uint64_t)(ms * 1e6);
    for (uint64_t now; !self->stopping && (now = dyn_now_ns()) < until;)
        uv_cond_timedwait(&self->wake, &self->lock, until - now);
}

static void thread_main(void *arg)
{
    dyn_mocker_engine *self = arg;
    double ms;
    uv_mutex_lock(&self->lock);
    while (!self->stopping) {
        if (dyn_mocker_idle(self->mocker)) {
            uv_cond_wait(&self->wake, &self->lock);
            continue;
        }
        if (self->mail == NULL && (self->mail = new_mail(self)) == NULL) { /* I1; memory may come back */
            rest(self, 10.0);
            continue;
        }
        dyn_mocker_step(self->mocker, &ms);
        if (self->speedup > 0.0) rest(self, ms / self->speedup);
        if (self->mail->count == 0) continue;
        dyn_mocker_mail *mail = self->mail;
        self->mail = NULL;
        if (self->stopping)
            drop_mail(&mail->mail);
        else
            dyn_mailbox_put(self->box, &mail->mail);
    }
    uv_mutex_unlock(&self->lock);
}

int dyn_mocker_engine_new(dyn_mocker_engine **out, const dyn_mocker_config *config, double speedup,
                          const dyn_mocker_sink *events, dyn_mailbox *box, void *owner)
{
    if (!(speedup >= 0.0)) return dyn__fail(DYN_EINVAL, "speedup %g: must be 0 or more", speedup);
    dyn_mocker_engine *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    const dyn_mocker_sink sink = {self, keep_token, pass_stored, pass_removed, NULL};
    int rc = dyn_mocker_new(&self->mocker, config, &sink);
    if (rc < 0) goto no_mocker;
    if (events != NULL) self->events = *events;
    self->speedup = speedup;
    self->room = config->max_sequences;
    self->owner = owner;
    rc = DYN_EIO;
    if (uv_mutex_init(&self->lock) != 0) goto no_lock;
    if (uv_cond_init(&self->wake) != 0) goto no_cond;
    self->box = dyn_mailbox_ref(box);
    if (uv_thread_create(&self->thread, thread_main, self) != 0) goto no_thread;
    *out = self;
    return DYN_OK;
no_thread:
    dyn_mailbox_unref(self->box);
    uv_cond_destroy(&self->wake);
no_cond:
    uv_mutex_destroy(&self->lock);
no_lock:
    dyn_mocker_free(self->mocker);
no_mocker:
    dyn__free(self);
    return rc;
}

void dyn_mocker_engine_free(dyn_mocker_engine *self)
{
    if (self == NULL) return;
    uv_mutex_lock(&self->lock);
    self->stopping = true;
    uv_cond_broadcast(&self->wake);
    uv_mutex_unlock(&self->lock);
    uv_thread_join(&self->thread);
    uv_cond_destroy(&self->wake);
    uv_mutex_destroy(&self->lock);
    dyn_mocker_free(self->mocker);
    dyn_mailbox_unref(self->box);
    dyn__free(self->mail);
    dyn__free(self);
}

int dyn_mocker_engine_submit(dyn_mocker_engine *self, uint64_t request, const uint32_t *tokens, size_t count,
                             size_t output)
{
    uv_mutex_lock(&self->lock);
    int rc = dyn_mocker_submit(self->mocker, request, tokens, count, output);
    if (rc == DYN_OK) uv_cond_signal(&self->wake);
    uv_mutex_unlock(&self->lock);
    return rc;
}

int dyn_mocker_engine_cancel(dyn_mocker_engine *self, uint64_t request)
{
    uv_mutex_lock(&self->lock);
    int rc = dyn_mocker_cancel(self->mocker, request);
    uv_mutex_unlock(&self->lock);
    return rc;
}

void dyn_mocker_engine_clear(dyn_mocker_engine *self)
{
    uv_mutex_lock(&self->lock);
    dyn_mocker_clear(self->mocker);
    uv_mutex_unlock(&self->lock);
}

void dyn_mocker_engine_get_stats(dyn_mocker_engine *self, dyn_mocker_stats *out)
{
    uv_mutex_lock(&self->lock);
    dyn_mocker_get_stats(self->mocker, out);
    uv_mutex_unlock(&self->lock);
}
