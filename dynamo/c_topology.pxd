# Mirrors dynamo/topology.h.
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "dynamo/topology.h" nogil:
    ctypedef struct dyn_topology:
        pass
    int dyn_topology_new(dyn_topology **out)
    void dyn_topology_free(dyn_topology *self)
    ctypedef struct dyn_topology_info:
        uint32_t packages
        uint32_t nodes
        uint32_t cores
        uint32_t threads
        uint32_t usable
        uint64_t l1d
        uint64_t l2
        uint64_t l3
        uint32_t line
        uint64_t memory
    void dyn_topology_read(const dyn_topology *self, dyn_topology_info *out)
    int dyn_topology_pin(const dyn_topology *self, int thread)
    int dyn_topology_where(const dyn_topology *self, const void *buffer, size_t bytes, int *out)
    const char *dyn_simd_level()
