/* keep.c -- what is kept for readers that come by: a bounded queue of events, a table of loads. */
#include <pthread.h>

#include "common/common.h"
#include "dynamo/events.h"
#include "dynamo/mailbox.h"

struct kept {
    dyn_mail mail;
    dyn_event_text *text;
};

struct dyn_event_queue {
    dyn_mailbox *box;
    enum dyn_event_form form;
    size_t bound;
    atomic_size_t waiting;
    atomic_uint_fast64_t dropped;
};

static void drop(dyn_mail *mail)
{
    struct kept *kept = DYN__CONTAINER(mail, struct kept, mail);
    dyn__free(kept->text);
    dyn__free(kept);
}

int dyn_event_queue_new(dyn_event_queue **out, enum dyn_event_form form, size_t bound)
{
    dyn_event_queue *self = dyn__calloc(1, sizeof(*self));
    int rc;
    if (self == NULL) return DYN_ENOMEM;
    if ((rc = dyn_mailbox_new(&self->box)) < 0) {
        dyn__free(self);
        return rc;
    }
    self->form = form;
    self->bound = bound ? bound : 100000;
    *out = self;
    return DYN_OK;
}

void dyn_event_queue_free(dyn_event_queue *self)
{
    if (self == NULL) return;
    dyn_mailbox_unref(self->box);
    dyn__free(self);
}

int dyn_event_queue_on_event(void *queue, const dyn_event *event)
{
    dyn_event_queue *self = queue;
    struct kept *kept = NULL;
    dyn_event_text *text;
    if (atomic_fetch_add(&self->waiting, 1) >= self->bound) {
        atomic_fetch_sub(&self->waiting, 1);
        if (atomic_fetch_add(&self->dropped, 1) == 0) {
            dyn_log(DYN_LOG_WARN, "events", "events are dropped: %zu wait already, and nobody takes them", self->bound);
        }
        return DYN_EOVERLOAD;
    }
    if ((text = dyn__malloc(sizeof(*text) + dyn_event_json_bound(event))) == NULL ||
        (kept = dyn__malloc(sizeof(*kept))) == NULL) {
        dyn__free(text);
        atomic_fetch_sub(&self->waiting, 1);
        atomic_fetch_add(&self->dropped, 1);
        return DYN_ENOMEM;
    }
    text->next = NULL;
    text->size = dyn_event_write_json(event, self->form, text->text);
    *kept = (struct kept){.mail = {.drop = drop}, .text = text};
    dyn_mailbox_put(self->box, &kept->mail);
    return DYN_OK;
}

int dyn_event_queue_fd(const dyn_event_queue *self)
{
    return dyn_mailbox_fd(self->box);
}

dyn_event_text *dyn_event_queue_take(dyn_event_queue *self)
{
    dyn_event_text *first = NULL, **last = &first;
    dyn_mail *after;
    for (dyn_mail *mail = dyn_mailbox_take(self->box); mail; mail = after) {
        struct kept *kept = DYN__CONTAINER(mail, struct kept, mail);
        after = mail->next;
        *last = kept->text;
        last = &kept->text->next;
        dyn__free(kept);
        atomic_fetch_sub(&self->waiting, 1);
    }
    return first;
}

void dyn_event_text_free(dyn_event_text *self)
{
    dyn__free(self);
}

uint64_t dyn_event_queue_dropped(const dyn_event_queue *self)
{
    return atomic_load(&self->dropped);
}

/* ---- loads ------------------------------------------------------------------------------------ */

enum { MAX_LOADS = 65536 };

struct dyn_load_table {
    pthread_mutex_t lock;
    dyn_load *loads; /* few: a walk finds one */
    size_t count, room;
};

int dyn_load_table_new(dyn_load_table **out)
{
    dyn_load_table *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    pthread_mutex_init(&self->lock, NULL);
    *out = self;
    return DYN_OK;
}

void dyn_load_table_free(dyn_load_table *self)
{
    if (self == NULL) return;
    pthread_mutex_destroy(&self->lock);
    dyn__free(self->loads);
    dyn__free(self);
}

static dyn_load *slot(dyn_load_table *self, const dyn_load *load)
{
    for (size_t i = 0; i < self->count; i++) {
        if (self->loads[i].worker_id == load->worker_id && self->loads[i].dp_rank == load->dp_rank) {
            return &self->loads[i];
        }
    }
    if (self->count == MAX_LOADS) return NULL;
    if (self->count == self->room) {
        size_t room = self->room ? 2 * self->room : 8;
        dyn_load *loads = dyn__realloc(self->loads, room * sizeof(*loads));
        if (loads == NULL) return NULL;
        self->loads = loads, self->room = room;
    }
    self->loads[self->count] = (dyn_load){.worker_id = load->worker_id, .dp_rank = load->dp_rank};
    return &self->loads[self->count++];
}

void dyn_load_table_on_load(void *table, const dyn_load *load)
{
    dyn_load_table *self = table;
    pthread_mutex_lock(&self->lock);
    dyn_load *kept = slot(self, load);
    for (int i = 0; kept && i < DYN_LOAD_FIELDS; i++) {
        if (load->known >> i & 1) kept->value[i] = load->value[i];
    }
    if (kept) kept->known |= load->known;
    pthread_mutex_unlock(&self->lock);
}

void dyn_load_table_remove(dyn_load_table *self, uint64_t worker_id)
{
    pthread_mutex_lock(&self->lock);
    for (size_t i = 0; i < self->count;) {
        if (self->loads[i].worker_id == worker_id)
            self->loads[i] = self->loads[--self->count];
        else
            i++;
    }
    pthread_mutex_unlock(&self->lock);
}

size_t dyn_load_table_get(dyn_load_table *self, dyn_load *out, size_t room)
{
    pthread_mutex_lock(&self->lock);
    size_t count = self->count;
    if (room > count) room = count;
    if (room > 0) memcpy(out, self->loads, room * sizeof(*out));
    pthread_mutex_unlock(&self->lock);
    return count;
}
