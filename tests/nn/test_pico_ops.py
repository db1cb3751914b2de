"""torch.ops.pico_ops: registration, gradients, fake kernels and the nodes that the ONNX exporter writes."""

import dataclasses
import subprocess
import sys

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ConfigError, ExportError
from hotwheels.amct_pytorch.nn.pico_ops import register_onnx_symbolics

OPS = torch.ops.pico_ops
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@dataclasses.dataclass(frozen=True)
class OpCase:
    name: str
    op: object
    shapes: tuple
    rest: tuple = ()

    def args(self, device="cpu", dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.rand(shape, generator=generator, dtype=dtype).sub(0.5).to(device) for shape in self.shapes]
        return (*(tensor.requires_grad_() for tensor in tensors), *self.rest)


OP_CASES = [
    OpCase("layer_norm", OPS.LayerNorm, ((2, 4, 3, 2), (4,), (4,)), (-3, 1e-5)),
    OpCase("layer_norm_last", OPS.LayerNorm, ((2, 3, 4), (4,), (4,)), (-1, 1e-3)),
    OpCase("layer_norm_plain", OPS.LayerNorm, ((2, 4, 3, 2),), (None, None, -3, 1e-5)),
    OpCase("gelu_tanh", OPS.Gelu, ((2, 3),), ("tanh",)),
    OpCase("gelu_exact", OPS.Gelu, ((2, 3),), ("better_approximation",)),
    OpCase("space_to_depth", OPS.SpaceToDepth, ((1, 2, 4, 2),), (2,)),
    OpCase("space_to_depth_of_one_block", OPS.SpaceToDepth, ((1, 1, 2, 2),), (2,)),
    OpCase("depth_to_space", OPS.DepthToSpaceDCR, ((1, 8, 2, 3),), (2,)),
    OpCase("depth_to_space_by_one", OPS.DepthToSpaceDCR, ((1, 2, 2, 3),), (1,)),
    OpCase("global_warp", OPS.GlobalWarp, ((1, 2, 4, 5), (1, 3, 3, 2))),
    OpCase("warp", OPS.Warp, ((1, 2, 4, 5), (1, 3, 3, 2)), ([1, 0, 4, 3],)),
    OpCase("warp_whole", OPS.Warp, ((1, 2, 4, 5), (1, 3, 3, 2)), (None,)),
]


@pytest.fixture(params=OP_CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.mark.parametrize("device", DEVICES)
def test_operator_keeps_every_promise_of_torch(case, device):
    torch.library.opcheck(case.op.default, case.args(device))


def test_gradient_is_the_derivative(case):
    torch.autograd.gradcheck(case.op, case.args(dtype=torch.float64))


def test_meta_tensors_have_the_shape_of_the_result(case):
    args = case.args()
    on_meta = tuple(arg.to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args)
    result = case.op(*on_meta)
    assert result.device.type == "meta"
    assert result.shape == case.op(*args).shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_element_type_is_kept(case, dtype):
    assert case.op(*case.args(dtype=dtype)).dtype == dtype


def test_defaults_of_the_schemas():
    x = torch.rand(1, 4, 2, 2)
    assert torch.equal(OPS.LayerNorm(x), OPS.LayerNorm(x, None, None, -3, 1e-5))
    assert torch.equal(OPS.Gelu(x), F.gelu(x, approximate="tanh"))


def test_unknown_gelu_formula_is_refused():
    with pytest.raises(ConfigError, match="approximate of GELU must be one of"):
        OPS.Gelu(torch.rand(2), "sigmoid")


def test_importing_the_modules_registers_the_operators():
    script = "import torch, hotwheels.amct_pytorch.nn; torch.ops.pico_ops.Gelu(torch.rand(2), 'none')"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- ONNX ---


def export(module, args, path, opset_version=13, **settings):
    """Writes ``module`` with the TorchScript exporter and returns the model."""
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(module, args, path, dynamo=False, opset_version=opset_version, **settings)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return model


def _attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _only(model, op_type):
    [node] = [node for node in model.graph.node if node.op_type == op_type]
    return node


@pytest.mark.parametrize("opset_version", [13, 16, 17, 18, 20])
def test_layer_norm_is_one_node_with_three_inputs(tmp_path, opset_version):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), amct_nn.LayerNorm(4, eps=1e-3))
    model = export(module, (torch.rand(1, 3, 2, 2),), tmp_path / "m.onnx", opset_version)
    node = _only(model, "LayerNorm")
    assert [one.op_type for one in model.graph.node] == ["Conv", "LayerNorm"]
    assert node.domain == "custom_domain"
    assert node.input[1:] == ["1.weight", "1.bias"]
    assert _attributes(node) == {"dim": -3, "epsilon": pytest.approx(1e-3)}
    assert {one.domain: one.version for one in model.opset_import} == {"": opset_version, "custom_domain": 1}


