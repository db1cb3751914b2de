"""An HTML page, which needs no other file, with the rows of `divergence.compare`."""

from __future__ import annotations

import html
from collections.abc import Sequence

from .divergence import Row, first_divergence

_STYLE = """:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8886; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.diverges td { background: #d9480f33; font-weight: 600; }"""


def comparison_page(a: str, b: str, rows: Sequence[Row]) -> str:
    """Returns the page of ``rows``; ``a`` and ``b`` are the titles of the two sides."""
    first = first_divergence(rows)
    verdict = (
        f"{len(rows)} layers, none diverges."
        if first is None
        else f"First layer that diverges: {first.layer}. Likely cause: {first.cause}."
    )
    title = html.escape(f"{a} beside {b}")
    body = "\n".join(map(_row, rows))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>
<body><h1>{title}</h1><p>{html.escape(verdict)}</p>
<table><thead><tr><th>Layer</th><th>Cosine</th><th>SQNR (dB)</th><th>Max LSB</th></tr></thead><tbody>
{body}
</tbody></table></body></html>
"""


def _row(row: Row) -> str:
    lsb = "-" if row.max_lsb is None else f"{row.max_lsb:.3f}"
    cells = (html.escape(row.layer), f"{row.cosine:.6f}", f"{row.sqnr:.2f}", lsb)
    kind = ' class="diverges"' if row.diverges else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
