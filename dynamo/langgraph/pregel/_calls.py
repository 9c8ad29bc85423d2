"""From a call of a method of a graph to a run.

`Pregel.invoke`, `stream` and their twins hand over their ``locals()``, to be taken: every argument goes on under its
own name, so that each is written down once, where users read it.
"""

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Literal

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._old_names import renamed
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV10

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import TypedDict

    from dynamo.langgraph.pregel._run import Run
    from dynamo.langgraph.runtime import RunControl
    from dynamo.langgraph.types import All, Durability, StreamMode

    OtherMode = Literal["updates", "checkpoints", "tasks", "debug", "messages", "custom"]  # than "values"

    class RunOptions(TypedDict, total=False):
        """What `invoke` and `stream` can be told beside what their results depend on."""

        print_mode: StreamMode | Sequence[StreamMode]
        output_keys: str | Sequence[str] | None
        interrupt_before: All | Sequence[str] | None
        interrupt_after: All | Sequence[str] | None
        durability: Durability | None
        control: RunControl | None
        subgraphs: bool
        debug: bool | None


Call = dict[str, Any]


def _durability(asked: str | None, old: dict[str, Any]) -> str | None:
    """When to save, in today's words or in those of older versions."""
    during = renamed(old, "checkpoint_during", "durability", None, LangGraphDeprecatedSinceV10, depth=4)
    if during is None:
        return asked
    if asked is not None:
        raise ValueError(f"`checkpoint_during` and `durability={asked!r}` say the same twice: leave the former out")
    return "async" if during else "exit"


def _run(kind: "type[Run]", call: Call, *, in_loop: bool) -> "Run":
    """The run that is asked for."""
    if old := call.pop("kwargs"):
        call["durability"] = _durability(call["durability"], old)
    return kind(call.pop("self"), call.pop("input"), call.pop("config"), in_loop=in_loop, **call)


def _for_result(call: Call) -> Call:
    """What `invoke` means where it says less than `stream`."""
    more = call["kwargs"]
    call["debug"], call["subgraphs"] = more.get("debug"), more.get("subgraphs", False)
    if call["output_keys"] is None:
        call["output_keys"] = call["self"].output_channels
    return call


def _to_show(call: Call) -> Call:
    """`stream` has the mode of the graph where none is named."""
    if call["stream_mode"] is None:
        from dynamo.langgraph.pregel._run import default_mode

        call["stream_mode"] = default_mode(call["self"], call["config"])
    return call


def invoke(call: Call) -> Any:
    from dynamo.langgraph.pregel import _run as runs

    return runs.invoke(_run(runs.Run, _for_result(call), in_loop=False))


async def ainvoke(call: Call) -> Any:
    from dynamo.langgraph.pregel import _run as runs

    return await runs.ainvoke(_run(runs.Run, _for_result(call), in_loop=True))


def stream(call: Call) -> Iterator[Any]:
    from dynamo.langgraph.pregel import _run as runs

    return runs.stream(_run(runs.Run, _to_show(call), in_loop=False))


def astream(call: Call) -> AsyncGenerator[Any]:
    from dynamo.langgraph.pregel import _run as runs

    return runs.astream(_run(runs.Run, _to_show(call), in_loop=True))  # type: ignore[return-value]


own(globals())
