"""What notebooks show: small tables, everything escaped."""

from collections.abc import Iterable, Sequence

MOST_ROWS = 20


def html_table(title: str, rows: Sequence[Iterable[object]], head: Sequence[str] = (), total: int | None = None) -> str:
    """A table with a title above it; of more than `MOST_ROWS` rows the first ones.

    Parameters
    ----------
    title : text above the table
    rows : what is in the cells; numbers are set right
    head : names of the columns
    total : how many rows there are, where `rows` has only the first
    """
    from html import escape  # costs more than most programs want to pay at import

    def cell(value: object, tag: str = "td") -> str:
        side = "right" if isinstance(value, int | float) else "left"
        return f'<{tag} style="text-align:{side}">{escape(str(value))}</{tag}>'

    parts = [f"<div><b>{escape(title)}</b><table>"]
    if head:
        parts.append(f"<tr>{''.join(cell(name, 'th') for name in head)}</tr>")
    parts += [f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows[:MOST_ROWS]]
    parts.append("</table>")
    more = (len(rows) if total is None else total) - min(len(rows), MOST_ROWS)
    parts.append(f"<i>and {more} more</i></div>" if more > 0 else "</div>")
    return "".join(parts)
