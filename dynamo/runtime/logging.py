"""What a process logs, and how: one line per message on standard error, of the C library and of Python alike.

``DYN_LOG`` sets the level: ``trace``, ``debug``, ``info``, ``warn`` (the default), ``error`` or ``off``, and after it,
separated by commas, levels of parts: ``warn,dynamo.router=debug``. The C library has one level, the first.
``DYN_LOGGING_JSONL=1`` writes each line as a JSON object; ``DYN_LOG_USE_LOCAL_TZ=1`` writes local times.
``DYN_LOGGING_CONFIG_PATH`` names a TOML file with ``log_level`` and a table ``log_filters`` (part = level), over which
``DYN_LOG`` wins. Nothing here is ever coloured, so ``DYN_SDK_DISABLE_ANSI_LOGGING`` has nothing to switch off.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from dynamo import errors
from dynamo.runtime import settings

__all__ = ["LineFormatter", "configure_dynamo_logging"]

# name -> (level of the C library, level of Python's logging)
_LEVELS = {
    "trace": (0, 5),
    "debug": (1, logging.DEBUG),
    "info": (2, logging.INFO),
    "warn": (3, logging.WARNING),
    "error": (4, logging.ERROR),
    "off": (5, logging.CRITICAL + 10),
}
_ALSO = {"warning": "warn", "critical": "error", "none": "off"}
_NAMES = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR", 5: "TRACE"}


class LineFormatter(logging.Formatter):
    """Lines as the C library writes them: time, level, part, text; or the same as a JSON object."""

    def __init__(self, jsonl: bool = False, local: bool = False) -> None:
        super().__init__()
        self.jsonl = jsonl
        self.local = local

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """RFC 3339 with milliseconds."""
        at = time.localtime(record.created) if self.local else time.gmtime(record.created)
        zone = time.strftime("%z", at) if self.local else "Z"
        if self.local:
            zone = zone[:3] + ":" + zone[3:]
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03d}{zone}"

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows, in JSON inside the object."""
        level = _NAMES.get(record.levelno, record.levelname)
        text = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.jsonl:
            line: dict[str, Any] = {
                "time": self.formatTime(record),
                "level": level,
                "target": record.name,
                "message": text,
            }
            if trace:
                line["traceback"] = trace
            return json.dumps(line, ensure_ascii=False)
        return f"{self.formatTime(record)} {level:>5} {record.name}: {text}" + ("\n" + trace if trace else "")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # takes no type before Python 3.11


class _Stderr(_StreamHandler):
    """Whatever standard error is when a line comes."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def _level(name: str, text: str) -> str:
    level = text.strip().lower()
    level = _ALSO.get(level, level)
    if level not in _LEVELS:
        raise errors.InvalidArgument(f"{name}: {text.strip()!r} is no level; it must be one of {', '.join(_LEVELS)}")
    return level


def _part(text: str) -> str:
    """The name of a logger; crates of the original are taken for our packages of that name."""
    part = text.strip().replace("::", ".")
    return "dynamo." + part[7:] if part.startswith("dynamo_") else part


def levels(text: str, name: str = "DYN_LOG") -> dict[str, str]:
    """Part -> level of a text like ``warn,dynamo.router=debug``; the part of the level for all is "".

    Raises
    ------
    InvalidArgument
        When a level is none.
    """
    found: dict[str, str] = {}
    for directive in text.split(","):
        if directive.strip():
            part, equals, level = directive.rpartition("=")
            found[_part(part) if equals else ""] = _level(name, level)
    return found


def _from_file(path: str) -> dict[str, str]:
    name = f"DYN_LOGGING_CONFIG_PATH={path}"
    try:
        tomllib = importlib.import_module("tomllib")  # by name: type checkers of 3.10 do not know it
    except ImportError:
        raise errors.InvalidArgument(f"{name}: reading TOML needs Python 3.11; use DYN_LOG instead") from None
    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise errors.InvalidArgument(f"{name}: {error}; correct the file or unset the variable") from None
    found = {"": _level(name, str(config["log_level"]))} if "log_level" in config else {}
    for part, level in config.get("log_filters", {}).items():
        found[_part(part)] = _level(name, str(level))
    return found


def configure_dynamo_logging() -> None:
    """Set the levels and the form of the log from the environment; a runtime does it when it is made.

    The levels of Python's loggers ``dynamo`` and below it are set, and of others that are named. A handler is added to
    the logger ``dynamo`` only where the program has configured no logging of its own. Without any of the
    variables nothing is touched.

    Raises
    ------
    InvalidArgument
        When a variable has a value that cannot be.
    """
    path, text = settings.text("DYN_LOGGING_CONFIG_PATH", ""), settings.text("DYN_LOG", "")
    jsonl, local = settings.flag("DYN_LOGGING_JSONL"), settings.flag("DYN_LOG_USE_LOCAL_TZ")
    if not (path or text or jsonl or local):
        return
    from dynamo._runtime import set_log_form, set_log_level

    set_log_form(jsonl, local)
    wanted = {**(_from_file(path) if path else {}), **levels(text)}
    # A level for the whole of us is as good as one for all.
    all_of_us = wanted.pop("dynamo", None) or wanted.get("")
    wanted.pop("", None)
    if all_of_us is not None:
        in_c, in_python = _LEVELS[all_of_us]
        set_log_level(in_c)
        logging.getLogger("dynamo").setLevel(in_python)
    for part, level in wanted.items():
        logging.getLogger(part).setLevel(_LEVELS[level][1])
    ours = logging.getLogger("dynamo")
    for handler in ours.handlers:
        if isinstance(handler, _Stderr):
            handler.setFormatter(LineFormatter(jsonl, local))
    if not ours.hasHandlers():
        handler = _Stderr()
        handler.setFormatter(LineFormatter(jsonl, local))
        ours.addHandler(handler)
