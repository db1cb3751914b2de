"""References in code, tests and pages have targets: ``spec n.m``, links, chapters of the vendor's manual."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("hotwheels", "picovision", "proto", "capacity", "custom_op", "tests", "benchmarks", "sample", "docs")
SUFFIXES = {".py", ".md", ".c", ".proto", ".cfg", ".yaml", ".toml"}
NUMBER = r"\d+(?:\.\d+)?"
# "spec 4.6", "spec 5, 6", "spec 4.1 - 4.5", "spec 5 and 6"; a line may break behind each word.
CITATION = re.compile(rf"\bspec\s+(?:#\s+)?({NUMBER}(?:\s*(?:,|-|\band\b|\bor\b)\s*{NUMBER})*)", re.IGNORECASE)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
HAN = re.compile(r"[\u4e00-\u9fff]")
# Pages which a decision names before they are written (spec 18).
PLANNED = {"docs/security.md"}


def texts() -> list[Path]:
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    outside = [path for path in sorted(ROOT.iterdir()) if path.suffix in SUFFIXES]
    ignored = {"data", "checkpoints", "tmp", ".cache", "amct_log", "templates"}
    return [path for path in inside if not ignored & set(path.relative_to(ROOT).parts)] + outside


def pages() -> list[Path]:
    return [path for path in texts() if path.suffix == ".md"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cited(text: str) -> list[str]:
    return [number for found in CITATION.finditer(text) for number in re.findall(NUMBER, found[1])]


def anchors(page: Path) -> set[str]:
    """Explicit anchors and those which GitHub makes of headings."""
    text = read(page)
    found = set(re.findall(r'<a id="([^"]+)"', text))
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        heading = None if in_code else re.match(r"#+ (.*)", line)
        if heading:
            found.add(_slug(heading[1]))
    return found


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    kept = (one for one in plain if one in " -_" or unicodedata.category(one)[0] in "LN")
    return "".join(kept).replace(" ", "-")


def test_cited_paragraphs_exist() -> None:
    known = anchors(ROOT / "docs" / "specification.md")
    missing = [f"{name(path)}: {one}" for path in texts() for one in cited(read(path)) if f"spec-{one}" not in known]
    assert not missing, "paragraphs that docs/specification.md does not have"


def test_many_paragraphs_are_cited() -> None:
    """A search that finds nothing would let everything pass."""
    assert sum(len(cited(read(path))) for path in texts()) > 250


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(spec 4.6).", ["4.6"]),
        ("spec 5, 6)", ["5", "6"]),
        ("spec 4.1 - 4.5", ["4.1", "4.5"]),
        ("ranges of spec 5 and 6 are", ["5", "6"]),
        ("as spec\n    10.4 says", ["10.4"]),
        ("QuantSpec 4, a special 5", []),
    ],
)
def test_how_paragraphs_are_cited(text: str, numbers: list[str]) -> None:
    assert cited(text) == numbers


def test_paragraph_numbers_are_unique() -> None:
    numbers = re.findall(r'<a id="([^"]+)"', read(ROOT / "docs" / "specification.md"))
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_resolve(page: Path) -> None:
    for found in LINK.finditer(read(page)):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue  # another host
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name(page)} links to {target}#{anchor}"


def test_pages_that_are_named_exist() -> None:
    """``docs/exactness.md`` in a docstring or a message is a page of this repository."""
    named = [(path, page) for path in texts() for page in re.findall(r"\bdocs/[\w/.-]+\.md\b", read(path))]
    missing = [f"{name(path)}: {page}" for path, page in named if page not in PLANNED and not (ROOT / page).exists()]
    assert not missing


def chapters() -> set[str]:
    rows = read(ROOT / "docs" / "glossary.md").partition("## Chapters")[2].splitlines()
    return {row.split("|")[2].strip() for row in rows if HAN.search(row)}


def test_chapters_of_the_manual_are_in_the_glossary() -> None:
    titles = [
        (path, title) for path in prose() for title in re.findall(r"\[([^\]\n]*)\]", read(path)) if HAN.search(title)
    ]
    unknown = [f"{name(path)}: {title}" for path, title in titles if title not in chapters()]
    assert not unknown


def test_chinese_stands_in_brackets_behind_its_english() -> None:
    lines = [(path, line) for path in prose() for line in read(path).splitlines()]
    alone = [f"{name(path)}: {line}" for path, line in lines if HAN.search(re.sub(r"\[[^\]]*\]", "", line))]
    assert not alone


def prose() -> list[Path]:
    """Files whose text is English: not the tests, which compare with Chinese texts, and no translation."""
    return [
        path
        for path in texts()
        if path.suffix in {".py", ".md"}
        and not {"tests", "zh"} & set(path.relative_to(ROOT).parts)
        and name(path) not in {"docs/glossary.md", "README.md"}  # the README links to the Chinese pages
    ]


def test_nothing_outside_the_repository_is_cited() -> None:
    outside = re.compile(r"\bshared/\w+|\bDESIGN \d|\bSPEC\b|\bHOUSE_STYLE\b|we were given")
    cites = [
        f"{name(path)}: {one}" for path in texts() if path != Path(__file__) for one in outside.findall(read(path))
    ]
    assert not cites


def test_the_navigation_of_the_site_has_every_page() -> None:
    text = read(ROOT / "mkdocs.yml").partition("\nnav:")[2]
    named = set(re.findall(r"\b[\w/]+\.md\b", text))
    of_the_root = {"reporting.md", "contributing.md", "changelog.md"}  # docs/hooks.py makes them
    assert named - of_the_root == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
