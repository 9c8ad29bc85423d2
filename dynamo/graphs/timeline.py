"""A run as a timeline: which nodes ran in which superstep, for how long, and where the run stopped to ask.

    the stream "debug" of a run  --task, task_result-->  Timeline: tasks by superstep  -->  SVG, text

The times are those at which the engine told of a task's start and end, so a task that waits for a thread counts from
its superstep's beginning. What is inside a subgraph stands below its node, indented.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from dynamo.graphs.svg import document, element, escaped, short, text, text_width

__all__ = ["Task", "Timeline", "awatch", "watch"]

MOST_ROWS = 120
_SHOWN: dict[str, Any] = {"stream_mode": ["debug", "values"], "subgraphs": True}
_INK, _SOFT, _LINE, _PAPER = "#1f2933", "#52606d", "#e4e7eb", "#ffffff"
_ERROR, _STOP = "#d64545", "#e0a030"
_PALETTE = ("#5b8def", "#2fa37c", "#9b7fe0", "#e07fae", "#4fb0c6", "#8a9a3b", "#c98544", "#7b8794")


@dataclass
class Task:
    """One run of a node.

    Attributes
    ----------
    step : the superstep, counted in its graph
    begin, end : seconds since the first task began; `end` is None for a task that was stopped
    namespace : of the graph it ran in; empty for the outermost
    error : its text, if the node raised
    interrupts : the values it asked with
    """

    id: str
    name: str
    step: int
    begin: float
    end: float | None = None
    namespace: tuple[str, ...] = ()
    error: str | None = None
    interrupts: list[Any] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return 0.0 if self.end is None else self.end - self.begin


class Row(NamedTuple):
    """A task in its place: under its superstep, under the task whose subgraph it is in."""

    task: Task
    depth: int


class Timeline:
    """The tasks of one run; made by `watch` and `awatch`.

    Attributes
    ----------
    tasks : in the order in which they began
    seconds : from the beginning of the first task to the end of the last
    error : what ended the run, or None
    interrupts : what it stopped to ask
    next : the nodes that it stopped before, which is known of a graph with a saver
    """

    def __init__(self, name: str = "run") -> None:
        self.name = name
        self.tasks: list[Task] = []
        self.seconds = 0.0
        self.error: BaseException | None = None
        self.interrupts: list[Any] = []
        self.next: list[str] = []
        self._output: Any = None
        self._by_id: dict[tuple[tuple[str, ...], str], Task] = {}
        self._began: float | None = None

    @property
    def output(self) -> Any:
        """What the run gave; an error that ended it is raised here."""
        if self.error is not None:
            raise self.error
        return self._output

    @property
    def steps(self) -> int:
        """Supersteps of the outermost graph."""
        return len({task.step for task in self.tasks if not task.namespace})

    @property
    def about(self) -> str:
        """Its figures in words."""
        return f"{_some(self.steps, 'superstep')}, {_some(len(self.tasks), 'task')}, {_time(self.seconds)}"

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.error is not None:
            return "failed"
        if self.interrupts:
            return "waits for an answer"
        return f"stopped before {short(', '.join(self.next), 40)}" if self.next else "done"

    # ---- collecting
    def add(self, namespace: tuple[str, ...], mode: str, part: Any) -> None:
        """Take one part of a stream with ``stream_mode=["debug", "values"], subgraphs=True``."""
        if mode == "values":
            if not namespace:
                self._output = part
                self.interrupts = list(part.get("__interrupt__") or ()) if isinstance(part, Mapping) else []
            return
        if mode == "debug" and part["type"] == "checkpoint" and not namespace:
            self.next = list(part["payload"]["next"])
        if mode != "debug" or part["type"] not in ("task", "task_result"):
            return
        now = datetime.fromisoformat(part["timestamp"]).timestamp()
        if self._began is None:
            self._began = now
        at = max(0.0, now - self._began)
        self.seconds = max(self.seconds, at)
        told = part["payload"]
        key = (namespace, told["id"])
        task = self._by_id.get(key)
        if task is None:
            task = self._by_id[key] = Task(told["id"], told["name"], part["step"], at, namespace=namespace)
            self.tasks.append(task)
        if part["type"] == "task_result":
            task.end = at
            task.error = None if told.get("error") is None else str(told["error"])
            task.interrupts = [
                one["value"] if isinstance(one, Mapping) else one for one in told.get("interrupts") or ()
            ]

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """What happens in here is the run: an error of it is kept."""
        try:
            yield
        except Exception as error:
            self.error = error

    # ---- looking at it
    def rows(self) -> list[Row]:
        """The tasks as they are drawn."""
        inside: dict[tuple[str, ...], list[Task]] = {}
        for task in self.tasks:
            inside.setdefault(task.namespace, []).append(task)
        found: list[Row] = []

        def put(namespace: tuple[str, ...], depth: int) -> None:
            for task in sorted(inside.pop(namespace, ()), key=lambda task: (task.step, task.begin)):
                found.append(Row(task, depth))
                for inner in [one for one in inside if len(one) == len(namespace) + 1 and task.id in one[-1]]:
                    put(inner, depth + 1)

        put((), 0)
        for namespace in list(inside):  # of tasks that were not told of
            if namespace in inside:
                put(namespace, len(namespace))
        return found

    def __repr__(self) -> str:
        return f"<Timeline of {self.name}: {self.about}, {self.ended}>"

    def __str__(self) -> str:
        lines = [repr(self)[1:-1]]
        for task, depth in self.rows():
            step = f"{task.step:>4} " if depth == 0 else "     "
            lines.append(f"{step}{'  ' * depth}{task.name:<24} {_time(task.seconds):>9}  {_remark(task)}".rstrip())
        return "\n".join(lines)

    def _repr_svg_(self) -> str:
        return _svg(self)


def watch(graph: Any, input: Any, config: Any = None, **options: Any) -> Timeline:
    """Run a graph and return its timeline, which has its output.

    Parameters
    ----------
    graph : a compiled graph
    input, config : as for ``graph.invoke``; a Command too
    options : more of its arguments, such as ``context``

    Notes
    -----
    An error of the run is kept: asking for ``output`` raises it.
    """
    timeline = Timeline(graph.get_name())
    with timeline.collecting():
        for namespace, mode, part in graph.stream(input, config, **_SHOWN, **options):
            timeline.add(namespace, mode, part)
    return timeline


async def awatch(graph: Any, input: Any, config: Any = None, **options: Any) -> Timeline:
    """`watch` for asynchronous callers."""
    timeline = Timeline(graph.get_name())
    with timeline.collecting():
        async for namespace, mode, part in graph.astream(input, config, **_SHOWN, **options):
            timeline.add(namespace, mode, part)
    return timeline


# ---------------------------------------------------------------- the picture
def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _remark(task: Task) -> str:
    if task.interrupts:
        return f"asks {short(str(task.interrupts[0]), 40)}"
    if task.error is not None:
        return short(task.error, 48)
    return "" if task.end is not None else "stopped"


def _nice(seconds: float) -> float:
    """A round distance between the lines of the scale: five to ten of them."""
    unit = 1e-6
    while True:
        for factor in (1, 2, 5):
            if seconds / (unit * factor) <= 8:
                return unit * factor
        unit *= 10


def _svg(timeline: Timeline) -> str:
    every = timeline.rows()
    rows = every[:MOST_ROWS]
    colours: dict[str, str] = {}
    for task, _ in every:
        colours.setdefault(task.name, _PALETTE[len(colours) % len(_PALETTE)])
    names = max([90.0, *(text_width(short(task.name, 28), 12) + 14 * depth + 46 for task, depth in rows)])
    width, row_height, top = 720.0, 24.0, 54.0
    scale = max([timeline.seconds, *(task.end or task.begin for task in timeline.tasks), 1e-5])
    left, room = names + 12, width - names - 12 - 96
    height = top + row_height * max(1, len(rows)) + (26 if len(every) > len(rows) else 10)

    title = timeline.about
    parts = [
        element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=12, fill=_PAPER, stroke=_LINE),
        text(16, 23, short(timeline.name, 40), 13, fill=_INK, font_weight=600),
        text(28 + 1.08 * text_width(short(timeline.name, 40), 13), 23, title, 12, fill=_SOFT),
    ]
    if timeline.ended != "done":
        parts.append(
            text(width - 16, 23, timeline.ended, 12, fill=_ERROR if timeline.error is not None else "#9a6b15",
                 text_anchor="end", font_weight=600)
        )  # fmt: skip
    # The bands of the supersteps.
    band, before = -1, None
    for i, (task, depth) in enumerate(rows):
        if depth == 0 and task.step != before:
            band, before = band + 1, task.step
            parts.append(text(16, top + row_height * i + 16, str(task.step), 11, fill=_SOFT, font_weight=600))
            if i:
                at = top + row_height * i
                parts.append(element("path", d=f"M10,{at:g}H{width - 10:g}", stroke=_LINE, stroke_width=1))
        if band % 2 == 0:
            parts.insert(1, element("rect", x=6, y=top + row_height * i, width=width - 12, height=row_height,
                                    fill="#f8f9fb"))  # fmt: skip
    # The scale.
    step = _nice(scale)
    low = top + row_height * max(1, len(rows))
    for n in range(int(scale / step) + 1):
        x = left + room * n * step / scale
        parts.append(element("path", d=f"M{x:.1f},{top - 6:g}V{low:g}", stroke=_LINE, stroke_width=1))
        parts.append(text(x, top - 10, "0" if n == 0 else _scale(n * step, step), 10, fill=_SOFT, text_anchor="middle"))
    for i, (task, depth) in enumerate(rows):
        parts += _bar(task, depth, top + row_height * i, row_height, left, room / scale, scale, colours[task.name])
    if len(every) > len(rows):
        parts.append(text(16, low + 17, f"and {_some(len(every) - len(rows), 'more task')}", 11, fill=_SOFT))
    return document(width, height, parts, f"timeline of {timeline.name}: {title}")


def _scale(seconds: float, step: float) -> str:
    unit, name = (1.0, "s") if step >= 0.1 else (1e-3, "ms") if step >= 1e-4 else (1e-6, "µs")
    return f"{seconds / unit:g} {name}"


def _bar(
    task: Task, depth: int, y: float, height: float, left: float, per_second: float, scale: float, colour: str
) -> list[str]:
    x = left + task.begin * per_second
    end = scale if task.end is None else task.end
    long = max(3.0, (end - task.begin) * per_second)
    said = _time(task.seconds) if task.end is not None else ""
    remark = _remark(task)
    hint = element("title", f"{escaped(task.name)}: superstep {task.step}, {said} {escaped(remark)}".strip())
    fill = _ERROR if task.error is not None else _STOP if task.interrupts else colour
    faint = depth > 0 or task.end is None
    parts = [
        text(44 + 14 * depth, y + 16, short(task.name, 28), 12, fill=_INK if depth == 0 else _SOFT),
        element("rect", hint, x=x, y=y + 5, width=long, height=height - 10, rx=3, fill=fill,
                opacity=0.62 if faint else 0.95),
    ]  # fmt: skip
    words = said if not remark else f"{said}  {short(remark, 30)}".strip()
    after = x + long + 6
    if after + text_width(words, 10.5) <= 720 - 12:
        parts.append(text(after, y + 16, words, 10.5, fill=_SOFT))
    elif text_width(words, 10.5) + 10 <= long:
        parts.append(text(x + long - 6, y + 16, words, 10.5, fill=_PAPER, text_anchor="end"))
    else:
        parts.append(text(x - 6, y + 16, words, 10.5, fill=_SOFT, text_anchor="end"))
    return parts
