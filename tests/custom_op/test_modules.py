"""Each extension module computes the values of its torch function and is exported as one ONNX node of its type."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch import custom_op
from hotwheels.amct_pytorch.custom_op import Cat, CustomModuleBase, Eltwise, EltwiseAdd, Max, Min, Split
from hotwheels.amct_pytorch.errors import ConfigError

SHAPE = (2, 7, 3, 4)


@dataclasses.dataclass(frozen=True)
class Case:
    """A module, what it must compute, the ONNX type it must leave as, and the shapes it is called with."""

    make: Callable[[], nn.Module]
    reference: Callable[..., Any]
    onnx_type: str
    shapes: Sequence[tuple[int, ...]] = (SHAPE,)


TWO = (SHAPE, SHAPE)
CASES = {
    "add": Case(EltwiseAdd, torch.add, "Add", TWO),
    "add broadcasts": Case(EltwiseAdd, torch.add, "Add", (SHAPE, (7, 1, 1))),
    "sub": Case(custom_op.EltwiseSub, torch.sub, "Sub", TWO),
    "mul": Case(custom_op.EltwiseMul, torch.mul, "Mul", TWO),
    "div": Case(custom_op.EltwiseDiv, torch.div, "Div", TWO),
    "eltwise": Case(Eltwise, torch.add, "Add", TWO),
    "eltwise sub": Case(lambda: Eltwise("sub"), torch.sub, "Sub", TWO),
    "eltwise mul": Case(lambda: Eltwise(op="mul"), torch.mul, "Mul", TWO),
    "eltwise div": Case(lambda: Eltwise("div"), torch.div, "Div", TWO),
    "matmul": Case(custom_op.MatMul, torch.matmul, "MatMul", (SHAPE, (2, 7, 4, 5))),
    "cat": Case(Cat, lambda *xs: torch.cat(xs), "Concat", (SHAPE, (3, 7, 3, 4))),
    "cat three along channels": Case(lambda: Cat(1), lambda *xs: torch.cat(xs, 1), "Concat", (SHAPE,) * 3),
    "split by size": Case(lambda: Split(3, dim=1), lambda x: torch.split(x, 3, 1), "Split"),
    "split by sections": Case(lambda: Split((5, 2), -3), lambda x: torch.split(x, [5, 2], 1), "Split"),
    "max of all": Case(Max, lambda x: torch.max(x).reshape(1, 1, 1, 1), "ReduceMax"),
    "max of all, no axes kept": Case(lambda: Max(keepdim=False), torch.max, "ReduceMax"),
    "max along channels": Case(lambda: Max(1), lambda x: torch.max(x, 1, keepdim=True).values, "ReduceMax"),
    "max along the last": Case(lambda: Max(-1, False), lambda x: torch.max(x, -1).values, "ReduceMax"),
    "min of all": Case(Min, lambda x: torch.min(x).reshape(1, 1, 1, 1), "ReduceMin"),
    "min of all, no axes kept": Case(lambda: Min(keepdim=False), torch.min, "ReduceMin"),
    "min along channels": Case(lambda: Min(1), lambda x: torch.min(x, 1, keepdim=True).values, "ReduceMin"),
    "min along the last": Case(lambda: Min(-1, False), lambda x: torch.min(x, -1).values, "ReduceMin"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def inputs_of(case: Case) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in case.shapes]


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def export(module: nn.Module, inputs: Sequence[Tensor]) -> onnx.ModelProto:
    file = io.BytesIO()
    names = [f"x{index}" for index in range(len(inputs))]
    torch.onnx.export(module, tuple(inputs), file, dynamo=False, opset_version=13, input_names=names)
    return onnx.load_from_string(file.getvalue())


@each_case
def test_values_are_those_of_torch(case: Case) -> None:
    module, inputs = case.make(), inputs_of(case)
    found, expected = as_tuple(module(*inputs)), as_tuple(case.reference(*inputs))
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@each_case
def test_exports_as_one_node_of_its_type(case: Case) -> None:
    module, inputs = case.make(), inputs_of(case)
    model = export(module, inputs)
    # A Constant is no operation; the lengths of Split are an input of the node since opset 13.
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == [case.onnx_type]
    assert module.onnx_type == case.onnx_type

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {f"x{index}": x.numpy() for index, x in enumerate(inputs)})
    for one, other in zip(found, as_tuple(module(*inputs)), strict=True):
        # Another summation order in MatMul; all the others are exact.
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6)


@each_case
def test_copies_and_pickles(case: Case) -> None:
    module, inputs = case.make(), inputs_of(case)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert all(map(torch.equal, as_tuple(twin(*inputs)), as_tuple(module(*inputs))))


@each_case
def test_num_inputs_is_the_number_of_tensors(case: Case) -> None:
    assert case.make().num_inputs in (len(case.shapes), None)


@each_case
def test_is_a_leaf_for_the_fx_tracer(case: Case) -> None:
    class LeafTracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, CustomModuleBase)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.op = case.make()

        def forward(self, x: Tensor) -> Any:
            return self.op(*[x for _ in case.shapes])

    nodes = LeafTracer().trace(Net()).nodes
    assert [(node.op, node.name) for node in nodes] == [
        ("placeholder", "x"),
        ("call_module", "op"),
        ("output", "output"),
    ]
    assert type(case.make()).__module__.startswith("hotwheels.amct_pytorch.custom_op.")


@pytest.mark.parametrize("sequence", [list, tuple])
def test_cat_takes_one_sequence_as_well(sequence: type) -> None:
    a, b = torch.zeros(2, 1), torch.ones(2, 3)
    assert torch.equal(Cat(1)(sequence([a, b])), torch.cat([a, b], 1))


def test_split_is_not_changed_through_the_list_it_was_given() -> None:
    sections = [5, 2]
    split = Split(sections, 1)
    sections.clear()
    assert [part.shape[1] for part in split(torch.zeros(1, 7))] == [5, 2]


def test_eltwise_is_the_class_of_its_operation() -> None:
    assert [type(Eltwise(op)).__name__ for op in ("add", "sub", "mul", "div")] == [
        "EltwiseAdd",
        "EltwiseSub",
        "EltwiseMul",
        "EltwiseDiv",
    ]


def test_eltwise_names_an_unknown_operation() -> None:
    with pytest.raises(ConfigError, match="op of Eltwise must be one of 'add', 'sub', 'mul', 'div', got 'pow'"):
        Eltwise("pow")


def test_eltwise_cannot_be_derived_from() -> None:
    with pytest.raises(TypeError, match="MyEltwise' cannot be derived from Eltwise"):
        type("MyEltwise", (Eltwise,), {})


@pytest.mark.parametrize("attributes", [{}, {"onnx_type": ""}, {"onnx_type": 3}, {"onnx_type": "Reduce Max"}])
def test_a_class_without_onnx_type_is_refused_by_name(attributes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Nameless' needs a class attribute onnx_type"):
        type("Nameless", (CustomModuleBase,), attributes)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "2"])
def test_num_inputs_that_is_no_count_is_refused(count: object) -> None:
    with pytest.raises(ConfigError, match=r"num_inputs of class '.*Odd' must be an int of at least 1"):
        type("Odd", (CustomModuleBase,), {"onnx_type": "Add", "num_inputs": count})


def test_onnx_type_is_inherited() -> None:
    assert type("MyAdd", (EltwiseAdd,), {})().onnx_type == "Add"


class Unregistered(CustomModuleBase):
    """An operation whose class was registered in the process that made the configuration only."""

    onnx_type, num_inputs = "Floor", 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(x)


def test_a_class_that_this_process_has_not_registered_is_named(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), Unregistered()).eval(), torch.rand(1, 3, 8, 8)
    static, dynamic = tmp_path / "static.json", tmp_path / "dynamic.json"
    amct.create_quant_config_fx(static, net)
    amct.create_quant_config(dynamic, net, x)
    for path, old, new in ((static, "_0", "_1"), (dynamic, "0", "1")):
        entries = json.loads(path.read_text())
        path.write_text(json.dumps({**entries, new: entries[old]}))
    with pytest.raises(ConfigError, match=r"register_custom_op\(Unregistered, quantize=True\) before"):
        amct.create_quant_model_fx(static, net)
    with pytest.raises(ConfigError, match=r"register its class in each process \(amct.register_custom_op\)"):
        amct.quantize_model(dynamic, tmp_path / "m.onnx", tmp_path / "r.txt", net, x)