def test_layer_norm_without_affine_has_ones_and_zeros(tmp_path):
    module = amct_nn.LayerNorm(4, elementwise_affine=False)
    model = export(module, (torch.rand(1, 4, 2, 2),), tmp_path / "m.onnx")
    constants = {node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t) for node in model.graph.node[:-1]}
    weight, bias = (constants[name] for name in _only(model, "LayerNorm").input[1:])
    assert weight.tolist() == [1.0] * 4
    assert bias.tolist() == [0.0] * 4
    assert weight.dtype == "float32"


def test_layer_norm_without_affine_on_a_dynamic_axis_says_what_to_do(tmp_path):
    module = amct_nn.LayerNorm(4, elementwise_affine=False)
    settings = {"input_names": ["x"], "dynamic_axes": {"x": {1: "channels"}}}
    with pytest.raises(ExportError, match=r"size of axis -3 is unknown"):
        export(module, (torch.rand(1, 4, 2, 2),), tmp_path / "m.onnx", **settings)


@pytest.mark.parametrize("approximate", ["tanh", "none", "better_approximation"])
def test_gelu_keeps_its_string(tmp_path, approximate):
    model = export(amct_nn.GELU(approximate), (torch.rand(2, 3),), tmp_path / "m.onnx")
    node = _only(model, "Gelu")
    assert node.domain == "custom_domain"
    assert _attributes(node) == {"approximate": approximate.encode()}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (amct_nn.Warp((1, 0, 4, 3)), ("Warp", {"roi": [1, 0, 4, 3]})),
        (amct_nn.Warp(), ("Warp", {})),
        (amct_nn.GlobalWarp(), ("GlobalWarp", {})),
    ],
    ids=["warp", "warp_whole", "global_warp"],
)
def test_warps_are_one_node_at_opset_13(tmp_path, module, expected):
    model = export(module, (torch.rand(1, 2, 4, 5), torch.rand(1, 3, 3, 2)), tmp_path / "m.onnx")
    [node] = model.graph.node
    assert node.domain == "custom_domain"
    assert (node.op_type, _attributes(node)) == expected
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, 2, 3, 3]


def test_rearrangements_are_standard_nodes(tmp_path):
    module = nn.Sequential(amct_nn.SpaceToDepth(2), amct_nn.DepthToSpace(2))
    model = export(module, (torch.rand(1, 3, 4, 6),), tmp_path / "m.onnx")
    first, second = model.graph.node
    assert (first.op_type, first.domain, _attributes(first)) == ("SpaceToDepth", "", {"blocksize": 2})
    assert (second.op_type, second.domain) == ("DepthToSpace", "")
    assert _attributes(second) == {"blocksize": 2, "mode": b"DCR"}
    assert [one.domain for one in model.opset_import] == [""]


def test_shapes_are_known_behind_custom_nodes_and_dynamic_axes_stay_dynamic(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), amct_nn.GELU(), amct_nn.LayerNorm(4), nn.Flatten())
    settings = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}}}
    model = export(module, (torch.rand(1, 3, 2, 2),), tmp_path / "m.onnx", **settings)
    batch, features = model.graph.output[0].type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert features.dim_value == 16


def test_what_was_traced_before_the_exporter_is_loaded_is_exported(tmp_path):
    script = (
        "import io, sys, torch, hotwheels.amct_pytorch as amct\n"
        "assert 'torch.onnx' not in sys.modules\n"
        "traced = torch.jit.trace(amct.nn.GELU(), torch.rand(2, 3))\n"
        "torch.onnx.export(traced, (torch.rand(2, 3),), io.BytesIO(), dynamo=False)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=tmp_path)


def test_registering_the_symbolics_again_changes_nothing(tmp_path):
    register_onnx_symbolics()
    model = export(amct_nn.GELU(), (torch.rand(2, 3),), tmp_path / "m.onnx")
    assert [node.op_type for node in model.graph.node] == ["Gelu"]
