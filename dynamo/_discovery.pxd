cimport cython

from dynamo.c_discovery cimport dyn_lease, dyn_store


@cython.final
cdef class Lease:
    cdef dyn_lease *ptr         # owned; NULL when revoked
    cdef int generation         # of processes: it ends in the one that made it, also when its store is gone
    cdef object number
    cdef object __weakref__
    cpdef revoke(self)


@cython.final
cdef class Store:
    cdef dyn_store *ptr         # one reference of ours; NULL when closed. Take your own with dyn_store_ref().
    cdef Lease session          # what put() uses without a lease
    cdef set leases             # strong: a lease lives as long as its store, or until it is revoked
    cdef object watches         # weak
    cdef object __weakref__
    cdef dyn_store *open_ptr(self) except NULL
    cpdef close(self)
