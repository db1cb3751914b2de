"""Functions that torch's TorchScript-based exporter lacks or writes wrongly, in onnxruntime against eager torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.calls.leaves import tensors_in
from hotwheels.amct_pytorch.backends.torchscript.composed_calls import ComposedCalls
from hotwheels.amct_pytorch.backends.torchscript.torch_exporter import export_onnx
from hotwheels.amct_pytorch.onnx_io.model_file import parse_model
from tests.support.call_cases import CASES, CallCase, T, X
from tests.support.written import assert_same, run_default_bytes

# Cases of the table which the exporter alone refuses or writes wrongly.
FROM_TABLE = (
    """
addcdiv|fmax|fmin|trunc|frac|sinh|cosh|asinh|atanh|acosh|softplus low threshold|threshold 2 -1|squeeze several
permute by a list|roll of all|diff|diff twice|take along an axis|channel_shuffle|interpolate nearest-exact
interpolate nearest-exact 7 to 26|area|all|signbit|exp2|expm1|erfc|rad2deg|positive|isposinf|atan2|hypot|logaddexp
copysign|isclose|xlogy|heaviside|rot90|cumprod|cumprod of ints|count_nonzero|nansum|take_along_dim|trace|shifts
sums of products|stacks
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
OWN = [
    CallCase("adaptive average", lambda x: F.adaptive_avg_pool2d(x, (4, 5)), (X,)),
    CallCase("adaptive average without batch", lambda x: F.adaptive_avg_pool2d(x[0], (4, None)), (X,)),
    CallCase("area by a factor", lambda x: F.interpolate(x, scale_factor=1.5, mode="area"), (X,)),
    CallCase("area of even windows", lambda x: F.interpolate(x, scale_factor=0.5, mode="area"), (X,)),
    CallCase(
        "nearest-exact by factors", lambda x: F.interpolate(x, scale_factor=(0.7, 1.3), mode="nearest-exact"), (X,)
    ),
    CallCase(
        "masks compared with True and False",
        lambda x: ((x > 0).eq(True), (x > 0).ne(True), torch.eq(x > 1, False)),
        (X,),
    ),
    CallCase("rot90 by nothing", lambda t: t.rot90(4, (1, 2)), (T,)),
    CallCase("fix of a negative fraction", lambda x: torch.fix(x), (X,)),
]


class Caller(nn.Module):
    def __init__(self, case: CallCase) -> None:
        super().__init__()
        self.case = case

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with ComposedCalls():
            return tuple(tensors_in(self.case.call(*inputs)))


@pytest.mark.parametrize(
    "case", [*{one.id: one for one in CASES if one.id in FROM_TABLE}.values(), *OWN], ids=lambda case: case.id
)
def test_call_is_written_as_others(case: CallCase) -> None:
    with torch.no_grad():
        expected = tensors_in(case.call(*case.inputs))
    names = [f"input_{index}" for index in range(len(case.inputs))]
    content = export_onnx(Caller(case).eval(), case.inputs, {"input_names": names})
    assert_same(run_default_bytes(content, case.inputs), expected)


def test_every_name_is_a_case() -> None:
    assert {one.id for one in CASES} >= set(FROM_TABLE)


def test_functions_without_a_form_stay() -> None:
    case = CallCase("relu", lambda x: F.softplus(F.interpolate(x, (3, 3)).relu().squeeze(0)), (X[:1],))
    model = parse_model(export_onnx(Caller(case).eval(), case.inputs, {}))
    assert {"Resize", "Relu", "Squeeze", "Softplus"} <= {node.op_type for node in model.graph}
