"""``amct dot2pdf``: graphviz is called, or its absence and its failure are told in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Amct

PROGRAM = """#!/bin/sh
[ "$1" = -Tpdf ] || exit 9
case "$(cat "$4")" in *digraph*) echo made > "$3";; *sleep*) sleep 30;; *) echo "syntax error" >&2; exit 1;; esac
"""


@pytest.fixture
def graphviz(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in graphviz' place, with its options."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "dot"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    return folder


def test_a_pdf_beside_the_dot(amct: Amct, graphviz: Path) -> None:
    (graphviz / "quant.dot").write_text("digraph {}")
    ran = amct("dot2pdf", "quant.dot")
    assert (ran.code, ran.out) == (0, "quant.pdf\n"), ran.err
    assert (graphviz / "quant.pdf").read_text() == "made\n"


@pytest.mark.parametrize(
    ("content", "more", "text"),
    [
        ("nothing", (), "cannot draw 'quant.dot': syntax error"),
        ("sleep", ("--timeout", 1), "has not finished 'quant.dot' in 1 s"),
    ],
)
def test_failures_of_graphviz(amct: Amct, graphviz: Path, content: str, more: tuple[object, ...], text: str) -> None:
    (graphviz / "quant.dot").write_text(content)
    ran = amct("dot2pdf", "quant.dot", *more)
    assert ran.code == 2
    assert text in ran.error


def test_without_graphviz(amct: Amct, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "quant.dot").write_text("digraph {}")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    ran = amct("dot2pdf", "quant.dot")
    assert ran.code == 2
    assert "apt install graphviz" in ran.error


def test_a_file_that_is_not_there(amct: Amct, folder: Path) -> None:
    assert amct("dot2pdf", "quant.dot").code == 2


def test_a_file_that_is_no_dot_is_refused_before_graphviz_is_looked_for(
    amct: Amct, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    ran = amct("dot2pdf", "net.py")
    assert ran.code == 2
    assert ran.error == "error: dot2pdf: 'net.py' is no .dot; float.dot and quant.dot lie beside config.json."
