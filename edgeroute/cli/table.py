"""Tables as text: aligned for a terminal, or Markdown. The only place that draws one, for pages and cards too."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[object]


def aligned(rows: Sequence[Row], *, head: bool = True) -> list[str]:
    """Lines of ``rows``, the first of which is a ``head``: columns of numbers to the right, words to the left."""
    table = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:] if head else column)) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]


def markdown(rows: Sequence[Row]) -> list[str]:
    """Lines of ``rows`` in Markdown, the first of which is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("+-$.")[:1].isdigit()
