"""Pictures of graphs (spec 11.9): float.svg and quant.svg, a box for each node, and the same as .dot for graphviz.

Rows are depths, lanes are branches; an edge over several rows goes around the boxes. All of it is linear in the number
of nodes. A large graph is folded: neighbours of one block become one box.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from ..files import FileSet

LARGEST = 600  # boxes; more are folded
_WIDTH, _HEIGHT, _LANE, _ROW, _MARGIN = 230, 50, 262, 74, 24
_LETTERS = 36  # of a line of a box
_COLOURS = {"quantized": "#d0ebff", "float": "#f1f3f5", "plain": "#ffffff", "end": "#e9ecef", "folded": "#fff3bf"}


@dataclasses.dataclass(frozen=True)
class Box:
    """One node, or neighbours that are folded.

    Attributes:
      name: Its name, unique in a picture.
      text: What it is: operation, bits.
      kind: ``quantized``, ``float``, ``plain`` (not yet decided), ``end`` (input, output), ``folded``.
      inputs: Names of the boxes it reads.
      block: Dotted path of the module it belongs to; empty if it belongs to none.
      note: What the pointer shows: shapes, scales, why it is in float.
    """

    name: str
    text: str
    kind: str
    inputs: tuple[str, ...]
    block: str = ""
    note: str = ""


def write_picture(boxes: Sequence[Box], path: Path) -> None:
    """Writes ``path`` (.svg) and, with all boxes, the same name with ``.dot``."""
    with FileSet(is_durable=False) as files:
        files.write_text(path, as_svg(folded(boxes, LARGEST), path.stem))
        files.write_text(path.with_suffix(".dot"), as_dot(boxes, path.stem))


def folded(boxes: Sequence[Box], limit: int) -> list[Box]:
    """Returns at most about ``limit`` boxes: neighbours in the same block, as deep as the limit allows, become one."""
    if len(boxes) <= limit:
        return list(boxes)
    deepest = max(one.block.count(".") + 1 for one in boxes)
    for depth in range(deepest, 0, -1):
        found = _folded_at(boxes, depth)
        if len(found) <= limit or depth == 1:
            return found
    return list(boxes)


def _folded_at(boxes: Sequence[Box], depth: int) -> list[Box]:
    """Folds runs of neighbours: no circle comes of it, since every edge leads from an earlier box to a later one."""
    runs: list[tuple[str, list[Box]]] = []
    for box in boxes:
        key = ".".join(box.block.split(".")[:depth]) if box.block else (runs[-1][0] if runs else "")
        key = f"\0{box.name}" if box.kind == "end" else key
        if runs and runs[-1][0] == key:
            runs[-1][1].append(box)
        else:
            runs.append((key, [box]))
    owner = {box.name: f"{key}#{index}" for index, (key, run) in enumerate(runs) for box in run}
    owner |= {run[0].name: run[0].name for _, run in runs if len(run) == 1}
    return [_one(owner[run[0].name], key, run, owner) for key, run in runs]


def _one(name: str, key: str, run: list[Box], owner: dict[str, str]) -> Box:
    inputs = dict.fromkeys(owner[one] for box in run for one in box.inputs if one in owner)
    inputs.pop(name, None)
    if len(run) == 1:
        return dataclasses.replace(run[0], inputs=tuple(inputs))
    quantized = sum(1 for box in run if box.kind == "quantized")
    text = f"{len(run)} nodes, {quantized} quantized" if quantized else f"{len(run)} nodes"
    note = ", ".join(box.name for box in run)
    return Box(name, f"{key}: {text}", "folded", tuple(inputs), key, note)


def as_svg(boxes: Sequence[Box], title: str) -> str:
    """Returns the picture of ``boxes``, each of which reads earlier ones only."""
    places = _places(boxes)
    lanes = max((lane for _, lane in places.values()), default=0) + 1
    rows = max((row for row, _ in places.values()), default=0) + 1
    taken = set(places.values())
    tracks: list[int] = []  # of the lines that go around: each the last row it is used in
    lines, widest = [], 0
    for box in boxes:
        for one in dict.fromkeys(box.inputs):
            if one in places:
                line, track = _line(places[one], places[box.name], taken, lanes, tracks)
                lines.append(line)
                widest = max(widest, track)
    width, height = 2 * _MARGIN + lanes * _LANE + 14 * widest, 2 * _MARGIN + rows * _ROW
    shapes = [_drawn(box, *places[box.name]) for box in boxes]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="system-ui, DejaVu Sans, sans-serif" font-size="12">',
            f"<title>{html.escape(title)}</title>",
            '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#868e96"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            '<g fill="none" stroke="#868e96" marker-end="url(#end)">',
            *lines,
            "</g>",
            *shapes,
            "</svg>\n",
        )
    )


def as_dot(boxes: Sequence[Box], title: str) -> str:
    """Returns ``boxes`` in the language of graphviz; ``amct dot2pdf`` makes a PDF of the file."""
    nodes = [
        f"  {_quoted(box.name)} [label={_quoted(f'{box.name}|{box.text}', is_record=True)},"
        f' fillcolor="{_COLOURS[box.kind]}", tooltip={_quoted(box.note)}];'
        for box in boxes
    ]
    known = {box.name for box in boxes}
    edges = [
        f"  {_quoted(one)} -> {_quoted(box.name)};"
        for box in boxes
        for one in dict.fromkeys(box.inputs)
        if one in known
    ]
    head = f"digraph {_quoted(title)} {{\n  node [shape=Mrecord, style=filled, fontsize=11];"
    return "\n".join((head, *nodes, *edges, "}\n"))


def _places(boxes: Sequence[Box]) -> dict[str, tuple[int, int]]:
    """Row and lane of each box: one row below its lowest input, in the lane of its first input if that is free."""
    places: dict[str, tuple[int, int]] = {}
    used: dict[int, set[int]] = {}
    for box in boxes:
        known = [places[one] for one in box.inputs if one in places]
        row = max((row for row, _ in known), default=-1) + 1
        wanted = known[0][1] if known else 0
        taken = used.setdefault(row, set())
        lane = min(
            (one for one in range(len(taken) + wanted + 1) if one not in taken), key=lambda one: abs(one - wanted)
        )
        taken.add(lane)
        places[box.name] = (row, lane)
    return places


def _line(
    start: tuple[int, int], end: tuple[int, int], taken: set[tuple[int, int]], lanes: int, tracks: list[int]
) -> tuple[str, int]:
    """One edge and the number of the track right of all boxes that it takes, 0 if it takes none."""
    (row, lane), (to_row, to_lane) = start, end
    x, y = _MARGIN + lane * _LANE + _WIDTH / 2, _MARGIN + row * _ROW + _HEIGHT
    to_x, to_y = _MARGIN + to_lane * _LANE + _WIDTH / 2, _MARGIN + to_row * _ROW
    if not any((between, to_lane) in taken for between in range(row + 1, to_row)):
        middle = (_ROW - _HEIGHT) * 0.9
        return f'<path d="M{x} {y}C{x} {y + middle} {to_x} {y} {to_x} {y + _ROW - _HEIGHT - 8}V{to_y}"/>', 0
    track = next((one for one, last in enumerate(tracks) if last <= row), len(tracks))
    tracks[track : track + 1] = [to_row]
    right = _MARGIN + lanes * _LANE - 18 + 14 * (track + 1)
    out, into = y - _HEIGHT / 2, to_y + _HEIGHT / 2
    left, to_right = x + _WIDTH / 2, to_x + _WIDTH / 2
    around = f"H{right - 8}Q{right} {out} {right} {out + 8}V{into - 8}Q{right} {into} {right - 8} {into}H{to_right}"
    return f'<path d="M{left} {out}{around}"/>', track + 1


def _drawn(box: Box, row: int, lane: int) -> str:
    x, y = _MARGIN + lane * _LANE, _MARGIN + row * _ROW
    name, text = (html.escape(_short(one)) for one in (box.name, box.text))
    note = html.escape(f"{box.name}: {box.text}. {box.note}" if box.note else f"{box.name}: {box.text}")
    return (
        f'<g class="{box.kind}"><title>{note}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"'
        f' fill="{_COLOURS[box.kind]}" stroke="#495057"/><text x="{x + 9}" y="{y + 20}" font-weight="600">{name}</text>'
        f'<text x="{x + 9}" y="{y + 39}" fill="#495057">{text}</text></g>'
    )


def _short(text: str) -> str:
    """The end of a long name says more than its beginning."""
    return text if len(text) <= _LETTERS else f"\u2026{text[1 - _LETTERS :]}"


def _quoted(text: str, is_record: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    if is_record:  # braces and angles have a meaning in the label of a record
        escaped = "".join(f"\\{letter}" if letter in "{}<>" else letter for letter in escaped)
    return f'"{escaped}"'
