"""The machine: cores, caches, memory nodes."""
cimport cython
from libc.stdint cimport uint8_t

from dynamo._errors cimport check
from dynamo.c_topology cimport (
    dyn_simd_level, dyn_topology, dyn_topology_free, dyn_topology_info, dyn_topology_new, dyn_topology_pin,
    dyn_topology_read, dyn_topology_where)


@cython.final
cdef class Topology:
    """The machine as it was when this was made.

    Attributes
    ----------
    packages, nodes, cores, threads : int
        Sockets, memory nodes, cores, hardware threads of the machine.
    usable : int
        Hardware threads that this process might run on (affinity, cpusets; a cgroup's quota does not count).
    l1d, l2, l3, line : int
        Bytes of one cache and of a cache line; 0 when there is none or nobody says.
    memory : int
        Bytes of all memory nodes.
    """

    cdef dyn_topology *ptr
    cdef dyn_topology_info info

    def __cinit__(self):
        cdef int rc
        with nogil:
            rc = dyn_topology_new(&self.ptr)
        check(rc)
        dyn_topology_read(self.ptr, &self.info)

    def __dealloc__(self):
        dyn_topology_free(self.ptr)

    @property
    def packages(self):
        return self.info.packages

    @property
    def nodes(self):
        return self.info.nodes

    @property
    def cores(self):
        return self.info.cores

    @property
    def threads(self):
        return self.info.threads

    @property
    def usable(self):
        return self.info.usable

    @property
    def l1d(self):
        return self.info.l1d

    @property
    def l2(self):
        return self.info.l2

    @property
    def l3(self):
        return self.info.l3

    @property
    def line(self):
        return self.info.line

    @property
    def memory(self):
        return self.info.memory

    def pin(self, thread=None):
        """Keep the calling thread on one usable hardware thread (0 to usable - 1); None: let it go again."""
        check(dyn_topology_pin(self.ptr, -1 if thread is None else thread))

    def node_of(self, buffer):
        """The memory node that holds most of a buffer's pages; None when no page has been touched yet."""
        cdef const uint8_t[::1] view = memoryview(buffer).cast("B")
        cdef size_t size = <size_t>view.shape[0]
        cdef int node = -1
        check(dyn_topology_where(self.ptr, &view[0] if size else NULL, size, &node))
        return None if node < 0 else node

    def __repr__(self):
        return (f"<Topology: {self.info.packages} packages, {self.info.nodes} memory nodes, {self.info.cores} cores, "
                f"{self.info.threads} threads ({self.info.usable} usable)>")


def simd_level():
    """The best instruction set of this CPU that the library makes use of: avx512, avx2, neon or scalar."""
    return dyn_simd_level().decode()
