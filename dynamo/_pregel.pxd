# The parts of a superstep, shared with dynamo/_superstep.pyx.
from libc.stdint cimport int64_t

from dynamo._channels cimport BaseChannel


cdef class View:
    cdef frozenset names
    cdef tuple order
    cdef dict values                # of those that have one, in order; but for
    cdef set stale                  # those that have changed since
    cdef list vanishing             # names of channels that an idle superstep empties
    cdef dict fresh(self, ChannelMap board)
    cdef dict with_writes(self, ChannelMap board, dict written)


cdef class ChannelMap(dict):
    cdef set live                   # names of channels that an idle superstep may have to empty
    cdef list finishing             # names of channels that finish() may release
    cdef list asked                 # names of channels of users' classes
    cdef object top                 # the highest version in `top_of`, when that is the dict asked about
    cdef dict top_of
    cdef dict views                 # tuple of names -> View, or None where there can be none
    cdef dict asked_for             # the same by the id of a list of names, with the list, which must not change
    cdef int learn(self) except -1
    cdef View view(self, names)
    cdef int touched(self, name) except -1


cdef class Counter:
    cdef Py_ssize_t next


cdef class NullResume:
    cdef object parent
    cdef list pending
    cdef tuple write


cdef class PregelScratchpad:
    cdef readonly object step
    cdef readonly object stop
    cdef readonly list resume
    cdef object calls
    cdef object asked
    cdef object subgraphs
    cdef object null


cdef class LocalRead:
    cdef object scratchpad
    cdef object channels
    cdef object managed
    cdef object writes


cdef class NodePlan:
    cdef object proc
    cdef object name
    cdef object node
    cdef object mapper
    cdef object channels
    cdef tuple triggers
    cdef list trigger_list
    cdef bytes pull_tail
    cdef object retry_policy
    cdef object cache_policy
    cdef object tags
    cdef object metadata
    cdef object writers
    cdef object subgraphs
    cdef object timeout
    cdef object recipe              # how _superstep.pyx runs the node; None until asked for
    cdef bint holds(self, name, proc)


cdef class Preparer:
    cdef object processes
    cdef object channels
    cdef object managed
    cdef object store
    cdef object checkpointer
    cdef object manager
    cdef bint watched
    cdef object retry               # policies of the graph
    cdef object caching
    cdef bint for_execution
    cdef dict plans
    # derived from the config last asked about
    cdef object base_of
    cdef dict base
    cdef dict base_meta
    cdef bint nested_meta
    # of the superstep being prepared
    cdef object config
    cdef dict conf
    cdef object checkpoint
    cdef bytes id_bytes
    cdef object null_version
    cdef list pending
    cdef object step
    cdef object stop
    cdef str parent_ns
    cdef bytes step_bytes
    cdef dict input_cache
    cdef bint old_ids

    cdef int set_up(self, processes, channels, managed, store, checkpointer, manager, retry_policy,
                    cache_policy) except -1
    cdef int begin(self, checkpoint, list pending, config, step, stop) except -1
    cdef NodePlan plan(self, name)
    cdef str id_of(self, checkpoint_ns, bytes tail)
    cdef dict all_tasks(self, trigger_to_nodes, updated_channels)
    cdef pull(self, NodePlan plan)
    cdef push(self, Py_ssize_t index)
    cdef call(self, tuple path)
    cdef handler(self, failed, name, error)
    cdef read_input(self, NodePlan plan, scratchpad)
    cdef dict read_list(self, list names, scratchpad)
    cdef cache_key(self, policy, tuple space, value)
    cdef finished(self, name, str task_id, tuple path, value, proc, dict metadata, tuple triggers, tags, retry,
                  cache_key, callbacks, scratchpad, str task_ns, writers, subgraphs, timeout, bint previous,
                  dict extra)
    cdef int rebase(self, config) except -1
    cdef dict config_for(self, name, dict metadata, tags, callbacks, dict patch)


cpdef str checkpoint_id(int64_t step)
cpdef dict empty_checkpoint()
cpdef tuple fresh_channels(specs, values)
cdef str task_path(path)
cdef set apply_writes_to(checkpoint, channels, list tasks, get_next_version, trigger_to_nodes)
cdef str hex_id(bytes data)
cdef runtime_inside(runtime, store, writer)
cdef add_note(exc, text)
cdef bint triggered(channels, dict versions, dict seen, null_version, list triggers) except -1
cdef read_channels(channels, select, dict written)
