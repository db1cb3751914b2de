"""Lowering of custom_domain nodes: the result runs in stock onnxruntime and equals torch."""

import dataclasses
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io.custom_domain import lower_custom_domain, needed_opset

# float32 against float32 of values near 1: a few roundings of 6e-8, more where LayerNorm divides by a small deviation.
TOLERANCE = 1e-5
OPSETS = [13, 16, 17, 18, 20]  # 20 is the last of the TorchScript exporter; 21 is tested on models written as text


@dataclasses.dataclass(frozen=True)
class LoweringCase:
    """A module, its inputs' shapes with another batch size than the export's, and the op types it becomes."""

    name: str
    make: object
    shapes: tuple
    op_types: list

    def inputs(self, batch):
        generator = torch.Generator().manual_seed(batch)
        return tuple(torch.rand((batch, *shape), generator=generator) * 4 - 2 for shape in self.shapes)


_NORM = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
_TANH_GELU = ["Mul", "Mul", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul"]
_ERF_GELU = ["Div", "Erf", "Add", "Mul", "Mul"]


def _layer_norm(*args, **kwargs):
    module = amct_nn.LayerNorm(*args, **kwargs)
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


CASES = [
    LoweringCase("layer_norm", lambda: _layer_norm(4), ((4, 3, 5),), _NORM),
    LoweringCase("layer_norm_last", lambda: _layer_norm(5, axis=-1, eps=1e-2), ((3, 5),), _NORM),
    LoweringCase("layer_norm_positive_axis", lambda: _layer_norm(4, axis=1), ((4, 3, 5),), _NORM),
    LoweringCase("layer_norm_no_bias", lambda: _layer_norm(4, bias=False), ((4, 3, 5),), _NORM),
    LoweringCase("layer_norm_plain", lambda: _layer_norm(4, elementwise_affine=False), ((4, 3, 5),), _NORM),
    LoweringCase("gelu_tanh", lambda: amct_nn.GELU("tanh"), ((7,),), _TANH_GELU),
    LoweringCase("gelu_none", lambda: amct_nn.GELU("none"), ((7,),), _ERF_GELU),
    LoweringCase("gelu_better", lambda: amct_nn.GELU("better_approximation"), ((7,),), _ERF_GELU),
    LoweringCase("global_warp", lambda: amct_nn.GlobalWarp(), ((2, 5, 6), (3, 4, 2)), ["GridSample"]),
    LoweringCase("warp", lambda: amct_nn.Warp((1, 2, 5, 4)), ((2, 5, 6), (3, 4, 2)), ["Slice", "GridSample"]),
    LoweringCase("warp_whole", lambda: amct_nn.Warp(), ((2, 5, 6), (3, 4, 2)), ["GridSample"]),
    LoweringCase("space_to_depth", lambda: amct_nn.SpaceToDepth(2), ((3, 4, 6),), ["SpaceToDepth"]),
    LoweringCase("depth_to_space", lambda: amct_nn.DepthToSpace(2), ((8, 2, 3),), ["DepthToSpace"]),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def export(module, args, path, opset_version):
    """Writes ``module`` with a dynamic batch and returns it as onnx_ir model."""
    names = [f"x{i}" for i in range(len(args))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            args,
            path,
            dynamo=False,
            opset_version=opset_version,
            input_names=names,
            output_names=["y"],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    return ir.load(path)


def run(model, *inputs):
    """Checks ``model`` and returns its first output in stock onnxruntime, nothing optimised."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def from_text(text):
    return ir.from_onnx_text(text)


def _op_types(model):
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.mark.parametrize("opset_version", OPSETS)
def test_lowered_model_equals_torch_in_onnxruntime(case, tmp_path, opset_version):
    module = case.make()
    model = export(module, case.inputs(batch=1), tmp_path / "m.onnx", opset_version)
    lower_custom_domain(model)
    assert _op_types(model) == case.op_types
    assert list(model.opset_imports) == [""]
    assert model.opset_imports[""] == (16 if "GridSample" in case.op_types and opset_version < 16 else opset_version)
    inputs = case.inputs(batch=3)
    expected = module(*inputs).detach().numpy()
    np.testing.assert_allclose(run(model, *(x.numpy() for x in inputs)), expected, rtol=0, atol=TOLERANCE)


def test_names_say_which_layer_a_node_belongs_to(tmp_path):
    model = export(nn.Sequential(_layer_norm(4)), (torch.rand(1, 4, 2, 2),), tmp_path / "m.onnx", 18)
    lower_custom_domain(model)
    layer = "/0/LayerNorm"
    assert [node.name for node in model.graph] == [
        f"{layer}/ReduceMean",
        f"{layer}/Sub",
        f"{layer}/Mul",
        f"{layer}/ReduceMean_1",
        f"{layer}/Add",
        f"{layer}/Sqrt",
        f"{layer}/Div",
        f"{layer}/Mul_1",
        layer,
    ]
    assert model.graph.node(0).outputs[0].name == f"{layer}/ReduceMean_output_0"
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert set(model.graph.initializers) == {f"{layer}/{what}" for what in ("axes", "epsilon", "weight", "bias")}
    assert model.graph.initializers[f"{layer}/weight"].shape == (4, 1, 1)


def test_metadata_of_the_node_moves_to_the_one_with_its_name(tmp_path):
    model = export(amct_nn.GELU(), (torch.rand(2, 3),), tmp_path / "m.onnx", 13)
    model.graph.node(0).metadata_props["scope"] = "here"
    lower_custom_domain(model)
    assert dict(model.graph.node("/Gelu").metadata_props) == {"scope": "here"}


def test_a_layer_called_twice_keeps_both_calls_apart(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = _layer_norm(4)

        def forward(self, x):
            return self.norm(self.norm(x) * 2)

    module, x = Twice(), torch.rand(2, 4, 3, 3)
    model = export(module, (x,), tmp_path / "m.onnx", 13)
    lower_custom_domain(model)
    names = [node.name for node in model.graph]
    assert len(names) == len(set(names))
    np.testing.assert_allclose(run(model, x.numpy()), module(x).detach().numpy(), rtol=0, atol=TOLERANCE)


def test_a_model_without_custom_nodes_is_not_modified(tmp_path):
    model = export(nn.ReLU(), (torch.rand(2, 3),), tmp_path / "m.onnx", 13)
    result = lower_custom_domain(model)
    assert not result.modified
    assert result.model is model
    assert model.opset_imports == {"": 13}


def test_lowering_twice_does_nothing_the_second_time(tmp_path):
    model = export(amct_nn.GELU(), (torch.rand(2, 3),), tmp_path / "m.onnx", 13)
    assert lower_custom_domain(model).modified
    assert not lower_custom_domain(model).modified


_NORM_TEXT = """
<ir_version: 10, opset_import: ["": {opset}, "custom_domain": 1]>
main ({type}[2, 3, 4] x) => ({type}[2, 3, 4] y)
<{type}[3] weight = {{1, 2, 3}}, {type}[3] bias = {{-1, 0, 1}}>
{{
    ["norm"] y = custom_domain.LayerNorm <dim: int = {dim}, epsilon: float = 0.001> (x, {weight}, bias)
}}
"""


def _norm_reference(x):
    """LayerNorm along axis 1 of (2, 3, 4) with the weight and the bias of _NORM_TEXT."""
    x = x.astype(np.float64)
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + 0.001)
    weight, bias = np.array([1, 2, 3.0])[:, None], np.array([-1, 0, 1.0])[:, None]
    return (x - x.mean(axis=1, keepdims=True)) / deviation * weight + bias


@pytest.mark.parametrize("opset", [13, 14, 15, 17, 18, 19, 20, 21])
@pytest.mark.parametrize("dim", [1, -2])
def test_layer_norm_of_every_opset(opset, dim):
    model = from_text(_NORM_TEXT.format(opset=opset, type="float", dim=dim, weight="weight"))
    lower_custom_domain(model)
    assert model.opset_imports == {"": opset}
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), _norm_reference(x), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("type_name", "dtype", "atol"), [("double", np.float64, 1e-6), ("float16", np.float16, 1e-2)])
def test_constants_take_the_element_type_of_the_input(type_name, dtype, atol):
    # Tolerances: epsilon is a float32 attribute, whatever the model's type; a float16 near 4 has steps of 4e-3.
    model = from_text(_NORM_TEXT.format(opset=13, type=type_name, dim=-2, weight="weight"))
    for name, vector in (("weight", [1, 2, 3]), ("bias", [-1, 0, 1])):  # text has no float16 numbers, only their bits
        model.graph.initializers[name].const_value = ir.tensor(np.array(vector, dtype=dtype), name=name)
    lower_custom_domain(model)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(dtype)
    found = run(model, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, _norm_reference(x), rtol=0, atol=atol)


def test_a_computed_weight_is_reshaped_in_the_graph():
    text = _NORM_TEXT.format(opset=13, type="float", dim=-2, weight="computed")
    model = from_text(text.replace('["norm"]', '["same"] computed = Identity(weight)\n    ["norm"]'))
    lower_custom_domain(model)
    assert "norm/Reshape" in [node.name for node in model.graph]
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), _norm_reference(x), rtol=0, atol=TOLERANCE)


def test_nodes_inside_a_branch_are_lowered():
    model = from_text("""
        <ir_version: 8, opset_import: ["": 13, "custom_domain": 1]>
        main (float[4] x, bool c) => (float[4] y)
        {
            y = If (c) <
                then_branch = yes () => (float[4] a) { ["g"] a = custom_domain.Gelu <approximate = "none"> (x) },
                else_branch = no () => (float[4] b) { b = Identity (x) }
            >
        }
    """)
    lower_custom_domain(model)
    x = np.array([-2, -0.5, 0.5, 2], dtype=np.float32)
    expected = nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(model, x, np.array(True)), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(run(model, x, np.array(False)), x)


# --- the opset a warp needs ---

_WARP_TEXT = """
<ir_version: 7, opset_import: ["": {opset}, "custom_domain": 1]>
main (float[1, 1, 4, 5] x, float[1, 2, 2, 2] grid) => (float[1, 1, 2, 2] y)
{{
    ["warp"] y = custom_domain.GlobalWarp (x, grid)
}}
"""


@pytest.mark.parametrize(("opset", "expected"), [(13, 16), (14, 16), (15, 16), (16, 16), (20, 20), (21, 21)])
def test_a_warp_needs_opset_16(opset, expected):
    model = from_text(_WARP_TEXT.format(opset=opset))
    assert needed_opset(model) == expected
    lower_custom_domain(model)
    assert model.opset_imports == {"": expected}
    assert needed_opset(model) == expected


def test_a_model_without_warp_keeps_its_opset():
    assert needed_opset(from_text(_NORM_TEXT.format(opset=13, type="float", dim=-2, weight="weight"))) == 13


def test_roi_align_keeps_its_meaning_when_the_opset_is_raised():
    model = from_text(_beside_warp("pooled = RoiAlign (x, rois, batches)", "float[2, 4] rois, int64[2] batches"))
    before = from_text("""
        <ir_version: 8, opset_import: ["": 13]>
        main (float[1, 1, 4, 5] x, float[2, 4] rois, int64[2] batches) => (float[2, 1, 1, 1] pooled)
        { pooled = RoiAlign (x, rois, batches) }
    """)
    lower_custom_domain(model)
    model.graph.outputs.pop(0)
    x = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)
    rois, batches = np.array([[0, 0, 3, 2], [1, 1, 4, 3]], dtype=np.float32), np.zeros(2, dtype=np.int64)
    grid = np.zeros((1, 2, 2, 2), dtype=np.float32)
    np.testing.assert_array_equal(run(model, x, grid, rois, batches), run(before, x, rois, batches))


def _beside_warp(line, more_inputs):
    """Returns the text of a model with a warp and, after it, ``line``, which computes the second output ``pooled``."""
    text = _WARP_TEXT.format(opset=13).replace("grid)", f"grid, {more_inputs})", 1)
    return text.replace("2] y)", "2] y, float[2, 1, 1, 1] pooled)").replace("(x, grid)\n", f"(x, grid)\n    {line}\n")


def test_only_known_operators_changed_between_opset_13_and_16():
    """Raising the opset rewrites RoiAlign and refuses training BatchNormalization; nothing else changed in meaning."""
    changed = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or not 14 <= schema.since_version <= 16 or not onnx.defs.has(schema.name, 13):
            continue
        changed.update({schema.name} if _meaning(schema.name, 13) != _meaning(schema.name, 16) else ())
    # The attributes added to these have defaults which say what was the only behaviour before.
    harmless = {"GRU", "LSTM", "RNN", "Reshape", "ScatterElements", "ScatterND", "Shape"}
    assert changed - harmless == {"BatchNormalization", "RoiAlign"}


def _meaning(op_type, opset):
    schema = onnx.defs.get_schema(op_type, opset)
    ports = [port.name for port in (*schema.inputs, *schema.outputs)]
    return sorted((name, str(one.default_value)) for name, one in schema.attributes.items()), ports


# --- refusals leave the model as it is ---


@dataclasses.dataclass(frozen=True)
class RefusalCase:
    name: str
    text: str
    message: str


_TRAINING_BATCH_NORM = """
<ir_version: 7, opset_import: ["": 13, "custom_domain": 1]>
main (float[1, 1, 4, 5] x, float[1, 2, 2, 2] grid, float[1] s) => (float[1, 1, 2, 2] y)
{
    ["bn"] n, m, v, sm, sv = BatchNormalization (x, s, s, s, s)
    ["warp"] y = custom_domain.GlobalWarp (n, grid)
}
"""
_WITH_FUNCTION = """
<ir_version: 8, opset_import: ["": 13, "custom_domain": 1, "local": 1]>
main (float[4] x) => (float[4] y) { y = local.Activate (x) }
<domain: "local", opset_import: ["": 13, "custom_domain": 1]>
Activate (x) => (y) { y = custom_domain.Gelu <approximate = "none"> (x) }
"""

REFUSALS = [
    RefusalCase(
        "unknown_operator",
        _WARP_TEXT.format(opset=13).replace("GlobalWarp", "Swirl"),
        "Node 'warp': custom_domain::Swirl is unknown. Known: Gelu, GlobalWarp, LayerNorm, Warp.",
    ),
    RefusalCase("old_opset", _WARP_TEXT.format(opset=12), "opset 13 or later, the model has 12"),
    RefusalCase("training_batch_norm", _TRAINING_BATCH_NORM, "BatchNormalization 'bn' is in training form"),
    RefusalCase("function", _WITH_FUNCTION, "Function 'Activate' contains custom_domain nodes"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_what_cannot_be_lowered_is_refused_and_left_alone(refusal):
    model = from_text(refusal.text)
    before = ir.to_onnx_text(model)
    with pytest.raises(ExportError) as error:
        lower_custom_domain(model)
    assert refusal.message in str(error.value)
    assert ir.to_onnx_text(model) == before


def test_a_positive_axis_of_an_unknown_rank_is_refused():
    model = from_text(_NORM_TEXT.format(opset=13, type="float", dim=1, weight="weight"))
    node = model.graph.node("norm")
    node.inputs[0].shape = node.outputs[0].shape = None
    with pytest.raises(ExportError, match="LayerNorm 'norm' has dim 1, but the rank of its input is unknown"):
        lower_custom_domain(model)
