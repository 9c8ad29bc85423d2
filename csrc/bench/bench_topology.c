/* bench_topology.c -- looking at the machine is done once; asking where a buffer lives may be done per buffer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/common.h"
#include "dynamo/topology.h"

int main(void)
{
    enum { LOOKS = 20, ASKS = 100000, BYTES = 1 << 20 };
    dyn_topology *topology;
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < LOOKS; i++) {
        if (dyn_topology_new(&topology) < 0) abort();
        if (i + 1 < LOOKS) dyn_topology_free(topology);
    }
    printf("look at the machine  %8.2f ms\n", (double)(dyn_now_ns() - start) / LOOKS / 1e6);
    char *buffer = malloc(BYTES);
    int node, rc = 0;
    memset(buffer, 1, BYTES);
    start = dyn_now_ns();
    for (int i = 0; i < ASKS && rc == 0; i++) rc = dyn_topology_where(topology, buffer, BYTES, &node);
    if (rc == 0) printf("where 1 MiB lives    %8.2f us\n", (double)(dyn_now_ns() - start) / ASKS / 1e3);
    free(buffer);
    dyn_topology_free(topology);
    return 0;
}
