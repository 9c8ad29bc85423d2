"""Pieces of SVG: escaped, without scripts, without anything from elsewhere."""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["FONT", "document", "element", "escaped", "path", "short", "text", "text_width"]

FONT = "ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]{} -"), frozenset("mwMW@%")


def escaped(words: str) -> str:
    """A text as markup may have it; letters that XML forbids become a sign for that."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words))


def number(value: float) -> str:
    """A coordinate in as few characters as do."""
    return f"{value:.1f}".removesuffix(".0")


def element(name: str, content: str = "", **attributes: Any) -> str:
    """One element; ``stroke_width=2`` becomes ``stroke-width="2"``, None is left out, `content` is markup."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escaped(number(value) if isinstance(value, float) else str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(parts)}/>" if not content else f"<{name}{''.join(parts)}>{content}</{name}>"


def text(x: float, y: float, words: str, size: float = 13, **attributes: Any) -> str:
    """A line of text; `words` is escaped."""
    return element("text", escaped(words), x=float(x), y=float(y), font_size=size, **attributes)


def text_width(words: str, size: float = 13) -> float:
    """About how wide a text will be: fonts differ, so this is on the wide side."""
    ems = 0.0
    for letter in words:
        if unicodedata.east_asian_width(letter) in "WF":
            ems += 1.02
        else:
            ems += 0.34 if letter in _NARROW else 0.92 if letter in _WIDE else 0.68 if letter.isupper() else 0.585
    return ems * size


def short(words: str, most: int = 34) -> str:
    """A name that fits: of a long one the beginning and the end."""
    return words if len(words) <= most else f"{words[: most - 11]}…{words[-10:]}"


def path(points: Sequence[tuple[float, float]]) -> str:
    """The ``d`` of a smooth line through points, upright at both ends and at each point between."""
    x, y = points[0]
    parts = [f"M{number(x)},{number(y)}"]
    for to_x, to_y in points[1:]:
        half = (to_y - y) / 2
        parts.append(
            f"C{number(x)},{number(y + half)} {number(to_x)},{number(to_y - half)} {number(to_x)},{number(to_y)}"
        )
        x, y = to_x, to_y
    return "".join(parts)


def document(width: float, height: float, body: Sequence[str], label: str) -> str:
    """A whole picture."""
    head = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {number(width)} {number(height)}",
        "width": number(width),
        "height": number(height),
        "role": "img",
        "aria_label": label,
        "font_family": FONT,
        "style": "max-width:100%;height:auto",
    }
    return element("svg", element("title", escaped(label)) + "".join(body), **head)
