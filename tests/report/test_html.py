"""The report is one well-formed document that stands alone, shows the figures worst first, and works in a browser."""

from __future__ import annotations

import base64
import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.graph import Skip
from hotwheels.amct_pytorch.report.analysis import (
    Analysis,
    Difference,
    LayerChange,
    LayerEffect,
    LayerSettings,
    NextStep,
    NodeSimilarity,
    Remark,
    TensorSettings,
    describe_change,
    merged,
)
from hotwheels.amct_pytorch.report.html import write_reports

PAGES = {
    "index.html": "layerwise",
    "layerwise_analysis_report.html": "layerwise",
    "graphwise_analysis_report.html": "graphwise",
    "statistic_analysis_report.html": "statistic",
}
LARGEST = 1_500_000  # bytes of all pages together
VOID = {"meta", "input", "br"}
HOSTILE = "</script><script>alert(1)</script>"


def difference(sqnr_db: float, cosine: float) -> Difference:
    return Difference(sqnr_db=sqnr_db, cosine=cosine, max_error=0.25)


GOOD, BAD, EXACT = difference(40.0, 0.99), difference(7.0, 0.5), difference(math.inf, 1.0)


def an_analysis(outputs: int = 1, layers: int = 3) -> Analysis:
    torch.manual_seed(0)
    values = torch.randn(100)
    names = ["first", "second", "third", *(f"more_{index}" for index in range(3, layers))]
    effects = dict(zip(names, [GOOD, BAD, EXACT, *[GOOD] * layers], strict=False))
    change, rough = describe_change(values, values + 0.001), describe_change(values, values.round())
    settings = (
        TensorSettings(what="input 0", num_bits=8, scales=(0.5, 0.5), offset=-3, quantizer="Ulq", observer="IFMR"),
        TensorSettings(what="weight", num_bits=4, scales=(0.1, 0.2), offset=0, quantizer="Arq", observer=""),
    )
    remark = Remark(
        name="second",
        sqnr_db=7.0,
        weight_sqnr_db=20.0,
        gain_db=3.5,
        finding="Quantized alone: SQNR 7.0 dB.",
        steps=(NextStep("Leave it in float.", "skip_layers:\n- second\n"), NextStep("amct.refine")),
    )
    return Analysis(
        model=f"Net{HOSTILE}",
        inputs="(1, 3) float32",
        layerwise=tuple(
            LayerEffect(name=name, op="conv2d", outputs=dict.fromkeys(range(outputs), one))
            for name, one in effects.items()
        ),
        graphwise=tuple(
            NodeSimilarity(name=name, is_quantized=name != "third", fake_quant=EXACT, real_quant=one, max_lsb=1.0)
            for name, one in effects.items()
        ),
        statistic=tuple(
            LayerChange(name=name, op="conv2d", output=change, weight=None if name == "first" else rough)
            for name in effects
        ),
        outputs={"fake_quant": dict.fromkeys(range(outputs), GOOD), "real_quant": dict.fromkeys(range(outputs), EXACT)},
        skipped=(Skip("boxes", f"its shape depends {HOSTILE}"),),
        settings=(LayerSettings("second", settings),),
        remarks=(remark,),
        shares={"second": 0.75},
        reasons={"third": "no one has asked for it"},
        metric={"float": 0.9, "fake_quant": 0.8, "without second": 0.85},
    )


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects attributes, scripts and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.title = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
        elif self.open[-1:] == ["title"]:
            self.title += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "made" / "on the way"
    written = write_reports(an_analysis(), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PAGES, "report.json"])
    assert set(written) == set(folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {name: Page((folder / name).read_text(encoding="utf-8")) for name in PAGES}


def test_the_metric_without_a_layer_stands_beside_the_layer(pages: dict[str, Page]) -> None:
    data = pages["index.html"].data
    assert data["worst"][0]["say"] == "Quantized alone: SQNR 7.0 dB. evaluate without it: 0.85."
    assert [fact for fact in data["facts"] if fact[0].startswith("evaluate")] == [
        ["evaluate, float", "0.9"],
        ["evaluate, fake_quant", "0.8"],
    ]


def test_the_pages_are_one_document_in_three_views(pages: dict[str, Page]) -> None:
    views = {name: page.data.pop("view") for name, page in pages.items() if page.data}
    assert {name: page.data["view"] for name, page in pages.items()} == PAGES
    assert views == PAGES
    assert len({json.dumps(page.data | {"view": ""}) for page in pages.values()}) == 1
    assert len({page.scripts[1] for page in pages.values()}) == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_other_file_and_may_ask_for_none(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert not [one for one in page.attributes if one[1] in ("src", "href")]
    policy = [value for tag, attribute, value in page.attributes if value and value.startswith("default-src 'none'")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", "".join(page.scripts[1:]))


@pytest.mark.parametrize("name", PAGES)
def test_names_are_text_and_never_markup(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert len(page.scripts) == 2
    assert page.title.endswith(f"analysis - Net{HOSTILE}")
    assert page.data["skipped"] == [["boxes", f"its shape depends {HOSTILE}"]]


def test_every_place_the_script_asks_for_exists(pages: dict[str, Page]) -> None:
    page = pages["index.html"]
    ids = {value for _, attribute, value in page.attributes if attribute == "id"}
    asked = set(re.findall(r'\$\("(\w+)"\)', page.scripts[1]))
    assert len(asked) > 10
    assert asked <= ids


def test_rows_have_all_figures_of_a_node(pages: dict[str, Page]) -> None:
    first, second, third = pages["index.html"].data["rows"]
    assert (first["n"], first["q"], third["q"], third["why"]) == ("first", 1, 1, "no one has asked for it")
    assert second["a"] == [7.0, 0.5, 0.25, 0]
    assert second["r"] == [7.0, 0.5, 0.25]
    assert second["f"] == third["a"][:3] == ["exact", 1.0, 0.25]
    assert second["t"][0] == {"w": "input 0", "b": 8, "s": 0.5, "o": -3, "z": "Ulq", "ob": "IFMR"}
    assert (second["t"][1]["s"], second["t"][1]["s2"]) == (0.1, 0.2)
    assert (second["m"], second["lsb"]) == (0.75, 1.0)
    assert "hw" not in first


def test_histograms_are_the_counts_on_a_logarithmic_scale(pages: dict[str, Page]) -> None:
    second = pages["index.html"].data["rows"][1]
    packed, _, largest = second["hw"]["c"]
    values = np.frombuffer(base64.b64decode(packed), np.uint8)
    wanted = np.array(an_analysis().statistic[1].weight.before.counts)
    assert len(values) == len(wanted) == 64
    assert np.abs(np.expm1(values / 255 * math.log1p(largest)) - wanted).max() <= 0.01 * largest + 0.5


def test_report_json_has_the_figures_of_the_analysis(folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text())
    analysis = an_analysis()
    assert found["layerwise"]["second"]["sqnr_db"] == 7.0
    assert found["layerwise"]["third"]["sqnr_db"] == "inf"
    assert found["statistic"]["second"]["weight"]["before"]["counts"] == list(
        analysis.statistic[1].weight.before.counts
    )
    assert found["remarks"]["second"]["steps"][0]["yaml"] == "skip_layers:\n- second\n"
    assert found["settings"]["second"][1]["num_bits"] == 4
    assert found["metric"] == {"float": 0.9, "fake_quant": 0.8, "without second": 0.85}
    assert set(found) == set(analysis.as_dict())


def test_five_hundred_layers_are_small_enough(tmp_path: Path) -> None:
    written = write_reports(an_analysis(layers=500), tmp_path)
    assert sum(path.stat().st_size for path in written if path.suffix == ".html") <= LARGEST


def test_an_analysis_without_layers_is_a_page(tmp_path: Path) -> None:
    empty = Analysis(model="Net", inputs="", layerwise=(), graphwise=(), statistic=(), outputs={}, skipped=())
    write_reports(empty, tmp_path)
    assert Page((tmp_path / "index.html").read_text(encoding="utf-8")).data["rows"] == []


def test_figures_of_several_batches_are_merged() -> None:
    one, other = an_analysis(), an_analysis()
    effects = tuple(
        LayerEffect(name=effect.name, op=effect.op, outputs={0: difference(10.0, 0.7)}) for effect in other.layerwise
    )
    found = merged([one, Analysis(**{**vars(other), "layerwise": effects})])
    first, second, third = (effect.worst for effect in found.layerwise)
    assert first.sqnr_db == pytest.approx(-10 * math.log10((1e-4 + 1e-1) / 2))
    assert second.cosine == pytest.approx(0.6)
    assert third.sqnr_db == pytest.approx(-10 * math.log10(1e-1 / 2))
    assert merged([one]) is one


# --- in a browser ---

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Runs behind the page's own script and leaves what it saw in the title.
_PROBE = """
<script>
const seen = {}, texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
const cells = (column) => texts(`#body td:nth-child(${column})`), search = document.getElementById("search");
const click = (selector) => document.querySelector(selector).dispatchEvent(new MouseEvent("click", {bubbles: true}));
seen.first = cells(2);
click("th[data-column=name] button");
seen.sorted = cells(2);
click("th[data-column=name] button");
seen.reversed = cells(2);
search.value = "arq";
search.dispatchEvent(new Event("input"));
seen.found = cells(2);
search.value = ""; search.dispatchEvent(new Event("input"));
click("[data-view=statistic]");
click("tr[data-name=second]");
seen.histograms = document.querySelectorAll("#detail svg").length;
seen.hash = location.hash;
seen.bars = document.querySelectorAll("#chart rect").length;
seen.cards = texts("#cards pre");
click(".copy"); seen.copy = document.querySelector(".copy").textContent !== "";
const before = getComputedStyle(document.body).backgroundColor;
click("#theme");
seen.theme = before !== getComputedStyle(document.body).backgroundColor;
seen.severity = document.querySelectorAll("#cards .s0").length;
rows.forEach((row) => { if (row.a) { row.a[0] = 61; row.a[1] = 0.99998; } });
show("layerwise"); seen.marks = texts("#chart text");
document.title = "SEEN" + JSON.stringify(seen);
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_the_page_works_in_a_browser(folder: Path, tmp_path: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8").replace("</body>", f"{_PROBE}</body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    line = [str(BROWSER), *options, f"file://{tmp_path}/page.html"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)
    title = re.search(r"<title>SEEN(.*?)</title>", ran.stdout)
    assert title is not None, ran.stderr[-2000:]
    seen = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["first"] == ["second", "first", "third"], "worst first"
    assert seen["sorted"] == ["first", "second", "third"]
    assert seen["reversed"] == ["third", "second", "first"]
    assert seen["found"] == ["second"], "search looks at quantizers"
    assert (seen["histograms"], seen["hash"]) == (2, "#statistic:second")
    assert (seen["bars"], seen["severity"]) == (3, 1)
    assert seen["cards"] == ["skip_layers:\n- second\n"]
    assert seen["theme"]
    numbers = [one for one in seen["marks"] if re.fullmatch(r"[\d.]+", one)]
    assert numbers[:-2] == ["0", "10", "20", "30", "40", "50", "60"], "SQNR has marks up to the highest bar"
    assert numbers[-2:] == ["1", "0.999980"], "the ends of the cosine axis differ"
