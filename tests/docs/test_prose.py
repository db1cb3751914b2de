"""Phrases that a stranger could not understand at first reading, which were mended once, do not come back."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from .test_references import name, read, texts

FOLDER = Path(__file__).parent  # its tests name the phrases

# A pattern, and the reason why its phrase is refused.
REFUSED = {
    r"\bDESIGN \d": "it cites a document that is not in this repository",
    r"\bwe (?:were|are) given\b": "the giver and the file are unknown to the reader: name the document",
    r"\bwas asked for\b": "it does not say who asked: name the argument or the caller",
    r"\b[Nn]obody (?:has|else|but|sees)\b|\bif nobody\b": "say what is missing: 'None if it was not recorded'",
    r"\bby somebody\b|\bsomebody else\b": "name the caller or the node",
    r"\bto everybody\b|\bfor everybody\b": "name the readers",
    r"\blittle (?:of it )?is left\b": "say how many levels of the grid remain",
    r"\bwhich no layout\b": "a Reshape must work on non-contiguous tensors: say so",
    r"\bclass cannot be told\b": "say 'a foreign class cannot be made symmetric'",
    r"\blook of calibration\b": "say 'the calibration pass over a tensor'",
    r"\bcomputes something else\b": "say which results differ",
    r"\bstands? (?:twice|in the way)\b": "a key occurs twice; name the obstacle",
    r"\bhands (?:it|its \w+) on\b": "a node returns its tensor unchanged; a wrapper forwards attributes",
    r"\bmakes? of it\b": "say 'the result of the function'",
}


@functools.cache
def sentences() -> dict[str, str]:
    """Returns the texts by file name, with lines joined and without the marks of comments."""
    return {name(path): _joined(read(path)) for path in texts() if path.parent != FOLDER}


@pytest.mark.parametrize(("pattern", "reason"), REFUSED.items())
def test_phrase_does_not_come_back(pattern: str, reason: str) -> None:
    found = [f"{file}: {one}" for file, text in sentences().items() for one in re.findall(pattern, text)]
    assert not found, reason


def test_lines_of_a_comment_are_joined() -> None:
    """Most phrases are broken across lines somewhere; a search by line would miss them."""
    assert _joined("# was asked\n    # for") == "# was asked for"


def _joined(text: str) -> str:
    return re.sub(r"\s+(?:#\s+)?", " ", text)
