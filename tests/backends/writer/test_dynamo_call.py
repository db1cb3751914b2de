"""The calls that only torch's exporters can write, by the newer one alone, against eager torch in a default session."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.backends.writer import dynamo_call, one_call
from hotwheels.amct_pytorch.errors import ExportError
from tests.support.fx_path import quantize
from tests.support.written import assert_same, run_default, write

needs_onnxscript = pytest.mark.skipif(
    util.find_spec("onnxscript") is None, reason="the extra 'dynamo' is not installed"
)

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
OTHER_SIZE = torch.randn(3, 4, 10, 8, generator=torch.Generator().manual_seed(1))


def places(x: Tensor) -> Tensor:
    return (x.abs() * 2).long().clamp(0, 3)


def assigned(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 1] = x[:, 0] * 2
    x[x > 1] = 0.5
    return x


# With dynamic sizes; of these calls, those that have a handler or form for such sizes need no exporter.
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "unfold": lambda x: F.unfold(x, (3, 2), dilation=2, padding=1, stride=2),
    "fold": lambda x: F.fold(x.flatten(2)[:, :, :16], (8, 8), 2, stride=2),
    "grid_sample": lambda x: F.grid_sample(x, (x[:, :2].permute(0, 2, 3, 1) * 0.5).tanh(), align_corners=False),
    "one_hot": lambda x: F.one_hot(places(x), 5),
    "cross": lambda x: torch.cross(x[:, :3], x[:, 1:4], dim=1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(3), dim=1),
    "pairwise_distance": lambda x: F.pairwise_distance(x.flatten(1), x.flip(2).flatten(1)),
    "norm": lambda x: torch.norm(x, p=3, dim=(1,)),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "scatter": lambda x: torch.scatter(x, 1, places(x), x * 2),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([1, 3]), 2.5),
    "index_put": lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), x[0, 2] * 3),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, -x),
    "take": lambda x: torch.take(x, places(x)),
    "tensordot": lambda x: torch.tensordot(x, x, dims=([1, 2, 3], [1, 2, 3])),
    "meshgrid": lambda x: torch.stack(torch.meshgrid(x[0, 0, 0], x[0, 0, 1], indexing="ij")),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "log2": lambda x: torch.log2(x.abs() + 1),
    "log10": lambda x: torch.log10(x.abs() + 1),
    "logit": lambda x: torch.logit(x.sigmoid(), 1e-3),
    "round": lambda x: torch.round(x, decimals=2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "assignment": assigned,
}
WITH_DATA_SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "nonzero": lambda x: torch.nonzero(x > 0),
    "unique": lambda x: (x * 2).long().unique(),
}


def forbidden(*args: object, **kwargs: object) -> None:
    raise ExportError("The old exporter is forbidden here.")


@pytest.fixture
def only_dynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_call, "export_call", forbidden)


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_call_computes_what_eager_does_at_two_sizes(call: Callable[[Tensor], Tensor]) -> None:
    model = write(call, (X,), 18, {0: [0, 2]})
    for x in (X, OTHER_SIZE):
        assert_same(run_default(model, (x,)), [call(x)])


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize("call", WITH_DATA_SIZES.values(), ids=WITH_DATA_SIZES)
def test_size_of_the_result_depends_on_the_data(call: Callable[[Tensor], Tensor]) -> None:
    model = write(call, (X,), 20)
    for x in (X, X.abs(), -X.abs()):
        assert_same(run_default(model, (x,)), [call(x)])


@torch.fx.wrap
def scaled(x: Tensor, factor: float) -> Tensor:
    return x * torch.arange(x.shape[1]).view(-1, 1, 1) * factor


class Norm(nn.Module):
    """A module that is exported as a whole: torch.fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.weight = nn.Parameter(torch.tensor([0.5, 1.0, 1.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.weight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        x = scaled(self.conv(x), 0.5)
        return self.last(F.unfold(x, 1).reshape(x.shape))


def saved(folder: Path, **setting: Any) -> onnx.ModelProto:
    torch.manual_seed(0)
    x = X[:, :3]
    amct.save_quant_model_fx(quantize(Net().eval(), folder, [(x,)]), folder / "n", x, setting or None)
    return onnx.load(folder / "n_float_model.onnx")


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
def test_functions_of_the_user_keep_their_scope(tmp_path: Path) -> None:
    model = saved(tmp_path, opset_version=19)
    assert model.opset_import[0].version == 19
    names = [node.name for node in model.graph.node]
    assert "/scaled/Mul" in names and "/unfold/Reshape" in names
    assert {name.split("/")[1] for name in names if name.startswith("/")} == {"scaled", "unfold"}
    assert str(Path(__file__).parent).encode() not in model.SerializeToString(), "torch's notes have the user's paths"


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
def test_module_keeps_its_weights_and_paths() -> None:
    norm, x = Norm(), X.movedim(1, -1).reshape(-1, 4)
    call = one_call.TemplateCall(
        function=norm,
        args=(one_call.Slot(0),),
        kwargs={},
        inputs=(x,),
        dynamic_axes=((0,),),
        constants=(),
    )
    content = dynamo_call.export_by_dynamo(call, 18, ExportError("refused"))
    exported = one_call.take_apart(content, call)
    assert {name for _, name in exported.constants.values()} == {"weight", "inner.0.weight", "inner.0.bias"}
    assert exported.constants["call.weight"][0] is norm.weight
    paths = [one_call.module_path(str(node.name)) for node in exported.model.graph]
    assert paths[-2:] == ["/inner/1", ""]


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
def test_opset_of_all_files_is_raised_unless_it_is_given(tmp_path: Path) -> None:
    assert saved(tmp_path).opset_import[0].version == 18
    with pytest.raises(ExportError, match=r"forbidden here\. From opset_version 18 on"):
        saved(tmp_path, opset_version=17)


@needs_onnxscript
@pytest.mark.usefixtures("only_dynamo")
def test_refused_by_both_exporters() -> None:
    with pytest.raises(ExportError, match=r"forbidden here\. torch's newer exporter refuses the call too: No"):
        write(torch.lgamma, (X,), 18)


@pytest.mark.usefixtures("only_dynamo")
def test_without_onnxscript_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamo_call.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"forbidden here\. With onnxscript \(the extra 'dynamo'\)"):
        write(WITH_DATA_SIZES["nonzero"], (X,), 18)
