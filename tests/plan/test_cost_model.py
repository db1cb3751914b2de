"""The cost model: the file that is shipped, the formula, and what is wrong where."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotwheels.amct_pytorch.errors import ConfigError
from hotwheels.amct_pytorch.plan.cost_model import DEFAULT_FILE, Work, read_cost_model

WORK = Work(multiplications=1000, weights=64, elements=10)


@pytest.mark.parametrize(
    ("data_bits", "weight_bits", "multiplications", "moved"),
    [
        (8, 8, 1000, 74),
        (12, 8, 2000, 84),
        (16, 8, 2000, 84),
        (8, 4, 1000, 42),
        (None, 8, 8000, 148),
        (8, None, 1000, 10),
    ],
)
def test_cost_of_a_layer(data_bits, weight_bits, multiplications, moved) -> None:
    assert read_cost_model().cost(WORK, data_bits, weight_bits) == multiplications + 32 * moved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("byte: 32", ""), "byte is missing"),
        (("byte: 32", "byte: -1"), "byte is -1; allowed: 0 and more"),
        (("16x8: 2", "16x8: two"), "multiplication.16x8 is 'two'; a number is expected"),
        (("  float: 8", ""), "multiplication.float is missing"),
        (("name:", "{"), "line 7, column 1: expected"),
    ],
)
def test_what_is_wrong_is_named(change, message, tmp_path: Path) -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    assert change[0] in text
    (tmp_path / "chip.yaml").write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_cost_model(tmp_path / "chip.yaml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"chip\.yaml"):
        read_cost_model(tmp_path / "chip.yaml")
