"""The fake-quant model in stock onnxruntime against torch in float64 on dequantized integers."""

import copy
import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.export.fake_quant import build_fake_quant, needed_opset
from hotwheels.amct_pytorch.onnx_io.markers import resolve_markers
from hotwheels.amct_pytorch.record import ActivationRecord, LayerRecord, Record, WeightRecord

# In steps of the output's own 8-bit grid. Both sides compute on the same dequantized integers, onnxruntime in float32:
# what is left is float32 accumulation.
TOLERANCE = 1e-3
CODEBOOK = (-127, -100, -80, -60, -45, -30, -18, -6, 5, 17, 29, 44, 61, 83, 101, 127)


@dataclasses.dataclass(frozen=True)
class OpCase:
    """One layer: what computes it and the shapes of its quantized inputs."""

    name: str
    op: object
    shapes: tuple
    symmetric: bool = False
    per_channel: bool = True
    nodes: tuple = ()

    def inputs(self, batch=2):
        generator = np.random.default_rng(batch)
        return [generator.normal(0.3, 1.5, (batch, *shape)).astype(np.float32) for shape in self.shapes]


IMAGE = ((6, 8, 8),)
SAME_TWICE = ((6, 8, 8), (6, 8, 8))
OPS = [
    OpCase("conv", lambda: nn.Conv2d(6, 9, 3, padding=1), IMAGE),
    OpCase("conv_per_tensor", lambda: nn.Conv2d(6, 9, 3, stride=2), IMAGE, per_channel=False),
    OpCase("conv_no_bias", lambda: nn.Conv2d(6, 9, 3, bias=False), IMAGE),
    OpCase("depthwise", lambda: nn.Conv2d(6, 6, 3, groups=6, dilation=2), IMAGE),
    OpCase("deconv", lambda: nn.ConvTranspose2d(6, 4, 3, stride=2), IMAGE),
    OpCase("deconv_grouped", lambda: nn.ConvTranspose2d(6, 9, 2, stride=2, groups=3), IMAGE),
    OpCase("gemm", lambda: nn.Linear(12, 5), ((12,),), per_channel=False),
    OpCase("linear_3d", lambda: nn.Linear(12, 5), ((7, 12),), symmetric=True, per_channel=False),
    OpCase("linear_3d_no_bias", lambda: nn.Linear(12, 5, bias=False), ((7, 12),), symmetric=True, per_channel=False),
    OpCase("matmul", lambda: torch.matmul, ((3, 4, 5), (3, 5, 6)), symmetric=True),
    OpCase("max_pool", lambda: nn.MaxPool2d(3, 2, padding=1), IMAGE),
    OpCase("avg_pool", lambda: nn.AvgPool2d(3, 2, padding=1), IMAGE),
    OpCase("avg_pool_exclude_pad", lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), IMAGE),
    OpCase("adaptive_avg_pool", lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    OpCase("add", lambda: torch.add, SAME_TWICE),
    OpCase("mul", lambda: torch.mul, SAME_TWICE),
    OpCase("add_scalar", lambda: lambda x: x + 1.5, IMAGE),
    OpCase("rsub", lambda: lambda x: 2.0 - x, IMAGE),
    OpCase("concat", lambda: lambda *xs: torch.cat(xs, 1), SAME_TWICE),
    OpCase("mean", lambda: lambda x: x.mean((2, 3), keepdim=True), IMAGE),
    OpCase("max_keepdim", lambda: lambda x: x.max(1, keepdim=True)[0], IMAGE),
    OpCase("layer_norm", lambda: nn.LayerNorm(8), IMAGE),
    OpCase("softmax", lambda: nn.Softmax(1), IMAGE),
    OpCase("gelu", lambda: nn.GELU(), IMAGE),
    OpCase("interpolate", lambda: lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), IMAGE),
    OpCase("interpolate_size", lambda: lambda x: F.interpolate(x, size=(5, 5)), IMAGE),
    OpCase("permute", lambda: lambda x: x.permute(0, 2, 3, 1), IMAGE),
    OpCase("flatten", lambda: lambda x: torch.flatten(x, 1), IMAGE),
    OpCase("view", lambda: lambda x: x.view(x.shape[0], 3, -1), IMAGE),
    OpCase("same_view", lambda: lambda x: x.reshape(x.shape), IMAGE),
    OpCase("chunk", lambda: lambda x: x.chunk(2, 1)[0], IMAGE),
    OpCase("clamp", lambda: lambda x: x.clamp(-1.0, 1.5), IMAGE),
    OpCase("prelu", lambda: nn.PReLU(6), IMAGE),
    OpCase("batch_norm", lambda: nn.BatchNorm2d(6), IMAGE),
    OpCase("amct_layer_norm", lambda: amct_nn.LayerNorm(6), IMAGE),
    OpCase("amct_gelu", lambda: amct_nn.GELU(), IMAGE),
    OpCase("space_to_depth", lambda: amct_nn.SpaceToDepth(2), IMAGE),
]


