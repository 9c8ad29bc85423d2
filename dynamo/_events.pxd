from dynamo.c_events cimport dyn_event_pub, dyn_event_queue, dyn_event_source, dyn_event_sub, dyn_load_table
from dynamo.c_kv_sink cimport dyn_kv_sink


# Where a subscriber writes. Who owns what `sink.user` points at hands out one of these from `_kv_sink()` (or a
# RadixTree, or a capsule "dyn_kv_sink"), with itself as `owner`, so that it lives while events come.
cdef class KvSink:
    cdef dyn_kv_sink sink
    cdef object owner


cdef class EventChannel:
    cdef dyn_event_pub *ptr     # owned; NULL when closed
    cdef object _endpoint
    cdef object _replay_endpoint
    cdef readonly object publisher_id
    cdef readonly object worker_id
    cdef readonly object block_size
    cdef readonly object dp_rank
    cdef readonly str subject
    cdef bint engine
    cdef object __weakref__
    cdef dyn_event_pub *live(self) except NULL


cdef class EventQueue:
    cdef dyn_event_queue *ptr   # owned
    cdef object taken           # of asyncio waiters: the loop's reader is there


cdef class LoadTable:
    cdef dyn_load_table *ptr    # owned


cdef class EventSubscriber:
    cdef dyn_event_sub *ptr     # owned; NULL when closed
    cdef object lock            # held by whoever is in C without the GIL: close and remove wait for each other
    cdef dict owners            # id of a source -> what its callbacks use
    cdef object __weakref__


cdef class EventSource:
    cdef EventSubscriber subscriber
    cdef dyn_event_source *ptr  # the subscriber's; NULL when closed
    cdef object key
    cdef readonly object worker_id
    cdef readonly str endpoint
