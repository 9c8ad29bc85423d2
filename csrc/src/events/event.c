/* event.c -- see dynamo/events.h for the contract.
 * I1  room > 0: both arrays are ours, with room for `room` hashes each, in one allocation that block_hashes heads.
 */
#include "common/common.h"
#include "dynamo/events.h"

void dyn_event_init(dyn_event *self)
{
    *self = (dyn_event){0};
}

void dyn_event_reset(dyn_event *self)
{
    if (self->room > 0) dyn__free(self->block_hashes);
    *self = (dyn_event){0};
}

int dyn_event_reserve(dyn_event *self, size_t count)
{
    size_t room = self->room ? self->room : 32;
    uint64_t *both;
    if (count <= self->room) return DYN_OK;
    if (count > SIZE_MAX / (4 * sizeof(*both))) return DYN_ENOMEM;
    while (room < count) room *= 2;
    if ((both = dyn__malloc(2 * room * sizeof(*both))) == NULL) return DYN_ENOMEM;
    if (self->count > 0) {
        memcpy(both, self->block_hashes, self->count * sizeof(*both));
        memcpy(both + room, self->tokens_hashes, self->count * sizeof(*both));
    }
    if (self->room > 0) dyn__free(self->block_hashes);
    self->block_hashes = both;
    self->tokens_hashes = both + room;
    self->room = room;
    return DYN_OK;
}

const char *dyn_event_tier_name(enum dyn_event_tier tier)
{
    static const char *const names[] = {"device", "host_pinned", "disk", "external"};
    return (unsigned)tier < DYN__COUNT(names) ? names[tier] : "device";
}
