"""Pictures have a box for each node, edges that go around boxes, and stay small and quick."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.report.picture import LARGEST, Box, as_dot, as_svg, folded, write_picture
from tests.support.fx_path import quantize
from tests.support.nets import Residual

SVG = "{http://www.w3.org/2000/svg}"


def chain(count: int, blocks: int = 10) -> list[Box]:
    """A chain in which every third box also reads the one three before it."""
    boxes = [Box("x", "input", "end", ())]
    for index in range(count):
        inputs = (boxes[-1].name, *([boxes[-3].name] if index > 3 and index % 3 == 0 else []))
        boxes.append(Box(f"n{index}", "add", "quantized", inputs, f"body.{index * blocks // count}"))
    return [*boxes, Box("output", "output", "end", (boxes[-1].name,))]


def shapes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Name -> x, y, width, height of its box."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        if rect is not None and text is not None:
            found[str(text.text)] = tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
    return found


def test_boxes_do_not_overlap_and_stand_below_their_inputs() -> None:
    boxes = chain(60)
    found = shapes(as_svg(boxes, "net"))
    assert set(found) == {box.name for box in boxes}
    places = list(found.values())
    assert len(set(places)) == len(places)
    for box in boxes:
        assert all(found[one][1] + found[one][3] < found[box.name][1] for one in box.inputs)


def test_edges_over_rows_go_around_the_boxes() -> None:
    boxes = chain(12)
    svg = as_svg(boxes, "net")
    right = max(x + width for x, _, width, _ in shapes(svg).values())
    around = [path.attrib["d"] for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if "Q" in path.attrib["d"]]
    assert around
    for path in around:
        assert float(re.search(r"Q([\d.]+)", path)[1]) > right


def test_names_are_text(tmp_path: Path) -> None:
    hostile = Box("<script>", 'a "b" {c} & d', "float", (), "", "</title>")
    write_picture([hostile], tmp_path / "net.svg")
    root = ElementTree.fromstring((tmp_path / "net.svg").read_text())
    assert [one.text for one in root.iter(f"{SVG}text")] == ["<script>", 'a "b" {c} & d']
    assert '\\"b\\" \\{c\\}' in (tmp_path / "net.dot").read_text()


def test_a_large_graph_is_folded_by_blocks() -> None:
    boxes = chain(5000)
    small = folded(boxes, LARGEST)
    assert len(small) <= LARGEST
    assert [box.kind for box in small] == ["end", *["folded"] * 10, "end"]
    assert small[1].text == "body.0: 500 nodes, 500 quantized"
    names = [box.name for box in small]
    for at, box in enumerate(small):
        assert set(box.inputs) <= set(names[:at]), "edges lead forward, to boxes that are there"
    assert folded(chain(20), LARGEST) == chain(20)


def test_ten_thousand_nodes_take_less_than_two_seconds(tmp_path: Path) -> None:
    started = time.process_time()
    write_picture(chain(10_000, blocks=3000), tmp_path / "net.svg")
    assert time.process_time() - started < 2
    assert (tmp_path / "net.dot").read_text().count("->") > 10_000


def test_pictures_of_a_model(tmp_path: Path) -> None:
    model = Residual().eval()
    quantize(model, tmp_path, [(torch.rand(1, 3, 8, 8),)])
    wanted = {"image", "output", "stem_0", "add", "head"}
    for name in ("float", "quant"):
        assert wanted <= set(shapes((tmp_path / f"{name}.svg").read_text()))
        assert f'digraph "{name}"' in (tmp_path / f"{name}.dot").read_text()
    text = (tmp_path / "quant.svg").read_text()
    assert ">conv2d: 8 bits, weight 8<" in text
    assert 'class="quantized"' in text
    assert 'class="quantized"' not in (tmp_path / "float.svg").read_text()


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.conv(x), 1)


def test_what_stays_in_float_says_why_and_shapes_come_with_an_example(tmp_path: Path) -> None:
    model, example = Half().eval(), torch.rand(1, 3, 8, 8)
    amct.create_quant_config_fx(tmp_path / "config.json", model, input_data=example)
    amct.create_quant_model_fx(tmp_path / "config.json", model, input_data=example)
    text = (tmp_path / "quant.svg").read_text()
    assert re.search(r"<title>cumsum: cumsum\. shape \[\d, 3, 8, 8\]; in float", text)


def test_checks_of_a_trace_are_not_drawn(tmp_path: Path) -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[2] == 8, "size")
            return self.conv(x) if x.shape[3] > 4 else x

    x = torch.randn(2, 3, 8, 8)
    amct.create_quant_config_fx(tmp_path / "config.json", Checked(), input_data=x)
    quantized = amct.create_quant_model_fx(tmp_path / "config.json", Checked(), input_data=x)
    assert any(node.name.startswith("amct_check") for node in quantized.graph.nodes)
    assert set(shapes((tmp_path / "quant.svg").read_text())) == {"x", "conv", "output"}


def test_restoring_draws_nothing(tmp_path: Path) -> None:
    model = Residual().eval()
    quantized = quantize(model, tmp_path, [(torch.rand(1, 3, 8, 8),)])
    torch.save(quantized.state_dict(), tmp_path / "net.pt")
    for path in (*tmp_path.glob("*.svg"), *tmp_path.glob("*.dot")):
        path.unlink()
    amct.restore_quant_model_fx(tmp_path / "config.json", Residual().eval(), tmp_path / "net.pt")
    assert not [*tmp_path.glob("*.svg"), *tmp_path.glob("*.dot")]


def test_the_dot_of_a_folded_picture_has_all_nodes(tmp_path: Path) -> None:
    boxes = chain(LARGEST + 1)
    write_picture(boxes, tmp_path / "net.svg")
    assert as_dot(boxes, "net") == (tmp_path / "net.dot").read_text()


@pytest.mark.parametrize("what", ["before", "after"])
def test_a_notebook_and_a_terminal_show_bits_scale_and_offset(what: str, tmp_path: Path) -> None:
    batches = [(torch.rand(1, 3, 8, 8),)] if what == "after" else []
    quantized = quantize(Residual().eval(), tmp_path, batches)
    table = quantized._repr_html_()
    root = ElementTree.fromstring(table)
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows[0] == ["Layer", "Operation", "Tensor", "Quantizer", "Grid"]
    (row,) = [row for row in rows if row[:1] == ["conv1"] and row[2] == "input 0"]
    layer = quantized.quantized_layers["conv1"]
    if what == "before":
        assert row[4] == "num_bits=8, not calibrated (0 of 1 batches seen)"
    else:
        params = layer.activation[0].params()
        assert row[4] == f"num_bits=8, scale={float(params.scale):.6g}, offset={int(params.offset)}"
        assert "scale=" in repr(layer.weight)
        assert row[4] in repr(layer)
