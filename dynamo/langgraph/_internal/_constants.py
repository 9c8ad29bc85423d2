"""Reserved channel names, configuration keys and the marks that separate the parts of a namespace."""

import sys

_intern = sys.intern

# Channels that the engine writes and no state may declare.
INPUT = _intern("__input__")
INTERRUPT = _intern("__interrupt__")
RESUME = _intern("__resume__")
ERROR = _intern("__error__")
ERROR_SOURCE_NODE = _intern("__error_source_node__")
NO_WRITES = _intern("__no_writes__")
TASKS = _intern("__pregel_tasks")
RETURN = _intern("__return__")
PREVIOUS = _intern("__previous__")
SNAPSHOT_BUMPS = _intern("__snapshot_bumps__")

# Keys below config["configurable"]: first what callers set, then what the engine puts there for a task.
CONF = _intern("configurable")
CONFIG_KEY_THREAD_ID = _intern("thread_id")
CONFIG_KEY_CHECKPOINT_NS = _intern("checkpoint_ns")
CONFIG_KEY_CHECKPOINT_ID = _intern("checkpoint_id")
CONFIG_KEY_CHECKPOINT_MAP = _intern("checkpoint_map")

CONFIG_KEY_CACHE = _intern("__pregel_cache")
CONFIG_KEY_CALL = _intern("__pregel_call")
CONFIG_KEY_CHECKPOINTER = _intern("__pregel_checkpointer")
CONFIG_KEY_DURABILITY = _intern("__pregel_durability")
CONFIG_KEY_NODE_ERROR = _intern("__pregel_node_error")
CONFIG_KEY_NODE_FINISHED = _intern("__pregel_node_finished")
CONFIG_KEY_READ = _intern("__pregel_read")
CONFIG_KEY_REPLAY_STATE = _intern("__pregel_replay_state")
CONFIG_KEY_RESUME_MAP = _intern("__pregel_resume_map")
CONFIG_KEY_RESUMING = _intern("__pregel_resuming")
CONFIG_KEY_RUNNER_SUBMIT = _intern("__pregel_runner_submit")
CONFIG_KEY_RUNTIME = _intern("__pregel_runtime")
CONFIG_KEY_SCRATCHPAD = _intern("__pregel_scratchpad")
CONFIG_KEY_SEND = _intern("__pregel_send")
CONFIG_KEY_STREAM = _intern("__pregel_stream")
CONFIG_KEY_STREAM_MESSAGES_V2 = _intern("__pregel_stream_messages_v2")
CONFIG_KEY_STRICT_RESUME = _intern("__pregel_strict_resume")
CONFIG_KEY_TASK_ID = _intern("__pregel_task_id")
CONFIG_KEY_TIMED_ATTEMPT_OBSERVER = _intern("__pregel_timed_attempt_observer")

# How a task came to be, and the namespace of what its node caches.
PUSH = _intern("__pregel_push")
PULL = _intern("__pregel_pull")
CACHE_NS_WRITES = _intern("__pregel_ns_writes")

NS_SEP = _intern("|")  # between levels of nesting: parent|child
NS_END = _intern(":")  # between a node and its task: node:task_id

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"  # pending writes that belong to no task
OVERWRITE = _intern("__overwrite__")
_TAG_HIDDEN = _intern("langsmith:hidden")
_CHECKPOINT_COORDINATE_KEYS = (
    CONFIG_KEY_THREAD_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
)

# What neither a node nor a state key may be called.
RESERVED = {
    *(INPUT, INTERRUPT, RESUME, ERROR, ERROR_SOURCE_NODE, NO_WRITES, SNAPSHOT_BUMPS),
    *(CONFIG_KEY_SEND, CONFIG_KEY_READ, CONFIG_KEY_CHECKPOINTER, CONFIG_KEY_STREAM, CONFIG_KEY_RESUMING),
    *(CONFIG_KEY_REPLAY_STATE, CONFIG_KEY_TASK_ID, CONFIG_KEY_RESUME_MAP, CONFIG_KEY_STRICT_RESUME),
    *(CONFIG_KEY_STREAM_MESSAGES_V2, CONFIG_KEY_TIMED_ATTEMPT_OBSERVER),
    *(CONFIG_KEY_CHECKPOINT_MAP, CONFIG_KEY_CHECKPOINT_ID, CONFIG_KEY_CHECKPOINT_NS),
    *(PUSH, PULL, NS_SEP, NS_END, CONF, _TAG_HIDDEN),
}
