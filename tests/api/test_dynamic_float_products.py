"""Products with a parameter that are functions in a forward stay in float on the dynamic path, and are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.support.log_lines import LogLines


class _Net(nn.Module):
    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.matrix = nn.Parameter(torch.randn(5, 5))
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        return self._product(self.head(self.conv(x).mean((2, 3))), self.matrix)


_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": F.linear,
    "matmul": torch.matmul,
    "transposed": lambda x, matrix: x @ matrix.t(),
    "einsum": lambda x, matrix: torch.einsum("bi,ij->bj", x, matrix),
}


@pytest.mark.parametrize("name", _PRODUCTS)
def test_function_with_a_parameter_is_named(name: str, tmp_path: Path, log_lines: LogLines) -> None:
    amct.create_quant_config(tmp_path / "config.json", _Net(_PRODUCTS[name]).eval(), torch.randn(2, 3, 8, 8))
    (line,) = [one for one in log_lines.of("WARNING") if "called as functions" in one]
    assert "1 product(s)" in line
    assert "nn.Linear" in line


def test_layers_are_not_named(tmp_path: Path, log_lines: LogLines) -> None:
    model = _Net(lambda x, _: F.adaptive_avg_pool1d(x, 3)).eval()
    amct.create_quant_config(tmp_path / "config.json", model, torch.randn(2, 3, 8, 8))
    assert not [one for one in log_lines.of("WARNING") if "called as functions" in one]
