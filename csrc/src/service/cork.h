/* service/cork.h -- inside csrc: the list of a cork. */
#ifndef DYN_SRC_SERVICE_CORK_H
#define DYN_SRC_SERVICE_CORK_H

#include "service/conn.h"

struct dyn_cork {
    dyn__conn **conns;
    size_t count, room;
};

bool dyn__cork_add(dyn_cork *self, dyn__conn *conn); /* with the connection's lock; false: no memory */

#endif
