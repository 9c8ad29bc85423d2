/* topology.h -- the machine: cores, caches, memory nodes; threads that stay where they are put; where a buffer lives.
 *
 *   package 0                        package 1
 *     node 0: memory, L3               node 1: memory, L3
 *       core 0: L2, L1d                  core 8 ...
 *         thread 0, thread 1               thread 16, thread 17
 *
 * Units    bytes; cores, threads and nodes are counted from 0 in the order of the machine ("logical" indexes), which
 *          puts neighbours next to each other.
 * Errors   int results are DYN_OK or a negative enum dyn_error.
 * Threads  a topology does not change: any number of threads may read it.
 */
#ifndef DYNAMO_TOPOLOGY_H
#define DYNAMO_TOPOLOGY_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_topology dyn_topology;
/* Look at the machine; takes some milliseconds.
 * out     receives a new topology, to be passed to dyn_topology_free().
 * errors  DYN_ENOMEM, DYN_EIO. */
DYN_API int dyn_topology_new(dyn_topology **out);
DYN_API void dyn_topology_free(dyn_topology *self); /* NULL is allowed */

typedef struct dyn_topology_info {
    uint32_t packages, nodes, cores;
    uint32_t threads;     /* hardware threads of the machine, 2 per core with SMT */
    uint32_t usable;      /* those that this process might run on when the topology was made: affinity,
                                          cpusets; a cgroup's quota does not count */
    uint64_t l1d, l2, l3; /* bytes of one cache; 0: none, or unknown */
    uint32_t line;        /* bytes of a cache line */
    uint64_t memory;      /* of all nodes; 0: unknown */
} dyn_topology_info;
DYN_API void dyn_topology_read(const dyn_topology *self, dyn_topology_info *out);

/* Keep the calling thread on one usable hardware thread, or let it go back to all usable ones.
 * thread  0 to usable - 1; consecutive numbers are neighbours. -1: all.
 * errors  DYN_EINVAL (no such thread), DYN_ENOTSUP (macOS), DYN_EACCES. */
DYN_API int dyn_topology_pin(const dyn_topology *self, int thread);
/* The memory node that holds most of a buffer's pages.
 * out     the node; -1 when no page has been touched yet.
 * errors  DYN_EINVAL (empty buffer), DYN_ENOTSUP, DYN_EIO. */
DYN_API int dyn_topology_where(const dyn_topology *self, const void *buffer, size_t bytes, int *out);

/* The best instruction set that both this library and this CPU have: "avx512", "avx2", "neon" or "scalar". Static. */
DYN_API const char *dyn_simd_level(void);

#ifdef __cplusplus
}
#endif
#endif
