/* events/mirror.h -- inside events: which blocks a publisher's worker holds now, for subscribers that come too late.
 *
 * What the ring of a publisher no longer has cannot be replayed; what it led to can be told. Only blocks on the device.
 * Threads  one at a time; a copy is its owner's alone.
 */
#ifndef DYN_SRC_EVENTS_MIRROR_H
#define DYN_SRC_EVENTS_MIRROR_H

#include "dynamo/events.h"

struct dyn__mirror_slot {
    uint64_t block, tokens, parent;
    uint32_t rank;
    uint8_t used, has_parent, mark; /* mark: of a walk, in a copy */
};
typedef struct dyn__mirror { /* {0} is empty */
    struct dyn__mirror_slot *slots;
    size_t room, count; /* room: a power of two, or 0 */
    size_t most;        /* blocks; beyond it the mirror is of no use any more */
    bool off;           /* something could not be kept: nothing is, until the worker's only rank is cleared */
    uint32_t rank;      /* the first that stored something ... */
    bool ranked, ranks; /* ... is there; there are others */
} dyn__mirror;

void dyn__mirror_free(dyn__mirror *self);
/* What an event changes. Cannot fail: without memory, or over the bound, the mirror is off. */
void dyn__mirror_apply(dyn__mirror *self, const dyn_event *event);
/* errors  DYN_ENOMEM, DYN_EUNAVAIL (off). */
int dyn__mirror_copy(dyn__mirror *out, const dyn__mirror *self);
/* Call `each` with stored events that lead from nothing to what is there, parents first; a block whose parent is not
 * there is left out, as no prefix reaches it. Marks the slots: on a copy, once.
 * each    borrows the event; its negative result ends the walk and is returned.
 * errors  DYN_ENOMEM. */
int dyn__mirror_walk(dyn__mirror *self, int (*each)(void *user, const dyn_event *event), void *user);

#endif
