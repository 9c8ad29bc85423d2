"""What is said about graphs and states that cannot be right: the value, where it came from, and what to do about it.

The engine comes here only when something is wrong.
"""

from collections.abc import Iterable
from typing import Any

from dynamo.langgraph._internal._names import own
from dynamo.langgraph.pregel._log import logger

_STARTS = "branch:to:"


def _said(value: Any, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _instead(name: str, known: Iterable[str]) -> str:
    """What is there in the place of an unknown name, the most similar one first."""
    from difflib import get_close_matches

    names = [one for one in known if not one.startswith("__")]
    close = get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {_said(sorted(names))}"


def note(error: BaseException, text: str) -> None:
    """Add a line to what an error says; nothing before Python 3.11."""
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(text)


def unknown_channel(task: Any, name: str, channels: Iterable[str]) -> None:
    """A task wrote to a channel that is not there: mostly, it named a node that is not."""
    if name.startswith(_STARTS):
        nodes = [one[len(_STARTS) :] for one in channels if one.startswith(_STARTS)]
        what, kind = name[len(_STARTS) :], "node"
    else:
        nodes, what, kind = [*channels], name, "channel"
    logger.warning(
        "Task %r (path %s) leads to %r, which is no %s of this graph: nothing is started or written; %s",
        *(task.name, task.path, what, kind, _instead(what, nodes)),
    )


def unknown_node(name: str, nodes: Iterable[str]) -> None:
    """A Send names a node that is not there."""
    logger.warning(
        "A Send is addressed to %r, which is no node of this graph: ignored; %s", name, _instead(name, nodes)
    )


def who_wrote(error: BaseException, name: str, tasks: Iterable[Any]) -> None:
    """A channel refused what was written to it."""
    writes = [f"{task.name} wrote {_said(value)}" for task in tasks for key, value in task.writes if key == name]
    note(error, f"In channel {name!r}: {'; '.join(writes)}")


def unsaved(error: BaseException, saver: Any, given: tuple[Any, ...]) -> None:
    """A saver failed to keep a checkpoint or writes, the second of its arguments: whose values are to blame?"""
    what, dump = given[1], getattr(getattr(saver, "serde", None), "dumps_typed", None)
    if dump is None:
        return
    for name, value in what["channel_values"].items() if isinstance(what, dict) else what:
        try:
            dump(value)
        except Exception:
            note(
                error,
                f"The checkpointer cannot save {name!r}: {_said(value)}. Keep plain data in the state; what only this "
                "run needs can be Annotated[..., UntrackedValue], or be made in the node",
            )


def goes_round(error: BaseException, tasks: Iterable[Any]) -> None:
    """A run has used up its supersteps."""
    names = sorted({task.name for task in tasks})
    note(error, f"The last superstep ran {names}. If that is a loop, a path of it has to lead to END some time")


own(globals())
