/* cork.c -- see dynamo/service.h: which connections have something to say at the end of this turn.
 *
 * I1  Each entry is a reference; a connection whose `cork` is this one is in the list.
 */
#include "service/cork.h"

int dyn_cork_new(dyn_cork **out)
{
    dyn_cork *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    *out = self;
    return DYN_OK;
}

void dyn_cork_free(dyn_cork *self)
{
    if (self == NULL) return;
    dyn_cork_flush(self);
    dyn__free(self->conns);
    dyn__free(self);
}

bool dyn_cork_dirty(const dyn_cork *self)
{
    return self->count > 0;
}

bool dyn__cork_add(dyn_cork *self, dyn__conn *conn)
{
    if (self->count == self->room) {
        size_t room = self->room == 0 ? 8 : self->room * 2;
        dyn__conn **conns = dyn__realloc(self->conns, room * sizeof(dyn__conn *));
        if (conns == NULL) return false;
        self->conns = conns, self->room = room;
    }
    self->conns[self->count++] = dyn__conn_ref(conn);
    return true;
}

void dyn_cork_flush(dyn_cork *self)
{
    /* A flush may break a connection, never add to this cork: only its own thread does, which is here. */
    for (size_t i = 0; i < self->count; i++) {
        dyn__conn *conn = self->conns[i];
        dyn__conn_lock(conn);
        if (conn->cork == self) conn->cork = NULL;
        dyn__conn_push(conn, NULL);
        dyn__conn_unref(conn);
    }
    self->count = 0;
}
