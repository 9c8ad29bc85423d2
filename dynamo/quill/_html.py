"""What notebooks show of a tensor: its numbers, small, and for two dimensions a heat map."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo._tensor import Tensor

EDGE = 3  # rows and columns shown on each side of a gap
MOST_CELLS = 64  # of a heat map, along each side


def tensor_html(tensor: Tensor) -> str:
    """A few facts, a preview of at most two dimensions, and for 2-d tensors of real numbers a heat map."""
    from html import escape

    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    title = f"Tensor {tensor.name or ''}".rstrip()
    facts = f"{tensor.dtype.name}, {shape}, {tensor.size_bytes:,} bytes"
    if tensor.num_elements and not tensor.dtype.is_complex():
        least, most = tensor.min(), tensor.max()
        facts += ", with NaN" if least != least else f", {_number(least)} to {_number(most)}"
    parts = [f"<div><b>{escape(title)}</b> <span>{escape(facts)}</span>"]
    if tensor.num_elements:
        flat = tensor if tensor.ndim <= 2 else tensor[(0,) * (tensor.ndim - 2)]
        parts.append(_preview(flat))
        if flat is not tensor:
            parts.append(f"<i>the first of {tensor.num_elements // flat.num_elements:,} matrices</i>")
        elif tensor.ndim == 2 and tensor.num_elements > 1 and not tensor.dtype.is_complex():
            parts.append(_heat_map(tensor))
    parts.append("</div>")
    return "".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)


def _some(size: int) -> list[int | None]:
    """Which rows of so many are shown; None is a gap."""
    if size <= 2 * EDGE + 1:
        return list(range(size))
    return [*range(EDGE), None, *range(size - EDGE, size)]


def _preview(tensor: Tensor) -> str:
    matrix = tensor if tensor.ndim == 2 else tensor.reshape(1, -1)
    rows, columns = matrix.shape
    parts = ["<table>"]
    for i in _some(rows):
        cells = ["..." if i is None or j is None else _number(matrix[i, j]) for j in _some(columns)]
        parts.append("<tr>" + "".join(f'<td style="text-align:right">{cell}</td>' for cell in cells) + "</tr>")
    parts.append("</table>")
    return "".join(parts)


def _heat_map(tensor: Tensor) -> str:
    rows, columns = tensor.shape
    down, across = -(-rows // MOST_CELLS), -(-columns // MOST_CELLS)  # a cell shows the mean of so many
    cells = [
        [tensor[i : i + down, j : j + across].mean() for j in range(0, columns, across)] for i in range(0, rows, down)
    ]
    finite = [value for row in cells for value in row if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    data = _png([[_colour(value, low, high) for value in row] for row in cells])
    scale = max(1, 192 // max(len(cells), len(cells[0])))
    ends = _number(float(low)), _number(float(high))
    return (
        f'<img alt="heat map, {ends[0]} to {ends[1]}" width="{len(cells[0]) * scale}" '
        f'height="{len(cells) * scale}" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">' + _legend(ends, down, across, cells)
    )


def _legend(ends: tuple[str, str], down: int, across: int, cells: list[list[float]]) -> str:
    colours = ", ".join(f"rgb{stop}" for stop in _STOPS)
    bar = f"display:inline-block;width:96px;height:0.7em;background:linear-gradient(to right, {colours})"
    text = f'{ends[0]} <span style="{bar}"></span> {ends[1]}'
    if down * across > 1:
        text += f"; a cell is the mean of {down} x {across}"
    if not all(math.isfinite(value) for row in cells for value in row):
        text += "; grey is not finite"
    return f'<div style="font-size:smaller">{text}</div>'


# Dark blue, green, yellow: lightness grows all the way, so it also reads in grey.
_STOPS = ((48, 18, 90), (38, 90, 140), (40, 150, 125), (140, 200, 70), (250, 230, 50))


def _colour(value: float, low: float, high: float) -> tuple[int, int, int]:
    if not math.isfinite(value):
        return 200, 200, 200
    at = (value - low) / (high - low) * (len(_STOPS) - 1) if high > low else 0.0
    i = min(int(at), len(_STOPS) - 2)
    a, b = _STOPS[i], _STOPS[i + 1]
    red, green, blue = (round(x + (y - x) * (at - i)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _png(pixels: list[list[tuple[int, int, int]]]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + bytes(part for pixel in row for part in pixel) for row in pixels)
    head = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
