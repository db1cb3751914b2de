"""Tables of measured numbers with their goals, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def verdict(value: float, limit: float | None, more_is_better: bool = False) -> str:
    """Returns ``ok`` or ``MISSED``; an empty text without limit."""
    if limit is None:
        return ""
    return "ok" if (value >= limit if more_is_better else value <= limit) else "MISSED"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns aligned columns, the first aligned left and all others right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (tuple(zip(row, widths, strict=True)) for row in (header, rule, *rows))
    )


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with the same alignment."""
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
