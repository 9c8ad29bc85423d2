/* service/ids.h -- stream number -> stream of one connection. Not thread-safe; 0 is no number. */
#ifndef DYN_SRC_SERVICE_IDS_H
#define DYN_SRC_SERVICE_IDS_H

#include "common/common.h"

typedef struct dyn__ids { /* {0} is empty */
    struct dyn__id {
        uint64_t id; /* 0: free */
        void *value;
    } *slots;
    size_t count, room; /* room is a power of two; count <= room / 2 */
} dyn__ids;

void *dyn__ids_get(const dyn__ids *self, uint64_t id);
int dyn__ids_put(dyn__ids *self, uint64_t id, void *value); /* DYN_ENOMEM; the id must be new */
void *dyn__ids_take(dyn__ids *self, uint64_t id);           /* removes it; NULL when it is not there */
void dyn__ids_free(dyn__ids *self);

#endif
