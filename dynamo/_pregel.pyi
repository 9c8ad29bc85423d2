from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import disjoint_base

NULL_TASK_ID: str

def bind(names: dict[str, Any]) -> None: ...
def set_reserved(names: Iterable[str]) -> None: ...
def runtime_of_run(around: Any, context: Any, store: Any, writer: Any, server: Any, control: Any) -> Any: ...
def xxh3_hex(data: bytes) -> str: ...
def task_id(namespace: bytes, *parts: str | bytes) -> str: ...
def old_task_id(namespace: bytes, *parts: str | bytes) -> str: ...
def checkpoint_id(step: int) -> str: ...
def interrupt_id(ns: str, answered: int) -> str: ...
def task_path_str(tup: Any) -> str: ...
def empty_checkpoint() -> Any: ...
def copy_checkpoint(checkpoint: Any) -> Any: ...
def next_checkpoint(
    checkpoint: Any,
    channels: Mapping[str, Any] | None,
    step: int,
    id: str | None = None,
    updated_channels: set[str] | None = None,
) -> Any: ...
def fresh_channels(specs: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[ChannelMap, dict[str, Any]]: ...
def channel_map(channels: Mapping[str, Any]) -> ChannelMap: ...
def apply_writes(
    checkpoint: Any,
    channels: Mapping[str, Any],
    tasks: Iterable[Any],
    get_next_version: Callable[[Any, None], Any] | None,
    trigger_to_nodes: Mapping[str, Sequence[str]],
) -> set[str]: ...
def null_version_of(checkpoint: Any) -> Any: ...
def local_read(
    scratchpad: Any, channels: Any, managed: Any, task: Any, select: list[str] | str, fresh: bool = False
) -> Any: ...
def scratchpad(
    parent_scratchpad: Any,
    pending_writes: list[Any],
    task_id: str,
    task_checkpoint_ns: str,
    resume_map: dict[str, Any] | None,
    step: int,
    stop: int,
) -> PregelScratchpad: ...
def prepare_next_tasks(
    checkpoint: Any,
    pending_writes: Any,
    processes: Mapping[str, Any],
    channels: Mapping[str, Any],
    managed: Mapping[str, Any],
    config: Any,
    step: int,
    stop: int,
    *,
    for_execution: bool,
    store: Any = None,
    checkpointer: Any = None,
    manager: Any = None,
    trigger_to_nodes: Mapping[str, Sequence[str]] | None = None,
    updated_channels: set[str] | None = None,
    retry_policy: Sequence[Any] = (),
    cache_policy: Any = None,
) -> dict[str, Any]: ...
def prepare_single_task(
    task_path: tuple[Any, ...],
    task_id_checksum: str | None,
    *,
    checkpoint: Any,
    processes: Mapping[str, Any],
    channels: Mapping[str, Any],
    managed: Mapping[str, Any],
    config: Any,
    step: int,
    stop: int,
    for_execution: bool,
    pending_writes: list[Any],
    store: Any = None,
    checkpointer: Any = None,
    manager: Any = None,
    input_cache: Any = None,
    cache_policy: Any = None,
    retry_policy: Sequence[Any] = (),
    checkpoint_id_bytes: bytes | None = None,
    checkpoint_null_version: Any = None,
) -> Any: ...
def prepare_node_error_handler_task(
    failed_task: Any,
    *,
    handler_node_name: str,
    failed_error: BaseException,
    checkpoint: Any,
    pending_writes: list[Any],
    processes: Mapping[str, Any],
    channels: Mapping[str, Any],
    managed: Mapping[str, Any],
    config: Any,
    step: int,
    stop: int,
    store: Any = None,
    checkpointer: Any = None,
    manager: Any = None,
    cache_policy: Any = None,
    retry_policy: Sequence[Any] = (),
) -> Any: ...

@disjoint_base
class ChannelMap(dict[str, Any]):
    def forget_top(self) -> None: ...

@disjoint_base
class View: ...

@disjoint_base
class Round: ...

@disjoint_base
class Counter:
    def __call__(self, *args: Any, **kwargs: Any) -> int: ...

@disjoint_base
class NullResume:
    def __call__(self, consume: bool = False) -> Any: ...

@disjoint_base
class PregelScratchpad:
    @property
    def step(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def resume(self) -> list[Any]: ...
    @property
    def call_counter(self) -> Callable[[], int]: ...
    @property
    def interrupt_counter(self) -> Callable[[], int]: ...
    @property
    def subgraph_counter(self) -> Callable[[], int]: ...
    @property
    def get_null_resume(self) -> Callable[[bool], Any]: ...
    def __init__(
        self,
        *,
        step: int,
        stop: int,
        call_counter: Callable[[], int],
        interrupt_counter: Callable[[], int],
        get_null_resume: Callable[[bool], Any],
        resume: list[Any],
        subgraph_counter: Callable[[], int],
    ) -> None: ...
    def restarted(self) -> PregelScratchpad: ...

@disjoint_base
class LocalRead:
    keywords: ClassVar[dict[str, Any]]
    @property
    def func(self) -> Callable[..., Any]: ...
    @property
    def args(self) -> tuple[Any, Any, Any, Any]: ...
    def __call__(self, select: list[str] | str, fresh: bool = False) -> Any: ...

@disjoint_base
class NodePlan:
    def __init__(self, name: str, proc: Any) -> None: ...

@disjoint_base
class Preparer:
    def __init__(
        self,
        processes: Any,
        channels: Any,
        managed: Any,
        *,
        for_execution: bool = True,
        store: Any = None,
        checkpointer: Any = None,
        manager: Any = None,
        retry_policy: Sequence[Any] = (),
        cache_policy: Any = None,
    ) -> None: ...

@disjoint_base
class Shape:
    def __init__(self, cls: type) -> None: ...
