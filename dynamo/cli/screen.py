"""What a person sees while something works: bars on a terminal (with rich), plain lines everywhere else."""

import os
import sys
import time
from typing import Any, TextIO

__all__ = ["Screen", "table"]

PLAIN_FIRST, PLAIN_EVERY = 1.0, 5.0  # seconds to the first plain line about a thing, and between two


class Screen:
    """Lines, and named bars that come, change and go.

    On a terminal with rich the bars stay below the lines; elsewhere a bar is a line now and then.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self._bars: dict[str, Any] = {}
        self._due: dict[str, float] = {}  # plain: when the next line about it may come
        self._rich: Any = None
        if self.out.isatty() and os.environ.get("TERM") != "dumb":
            try:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
            except ImportError:
                return
            self._rich = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self.out),
                transient=True,
            )
            self._rich.start()

    @property
    def terminal(self) -> bool:
        """Are there bars?"""
        return self._rich is not None

    def line(self, text: str) -> None:
        """Print a line, above the bars."""
        if self._rich is not None:
            self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.out, flush=True)

    def progress(self, name: str, text: str | None, fraction: float | None) -> None:
        """Set the bar `name`; a text of None takes it away, a fraction of None means: nobody knows how much is left."""
        if self._rich is not None:
            if text is None:
                if name in self._bars:
                    self._rich.remove_task(self._bars.pop(name))
                return
            if name not in self._bars:
                self._bars[name] = self._rich.add_task(name, total=None, text="")
            self._rich.update(
                self._bars[name], text=text, total=None if fraction is None else 1.0, completed=fraction or 0.0
            )
            return
        if text is None:
            self._due.pop(name, None)
            return
        now = time.monotonic()
        due = self._due.setdefault(name, now + PLAIN_FIRST)
        if now >= due:
            share = "" if fraction is None else f" ({fraction:.0%})"
            print(f"{name}: {text}{share}", file=self.out, flush=True)
            self._due[name] = now + PLAIN_EVERY

    def close(self) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns in plain text; the first to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
