"""Operations that return their tensor unchanged: decided by values in real_quant, by nodes without values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.calls.no_ops import handed_on
from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.backends.fx.read.no_op_nodes import handed_on_nodes
from hotwheels.amct_pytorch.nn.call import MethodCall
from hotwheels.amct_pytorch.ops.registry import Registry


@pytest.mark.parametrize(
    ("args", "kwargs", "is_same"),
    [
        ((torch.float64,), {}, True),
        ((), {"dtype": torch.float16}, True),
        ((torch.int64,), {}, False),
        ((), {"dtype": torch.int64}, False),
        ((torch.zeros(1, dtype=torch.int8),), {}, False),
        ((), {"other": torch.zeros(1, dtype=torch.int8)}, False),
    ],
    ids=str,
)
def test_conversion_to_integers_is_no_copy(args: tuple[object, ...], kwargs: dict[str, object], is_same: bool) -> None:
    x = torch.rand(3)
    assert (handed_on(MethodCall("to"), (x, *args), kwargs) is not None) == is_same


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.drop(x.relu()).float())


def test_nodes_that_hand_on_lead_back_to_what_made_the_tensor() -> None:
    traced = FxBackend(Net(lambda x: x.to(dtype=torch.int64) + x.data.abs().contiguous()), Registry()).traced
    assert handed_on_nodes(traced) == {"drop": "relu", "float_1": "relu", "getattr_1": "relu", "contiguous": "abs_1"}