def record_of(case, op, inputs, grid, weight_grid, bits=8, weight_bits=8):
    grids = tuple(grid(x, index, bits, case.symmetric) for index, x in enumerate(inputs))
    weight = None
    if isinstance(op, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        weight = weight_grid(channel_first(op), weight_bits, case.per_channel)
    return LayerRecord(activations=grids, weight=weight)


def channel_first(module):
    weight = module.weight.detach().numpy()
    if not isinstance(module, nn.ConvTranspose2d):
        return weight
    groups = np.split(weight, module.groups)
    return np.concatenate([group.swapaxes(0, 1) for group in groups])


def expected(op, record, inputs, on_grid):
    """torch in float64 on dequantized integers."""
    given = [
        torch.from_numpy(on_grid(x, one.scale, one.offset, one.num_bits))
        for x, one in zip(inputs, record.activations, strict=True)
    ]
    if not isinstance(op, nn.Module):
        return op(*given).numpy()
    op = copy.deepcopy(op).double()
    if record.weight:
        quantize_parameters(op, record, len(given[0].shape), on_grid)
    return op(*given).detach().numpy()


def quantize_parameters(op, record, input_rank, on_grid):
    scales = np.array(record.weight.scale)
    rows = channel_first(op.float())
    shape = (-1, *[1] * (rows.ndim - 1))
    op.double()
    rows = real_weight(rows, scales.reshape(shape), record.weight, on_grid)
    if isinstance(op, nn.ConvTranspose2d):
        rows = np.concatenate([group.swapaxes(0, 1) for group in np.split(rows, op.groups)])
    op.weight.data = torch.from_numpy(rows)
    if op.bias is not None and (input_rank == 2 or not isinstance(op, nn.Linear)):
        step = record.activations[0].scale * scales
        op.bias.data = torch.from_numpy(np.round(op.bias.detach().numpy() / step) * step)


def real_weight(rows, scales, weight, on_grid):
    if not weight.codebook:
        return on_grid(rows, scales, 0, weight.num_bits)
    choices = np.array(weight.codebook, dtype=np.float64) * scales[..., None]
    nearest = np.abs(rows.astype(np.float64)[..., None] - choices).argmin(-1)
    return np.take_along_axis(np.broadcast_to(choices, (*rows.shape, 16)), nearest[..., None], -1)[..., 0]


def steps_apart(found, wanted):
    """Largest difference in steps of the 8-bit grid of ``wanted``."""
    return np.abs(found - wanted).max() / (np.abs(wanted).max() / 127)


@pytest.mark.parametrize("case", OPS, ids=lambda case: case.name)
def test_one_layer_equals_torch_on_dequantized_integers(case, marked, export_marked, run, grid, weight_grid, on_grid):
    torch.manual_seed(0)
    op, inputs = case.op(), case.inputs()
    layer = record_of(case, op, inputs, grid, weight_grid)
    module = marked("layer", op)
    model, sites = export_marked(module, [torch.from_numpy(x) for x in inputs])
    fake_quant = build_fake_quant(model, sites, Record({"layer": layer}))
    assert fake_quant.opset_imports == {"": 13}
    other_batch = case.inputs(batch=3)
    (found,) = run(fake_quant, *other_batch)
    op.eval() if isinstance(op, nn.Module) else None
    assert steps_apart(found, expected(op, layer, other_batch, on_grid)) < TOLERANCE


CONV = next(case for case in OPS if case.name == "conv")
GROUPED_DECONV = next(case for case in OPS if case.name == "deconv_grouped")
LINEAR_3D = next(case for case in OPS if case.name == "linear_3d")


@dataclasses.dataclass(frozen=True)
class WidthCase:
    """Bit widths of a layer, the opset they need and the element types they are stored in."""

    bits: int
    weight_bits: int
    opset: int
    types: tuple
    codebook: bool = False


WIDTHS = [
    WidthCase(4, 4, 21, ("INT4", "INT4")),
    WidthCase(4, 8, 21, ("INT4", "INT8")),
    WidthCase(8, 4, 21, ("INT8", "INT4")),
    WidthCase(8, 4, 13, ("INT8", "INT8"), codebook=True),
    WidthCase(9, 8, 21, ("INT16", "INT8")),
    WidthCase(12, 8, 21, ("INT16", "INT8")),
    WidthCase(15, 8, 21, ("INT16", "INT8")),
    WidthCase(16, 8, 21, ("INT16", "INT8")),
    WidthCase(16, 4, 21, ("INT16", "INT8"), codebook=True),
]


@pytest.mark.parametrize("op_case", [CONV, GROUPED_DECONV, LINEAR_3D], ids=lambda case: case.name)
@pytest.mark.parametrize("width", WIDTHS, ids=lambda one: f"{one.bits}x{one.weight_bits}{'_codebook' * one.codebook}")
def test_every_width_runs_in_stock_onnxruntime(width, op_case, marked, export_marked, run, grid, weight_grid, on_grid):
    torch.manual_seed(0)
    op, inputs = op_case.op(), op_case.inputs()
    layer = record_of(op_case, op, inputs, grid, weight_grid, width.bits, width.weight_bits)
    if width.codebook:
        scale = weight_grid(channel_first(op), 8, op_case.per_channel).scale
        layer = dataclasses.replace(layer, weight=WeightRecord(scale=scale, num_bits=4, codebook=CODEBOOK))
    model, sites = export_marked(marked("layer", op), [torch.from_numpy(x) for x in inputs])
    fake_quant = build_fake_quant(model, sites, Record({"layer": layer}))
    assert fake_quant.opset_imports[""] == width.opset
    initializers = fake_quant.graph.initializers
    stored = ("layer.input0.zero_point", "layer.weight.quantized")
    assert tuple(initializers[name].dtype.name for name in stored) == width.types
    assert ("layer.input0.clip" in [node.name for node in fake_quant.graph]) == (8 < width.bits < 16)
    beyond = [x * 1.5 for x in inputs]  # so that clipping counts
    (found,) = run(fake_quant, *beyond)
    assert steps_apart(found, expected(op, layer, beyond, on_grid)) < TOLERANCE


@pytest.mark.parametrize("num_bits", [4, 8, 9, 12, 15, 16])
@pytest.mark.parametrize("offset", ["lowest", "middle", "highest"])
def test_pairs_equal_the_formula_bit_by_bit(num_bits, offset, run, on_grid):
    """Ties of both kinds, the ends of the range and far beyond them."""
    top = 2 ** (num_bits - 1) - 1
    offset = {"lowest": -top - 1, "middle": 3, "highest": top}[offset]
    scale = 0.0123
    one = np.float32(1)
    scale = float(one / (one / np.float32(scale)))
    record = ActivationRecord(index=0, scale=scale, offset=offset, num_bits=num_bits)
    steps = np.arange(-2 * top - 4, 2 * top + 5, max(1, top // 500)) / 2
    x = np.concatenate([steps * scale, [-1e30, 1e30, 0.0]]).astype(np.float32)
    model = onnx_text("y = Relu(x)", "float[n] x", "float[n] y")
    model.graph[0].op_type = "Identity"
    model.graph[0].name = "layer"
    sites = sites_of(model, {"layer": {0: [("layer", 0)]}})
    fake_quant = build_fake_quant(model, sites, Record({"layer": LayerRecord(activations=(record,))}))
    (found,) = run(fake_quant, x)
    assert np.array_equal(found, on_grid(x, scale, offset, num_bits).astype(np.float32))


def onnx_text(nodes, inputs, outputs, opset=13, constants=""):
    domain = f'<ir_version: 7, opset_import: ["" : {opset}]>'
    text = f"{domain} net ({inputs}) => ({outputs}) {constants} {{ {nodes} }}"
    return ir.from_proto(onnx.parser.parse_model(text))


def sites_of(model, inputs):
    from hotwheels.amct_pytorch.onnx_io.layer_sites import LayerSite

    return {
        layer: LayerSite(nodes=(layer,), inputs={index: tuple(places) for index, places in found.items()})
        for layer, found in inputs.items()
    }


def names(model):
    return [node.name for node in model.graph]


def activation(index=0, scale=0.5, offset=-3, num_bits=8):
    return LayerRecord(activations=(ActivationRecord(index=index, scale=scale, offset=offset, num_bits=num_bits),))


TWO_READERS = """
    a = Relu(x)
    b = Sigmoid(a)
    c = Tanh(a)
"""


def two_readers():
    model = onnx_text(TWO_READERS, "float[n, 4] x", "float[n, 4] b, float[n, 4] c")
    for node, name in zip(model.graph, ["relu", "first", "second"], strict=True):
        node.name = name
    return model, sites_of(model, {"first": {0: [("first", 0)]}, "second": {0: [("second", 0)]}})


def test_readers_on_one_grid_share_a_pair():
    model, sites = two_readers()
    fake_quant = build_fake_quant(model, sites, Record({"first": activation(), "second": activation()}))
    assert names(fake_quant) == ["relu", "first.input0.quant", "first.input0.dequant", "first", "second"]
    assert fake_quant.graph[3].inputs[0] is fake_quant.graph[4].inputs[0]


def test_readers_on_different_grids_have_their_own_pairs(run):
    model, sites = two_readers()
    record = Record({"first": activation(), "second": activation(scale=0.25)})
    fake_quant = build_fake_quant(model, sites, record)
    assert sorted(names(fake_quant)) == sorted(
        ["relu", "first", "second"]
        + [f"{one}.input0.{end}" for one in ("first", "second") for end in ("quant", "dequant")]
    )
    first, second = run(fake_quant, np.full((1, 4), 1.3, dtype=np.float32))
    np.testing.assert_allclose(first, 1 / (1 + np.exp(-1.5)), rtol=1e-6)
    np.testing.assert_allclose(second, np.tanh(1.25), rtol=1e-6)


def test_layer_without_record_stays_float():
    model, sites = two_readers()
    fake_quant = build_fake_quant(model, sites, Record({"second": activation()}))
    assert names(fake_quant) == ["relu", "second.input0.quant", "second.input0.dequant", "first", "second"]


def test_the_float_model_is_not_changed():
    model, sites = two_readers()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    build_fake_quant(model, sites, Record({"first": activation(), "second": activation(num_bits=12)}))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_names_of_a_weighted_layer(marked, export_marked, grid, weight_grid):
    op, inputs = GROUPED_DECONV.op(), GROUPED_DECONV.inputs()
    layer = record_of(GROUPED_DECONV, op, inputs, grid, weight_grid)
    model, sites = export_marked(marked("up1", op), [torch.from_numpy(x) for x in inputs])
    fake_quant = build_fake_quant(model, sites, Record({"up1": layer}))
    assert names(fake_quant) == [
        "up1.input0.quant", "up1.input0.dequant", "up1.weight.dequant", "up1.weight.split", "up1.weight.transpose",
        "up1.weight.merge", "up1.bias.dequant", "up1",
    ]  # fmt: skip
    constants = fake_quant.graph.initializers
    assert constants["up1.bias.quantized"].dtype == ir.DataType.INT32
    step = np.float64(layer.activations[0].scale) * np.array(layer.weight.scale)
    assert np.array_equal(constants["up1.bias.scale"].const_value.numpy(), step.astype(np.float32))
    assert list(constants["up1.weight.quantized"].shape) == [9, 2, 2, 2]  # output channels first


def test_weight_is_quantized_without_its_input(marked, export_marked, run, weight_grid, on_grid):
    op, inputs = CONV.op(), CONV.inputs()
    layer = LayerRecord(weight=weight_grid(channel_first(op), 8, True))
    model, sites = export_marked(marked("layer", op), [torch.from_numpy(x) for x in inputs])
    fake_quant = build_fake_quant(model, sites, Record({"layer": layer}))
    assert names(fake_quant) == ["layer.weight.dequant", "layer"]  # the bias has no grid without that of the input


def test_custom_domain_is_lowered_behind_the_pair(marked, export_marked):
    norm = marked("norm", amct_nn.LayerNorm(6))
    model, sites = export_marked(norm, [torch.rand(2, 6, 4, 4)])
    assert model.opset_imports == {"": 13, "custom_domain": 1}
    fake_quant = build_fake_quant(model, sites, Record({"norm": activation()}))
    assert fake_quant.opset_imports == {"": 13}
    assert names(fake_quant)[-1] == "norm"
    assert {use.node.op_type for use in fake_quant.graph[1].outputs[0].uses()} == {"ReduceMean", "Sub"}


def test_warp_needs_opset_16(marked, export_marked, run, on_grid):
    warp, x = amct_nn.GlobalWarp(), torch.rand(2, 3, 4, 4)
    mesh = torch.rand(2, 5, 5, 2) * 2 - 1
    net = marked("warp", warp)
    model, sites = export_marked(net, [x, mesh])
    record = activation(scale=0.125, offset=-128)
    fake_quant = build_fake_quant(model, sites, Record({"warp": record}))
    assert fake_quant.opset_imports[""] == 16
    (found,) = run(fake_quant, x.numpy(), mesh.numpy())
    wanted = warp(torch.from_numpy(on_grid(x.numpy(), 0.125, -128, 8)).float(), mesh)
    assert np.array_equal(found, wanted.numpy())


@pytest.mark.parametrize("opset", [13, 16, 17, 18, 20])
def test_every_opset_of_the_exporter_reaches_21(opset, marked, export_marked, run, on_grid):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), marked("mean", lambda x: x.mean((2, 3), keepdim=True)), nn.Softmax(1)
    )
    x = torch.rand(2, 3, 6, 6)
    model, sites = export_marked(net, [x], opset)
    fake_quant = build_fake_quant(model, sites, Record({"mean": activation(scale=2.0**-9, offset=0, num_bits=12)}))
    assert fake_quant.opset_imports[""] == 21
    (found,) = run(fake_quant, x.numpy())
    hidden = net[1](net[0](x)).detach().numpy()
    wanted = torch.softmax(torch.from_numpy(on_grid(hidden, 2.0**-9, 0, 12)).mean((2, 3), keepdim=True), 1)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_opset_of_the_user_is_kept(marked, export_marked):
    model, sites = export_marked(marked("relu", nn.ReLU()), [torch.rand(2, 3)], opset=17)
    assert build_fake_quant(model, sites, Record({"relu": activation()})).opset_imports == {"": 17}


def test_model_that_cannot_be_raised_is_refused():
    model = onnx_text(
        'y = Upsample <mode = "nearest"> (x, s)', "float[n, c, h, w] x, float[4] s", "float[n, c, p, q] y", 9
    )
    model.graph[0].name = "up"
    model.graph[0].attributes["mode"] = ir.AttrString("mode", "cubic?")
    model.graph[0].op_type = "NoSuchOp"
    with pytest.raises(ExportError, match=r"opset 21.*from opset 9"):
        build_fake_quant(model, sites_of(model, {"up": {0: [("up", 0)]}}), Record({"up": activation(num_bits=16)}))


def test_needed_opset_is_13_for_codebooks():
    weight = WeightRecord(scale=(0.5,), num_bits=4, codebook=CODEBOOK)
    assert needed_opset(Record({"a": LayerRecord(weight=weight)})) == 13
    assert needed_opset(Record({"a": LayerRecord(weight=dataclasses.replace(weight, codebook=()))})) == 21


def test_bias_beyond_int32_names_the_layer(marked, export_marked, grid):
    op, inputs = CONV.op(), CONV.inputs()
    op.bias.data.fill_(1e6)
    layer = LayerRecord(activations=(grid(inputs[0]),), weight=WeightRecord(scale=(1e-7,)))
    model, sites = export_marked(marked("conv", op), [torch.from_numpy(x) for x in inputs])
    with pytest.raises(ExportError, match=r"Layer 'conv': the bias needs the integer \d+"):
        build_fake_quant(model, sites, Record({"conv": layer}))


def test_record_of_another_model_is_refused(marked, export_marked, grid):
    model, sites = export_marked(marked("relu", nn.ReLU()), [torch.rand(2, 3)])
    with pytest.raises(ExportError, match=r"Layer 'relu': the record has parameters of input 1, .* inputs \[0\]"):
        build_fake_quant(model, sites, Record({"relu": activation(index=1)}))
    with pytest.raises(
        ExportError, match="Layer 'relu' has a weight in the record, but in the ONNX model it is a Relu"
    ):
        build_fake_quant(model, sites, Record({"relu": LayerRecord(weight=WeightRecord(scale=(1.0,)))}))


def test_wrong_number_of_scales_names_the_layer(marked, export_marked):
    model, sites = export_marked(marked("conv", CONV.op()), [torch.from_numpy(x) for x in CONV.inputs()])
    with pytest.raises(ExportError, match="Layer 'conv': the weight has 9 output channels, the record has 2 scales"):
        build_fake_quant(model, sites, Record({"conv": LayerRecord(weight=WeightRecord(scale=(1.0, 2.0)))}))
