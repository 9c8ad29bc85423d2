"""A layered layout of a directed graph, top to bottom (Sugiyama, Tagawa, Toda 1981): numbers in, numbers out.

    edges -> no cycles -> layers -> stand-ins for long edges -> order in each layer -> x -> routes

     a            layer 0
    / \\
   b   |          layer 1: b, and a stand-in of a -> c
    \\ /
     c            layer 2

I1  An edge goes from a layer to the next one, once long edges have their stand-ins.
I2  Two boxes of a layer keep their distance; layers keep theirs.
I3  The same input gives the same layout: nothing depends on hashes or on chance.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

__all__ = ["Layout", "Point", "lay_out"]

Point: TypeAlias = tuple[float, float]
Edge: TypeAlias = tuple[str, str]

_SWEEPS = 12  # over the layers, for the order and again for the places
_PULL = (1.0, 2.0, 8.0)  # between two boxes, a box and a stand-in, two stand-ins: long lines are to be straight
_PORTS = 16.0  # at most so far apart are two lines where they leave a box


class Layout(NamedTuple):
    """Where things are.

    Attributes
    ----------
    places : the middle of each box
    routes : for each edge, in the order given, the points that its line goes through, first to last
    width, height : of everything
    spots : for each label, by the number of its edge, its middle
    """

    places: dict[str, Point]
    routes: list[list[Point]]
    width: float
    height: float
    spots: dict[int, Point]


def lay_out(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[Edge],
    *,
    gap: float = 34.0,
    layer_gap: float = 46.0,
    beside: Mapping[str, float] | None = None,
    labels: Mapping[int, tuple[float, float]] | None = None,
) -> Layout:
    """Place boxes and route lines.

    Parameters
    ----------
    sizes : width and height of each box; the first one is where a cycle is entered
    edges : pairs of names of `sizes`; loops and several between two boxes are allowed
    gap, layer_gap : the least distance between two boxes of a layer, and between layers
    beside : room to keep at both sides of a box, for loops and their labels
    labels : width and height of what is written on an edge, by its number; it has a place of its own in a layer
        between the two boxes. Labels of loops are not known here
    """
    marks = {i: size for i, size in (labels or {}).items() if edges[i][0] != edges[i][1]}
    backwards = _pointing_back(list(sizes), edges)
    downwards = [(target, source) if i in backwards else (source, target) for i, (source, target) in enumerate(edges)]
    steps = [(*edge, 2 if i in marks else 1) for i, edge in enumerate(downwards) if edge[0] != edge[1]]
    layer = _layers(list(sizes), steps)
    slots, chains, widths = _with_stand_ins(sizes, downwards, layer)
    written = {i: chains[i][len(chains[i]) // 2] for i in marks}  # the stand-in that has the label's place
    tall = {name: size[1] for name, size in sizes.items()}
    for i, name in written.items():
        widths[name], tall[name] = marks[i]
    for name, room in (beside or {}).items():
        widths[name] += 2 * room
    links = sorted({link for chain in chains for link in pairwise(chain)})
    slots = _ordered(slots, links)
    x = _across(slots, links, widths, gap)

    heights = [max((tall.get(name, 0.0) for name in row), default=0.0) for row in slots]
    middles, y = [], 0.0
    for height in heights:
        middles.append(y + height / 2)
        y += height + layer_gap
    row_of = {name: i for i, row in enumerate(slots) for name in row}
    left = min((x[name] - sizes[name][0] / 2 for name in sizes), default=0.0)
    left = min([left, *(x[name] - widths[name] / 2 for name in x if name not in sizes)])
    places = {name: (x[name] - left, middles[row_of[name]]) for name in sizes}
    inner = {name: (x[name] - left, middles[row_of[name]]) for name in x}
    routes = _routes(sizes, downwards, chains, inner, {name: heights[row_of[name]] for name in x})
    width = max((places[name][0] + sizes[name][0] / 2 for name in sizes), default=0.0)
    width = max([width, *(point[0] for route in routes for point in route)])
    for i in backwards:
        routes[i].reverse()
    width = max([width, *(inner[name][0] + widths[name] / 2 for name in written.values())])
    spots = {i: inner[name] for i, name in written.items()}
    return Layout(places, routes, width, max(0.0, y - layer_gap), spots)


def _pointing_back(names: Sequence[str], edges: Sequence[Edge]) -> set[int]:
    """The edges (by number) that a depth-first walk finds leading to where it comes from."""
    out: dict[str, list[int]] = {name: [] for name in names}
    for i, (source, _) in enumerate(edges):
        out[source].append(i)
    state = dict.fromkeys(names, 0)  # 1: on the way here, 2: done
    back: set[int] = set()
    for root in names:
        if state[root]:
            continue
        state[root] = 1
        stack = [(root, iter(out[root]))]
        while stack:
            name, rest = stack[-1]
            for i in rest:
                target = edges[i][1]
                if state[target] == 1 and target != name:
                    back.add(i)
                elif state[target] == 0:
                    state[target] = 1
                    stack.append((target, iter(out[target])))
                    break
            else:
                state[name] = 2
                stack.pop()
    return back


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str, int]]) -> dict[str, int]:
    """The longest way from a box without predecessors; those go down as near to their successors as they may.

    `edges` say how many layers they go down at least.
    """
    before: dict[str, int] = dict.fromkeys(names, 0)
    after: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    for source, target, least in edges:
        before[target] += 1
        after[source].append((target, least))
    ready = [name for name in names if before[name] == 0]
    layer = dict.fromkeys(names, 0)
    order = []
    while ready:
        name = ready.pop(0)
        order.append(name)
        for target, least in after[name]:
            layer[target] = max(layer[target], layer[name] + least)
            before[target] -= 1
            if before[target] == 0:
                ready.append(target)
    reached = {edge[1] for edge in edges}
    for name in reversed(order):
        if name not in reached and after[name] and name != names[0]:
            layer[name] = min(layer[target] - least for target, least in after[name])
    return layer


def _with_stand_ins(
    sizes: Mapping[str, tuple[float, float]], edges: Sequence[Edge], layer: Mapping[str, int]
) -> tuple[list[list[str]], list[list[str]], dict[str, float]]:
    """The layers, the way of each edge through them, and how wide everything is."""
    slots: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in sizes:
        slots[layer[name]].append(name)
    widths = {name: size[0] for name, size in sizes.items()}
    chains = []
    for i, (source, target) in enumerate(edges):
        chain = [source]
        for at in range(layer[source] + 1, layer[target]):
            stand_in = f"\0{i}.{at}"
            slots[at].append(stand_in)
            widths[stand_in] = 6.0
            chain.append(stand_in)
        chains.append([*chain, target] if source != target else [])
    return slots, chains, widths


# ---------------------------------------------------------------- the order in each layer
def _neighbours(links: Sequence[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for above, below in links:
        down.setdefault(above, []).append(below)
        up.setdefault(below, []).append(above)
    return up, down


def _crossings(upper: Sequence[str], lower: Sequence[str], down: Mapping[str, Sequence[str]]) -> int:
    """How many pairs of lines between two layers cross."""
    at = {name: i for i, name in enumerate(lower)}
    ends = [at[name] for above in upper for name in sorted(down.get(above, ()), key=at.__getitem__)]
    count, seen = 0, [0] * (len(lower) + 1)  # a Fenwick tree of the ends so far
    for n, end in enumerate(ends):
        i, not_after = end + 1, 0
        while i:
            not_after += seen[i]
            i -= i & -i
        count += n - not_after
        i = end + 1
        while i <= len(lower):
            seen[i] += 1
            i += i & -i
    return count


def _ordered(slots: list[list[str]], links: Sequence[Edge]) -> list[list[str]]:
    """An order of each layer with few crossings: medians of neighbours, down and up in turn; the best one counts."""
    up, down = _neighbours(links)

    def total(rows: list[list[str]]) -> int:
        return sum(_crossings(a, b, down) for a, b in pairwise(rows))

    best, fewest = [list(row) for row in slots], total(slots)
    rows = [list(row) for row in slots]
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        order = range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1)
        for i in order:
            fixed = rows[i - 1] if downwards else rows[i + 1]
            at = {name: float(n) for n, name in enumerate(fixed)}
            known = up if downwards else down
            mine = {name: float(n) for n, name in enumerate(rows[i])}
            key = {name: _median([at[one] for one in known.get(name, ())], mine[name]) for name in rows[i]}
            rows[i].sort(key=lambda name: (key[name], mine[name]))
            _swap_neighbours(rows, i, down)
        now = total(rows)
        if now < fewest:
            best, fewest = [list(row) for row in rows], now
    return best


def _swap_neighbours(rows: list[list[str]], i: int, down: Mapping[str, Sequence[str]]) -> None:
    row = rows[i]
    if len(row) > 40:
        return

    def around() -> int:
        above = _crossings(rows[i - 1], row, down) if i > 0 else 0
        return above + (_crossings(row, rows[i + 1], down) if i + 1 < len(rows) else 0)

    count = around()
    for n in range(len(row) - 1):
        row[n], row[n + 1] = row[n + 1], row[n]
        now = around()
        if now < count:
            count = now
        else:
            row[n], row[n + 1] = row[n + 1], row[n]


def _median(values: list[float], otherwise: float) -> float:
    if not values:
        return otherwise
    values.sort()
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


# ---------------------------------------------------------------- places
def _across(
    slots: Sequence[Sequence[str]], links: Sequence[Edge], widths: Mapping[str, float], gap: float
) -> dict[str, float]:
    """Every box as near to the middle of its neighbours as the others of its layer let it."""
    up, down = _neighbours(links)
    x: dict[str, float] = {}
    for row in slots:
        at = 0.0
        for name in row:
            x[name] = at + widths[name] / 2
            at += widths[name] + gap
        for name in row:
            x[name] -= (at - gap) / 2
    for sweep in range(2 * _SWEEPS):
        last = sweep >= 2 * _SWEEPS - 4
        rows = slots if sweep % 2 == 0 else list(reversed(slots))
        for row in rows:
            wanted, weights = [], []
            for name in row:
                known = [*up.get(name, ()), *down.get(name, ())] if last else (up, down)[sweep % 2].get(name, ())
                pulls = [_PULL[name.startswith("\0") + one.startswith("\0")] for one in known]
                pull = sum(pulls)
                sums = sum(x[one] * weight for one, weight in zip(known, pulls, strict=True))
                wanted.append(sums / pull if known else x[name])
                weights.append(max(0.2, pull))
            for name, place in zip(row, _apart(row, wanted, weights, widths, gap), strict=True):
                x[name] = place
    return x


def _apart(
    row: Sequence[str], wanted: Sequence[float], weights: Sequence[float], widths: Mapping[str, float], gap: float
) -> list[float]:
    """The places nearest to those wanted (least squares) that keep the distances: pool adjacent violators."""
    offsets, at = [], 0.0
    for i, name in enumerate(row):
        if i:
            at += (widths[row[i - 1]] + widths[name]) / 2 + gap
        offsets.append(at)
    blocks: list[list[float]] = []  # sum of weights * places, sum of weights, count
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        blocks.append([(want - offset) * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, heavy, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += heavy
            blocks[-1][2] += count
    places: list[float] = []
    for total, heavy, count in blocks:
        places += [total / heavy] * int(count)
    return [place + offset for place, offset in zip(places, offsets, strict=True)]


# ---------------------------------------------------------------- lines
def _routes(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[Edge],
    chains: Sequence[Sequence[str]],
    at: Mapping[str, Point],
    heights: Mapping[str, float],
) -> list[list[Point]]:
    """From the lower side of a box over its stand-ins to the upper side of the other; a loop at its right side.

    `heights` of the layers: a line goes straight through them, past their boxes.
    """
    leaving: dict[str, list[tuple[float, int]]] = {}
    coming: dict[str, list[tuple[float, int]]] = {}
    for i, chain in enumerate(chains):
        if chain:
            leaving.setdefault(chain[0], []).append((at[chain[1]][0], i))
            coming.setdefault(chain[-1], []).append((at[chain[-2]][0], i))
    starts, ends = _ports(leaving, sizes), _ports(coming, sizes)
    routes: list[list[Point]] = []
    for i, (chain, (source, target)) in enumerate(zip(chains, edges, strict=True)):
        x, y = at[source]
        width, height = sizes[source]
        if not chain:
            right, out = x + width / 2, x + width / 2 + 26
            routes.append(
                [(right, y - height / 4), (out, y - height / 4), (out, y + height / 4), (right, y + height / 4)]
            )
            continue
        low = at[target]
        routes.append(
            [
                (x + starts[i], y + height / 2),
                *((at[name][0], at[name][1] + side * heights[name]) for name in chain[1:-1] for side in (-0.5, 0.5)),
                (low[0] + ends[i], low[1] - sizes[target][1] / 2),
            ]
        )
    return routes


def _ports(lines: Mapping[str, list[tuple[float, int]]], sizes: Mapping[str, tuple[float, float]]) -> dict[int, float]:
    """Where on a side of its box each line begins, from the middle; in the order of where they go, so none cross."""
    found: dict[int, float] = {}
    for name, there in lines.items():
        there.sort()
        step = min(_PORTS, 0.7 * sizes[name][0] / max(1, len(there) - 1)) if len(there) > 1 else 0.0
        for n, (_, i) in enumerate(there):
            found[i] = (n - (len(there) - 1) / 2) * step
    return found
