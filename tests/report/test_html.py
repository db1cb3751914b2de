"""The reports are well-formed HTML without external files, and show the worst numbers first."""

from __future__ import annotations

import html.parser
import json
import math
import re
from pathlib import Path

import pytest
import torch

from hotwheels.amct_pytorch.graph import Skip
from hotwheels.amct_pytorch.report.analysis import (
    Analysis,
    Difference,
    LayerChange,
    LayerEffect,
    NodeSimilarity,
    describe_change,
)
from hotwheels.amct_pytorch.report.html import write_reports

NAMES = ["layerwise_analysis_report.html", "graphwise_analysis_report.html", "statistic_analysis_report.html"]
VOID = {"meta", "input", "br"}
HOSTILE = "</script><script>alert(1)</script>"


def difference(sqnr_db: float, cosine: float) -> Difference:
    return Difference(sqnr_db=sqnr_db, cosine=cosine, max_error=0.25)


def an_analysis(outputs: int = 1) -> Analysis:
    torch.manual_seed(0)
    values = torch.randn(100)
    good, bad, exact = difference(40.0, 0.99), difference(7.0, 0.5), difference(math.inf, 1.0)
    effects = {"first": good, "second": bad, "third": exact}
    change, rough = describe_change(values, values + 0.001), describe_change(values, values.round())
    return Analysis(
        model=f"Net{HOSTILE}",
        inputs="(1, 3) float32",
        layerwise=tuple(
            LayerEffect(name=name, op="conv2d", outputs=dict.fromkeys(range(outputs), one))
            for name, one in effects.items()
        ),
        graphwise=tuple(
            NodeSimilarity(name=name, is_quantized=name != "third", fake_quant=exact, real_quant=one)
            for name, one in effects.items()
        ),
        statistic=(
            LayerChange(name="relu", op="relu", output=change, weight=None),
            LayerChange(name="conv", op="conv2d", output=change, weight=rough),
        ),
        outputs={"fake_quant": dict.fromkeys(range(outputs), good), "real_quant": dict.fromkeys(range(outputs), exact)},
        skipped=(Skip("boxes", f"its shape depends {HOSTILE}"),),
    )


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects what a reader and a browser see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        else:
            self.words.append(data.strip())

    @property
    def report(self) -> object:
        return json.loads(self.scripts[1].removeprefix("const report = ").removesuffix(";"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    folder = tmp_path_factory.mktemp("reports") / "made" / "on the way"
    written = write_reports(an_analysis(), folder)
    assert written == [folder / name for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in written}


@pytest.mark.parametrize("name", NAMES)
def test_a_report_needs_no_other_file(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert not [one for one in page.attributes if one[1] in ("src", "href")]
    assert len([script for script in page.scripts if "plotly.js v" in script]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_report_offers_no_upload(pages: dict[str, Page], name: str) -> None:
    assert any("showSendToCloud: false" in script for script in pages[name].scripts[1:])


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_and_never_markup(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert len(page.scripts) == 4
    assert f"boxes: its shape depends {HOSTILE}" in page.words


@pytest.mark.parametrize("name", NAMES)
def test_every_place_the_script_asks_for_exists(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    ids = {value for _, attribute, value in page.attributes if attribute == "id"}
    asked = set(re.findall(r'(?:drawBesideLayers|drawHistogram|getElementById)\("(\w+)"', page.scripts[-1]))
    assert asked
    assert asked <= ids


def test_layers_stand_worst_first(pages: dict[str, Page]) -> None:
    title, *rows = pages[NAMES[0]].rows
    assert title == ["Order", "Layer", "Operation", "SQNR (dB)", "Cosine", "Max error"]
    assert rows == [
        ["2", "second", "conv2d", "7.0", "0.50000000", "0.25"],
        ["1", "first", "conv2d", "40.0", "0.99000000", "0.25"],
        ["3", "third", "conv2d", "exact", "1.00000000", "0.25"],
    ]


def test_sort_keys_are_numbers_of_javascript(pages: dict[str, Page]) -> None:
    keys = {value for _, attribute, value in pages[NAMES[0]].attributes if attribute == "data-key"}
    assert {"7.0", "40.0", "Infinity"} <= keys
    assert not {"inf", "nan"} & keys


def test_several_outputs_say_which_is_worst(tmp_path: Path) -> None:
    path, *_ = write_reports(an_analysis(outputs=2), tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.rows[0][-1] == "Worst output"
    assert page.rows[1][-1] == "0"
    assert "fake_quant, all layers, output 1" in page.words


def test_charts_keep_the_order_of_the_graph(pages: dict[str, Page]) -> None:
    report = pages[NAMES[1]].report
    assert report["names"] == ["first", "second", "third"]
    assert [one["name"] for one in report["series"]] == ["fake_quant", "real_quant"]
    assert report["series"][1] == {"name": "real_quant", "sqnr": [40.0, 7.0, None], "cosine": [0.99, 0.5, 1.0]}


def test_nodes_stand_worst_first(pages: dict[str, Page]) -> None:
    _, *rows = pages[NAMES[1]].rows
    assert [row[1:4] for row in rows] == [
        ["second", "yes", "0.50000000"],
        ["first", "yes", "0.99000000"],
        ["third", "no", "1.00000000"],
    ]


def test_rows_of_the_statistic_choose_a_histogram(pages: dict[str, Page]) -> None:
    page = pages[NAMES[2]]
    _, *rows = page.rows
    assert rows[0][1:4] == ["conv", "conv2d", "weight"]
    choices = [value for tag, attribute, value in page.attributes if (tag, attribute) == ("tr", "data-choice")]
    assert choices == [row[1] for row in rows]
    assert set(choices) == set(page.report)
    assert sum(page.report["conv"]["weight"]["before"]) == 100
    assert page.report["relu"]["weight"] is None


def test_an_analysis_without_layers_is_a_page(tmp_path: Path) -> None:
    empty = Analysis(model="Net", inputs="", layerwise=(), graphwise=(), statistic=(), outputs={}, skipped=())
    for path in write_reports(empty, tmp_path):
        assert len(Page(path.read_text(encoding="utf-8")).rows) == 1
