"""The content of the fake-quant model: pairs, names, opsets; and models that are refused."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.export import layers
from hotwheels.amct_pytorch.export.fake_quant import build_fake_quant, needed_opset
from hotwheels.amct_pytorch.onnx_io.layer_sites import LayerSite
from hotwheels.amct_pytorch.record import ActivationRecord, LayerRecord, Record, WeightRecord

CODEBOOK = (-127, -100, -80, -60, -45, -30, -18, -6, 5, 17, 29, 44, 61, 83, 101, 127)
CONV_SHAPE, DECONV_SHAPE = (2, 6, 8, 8), (2, 6, 4, 4)


def onnx_text(nodes, inputs, outputs):
    text = f'<ir_version: 7, opset_import: ["" : 13]> net ({inputs}) => ({outputs}) {{ {nodes} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def sites_of(*layers):
    """One-node layers that quantize their first input."""
    return {layer: LayerSite(nodes=(layer,), inputs={0: ((layer, 0),)}) for layer in layers}


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
    return model, sites_of("first", "second")


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


def test_names_of_a_weighted_layer(marked, export_marked):
    scale = tuple(2.0**-k for k in range(9))
    layer = LayerRecord(activations=activation().activations, weight=WeightRecord(scale=scale))
    deconv = nn.ConvTranspose2d(6, 9, 2, groups=3)
    model, sites = export_marked(marked("up1", deconv), [torch.rand(DECONV_SHAPE)])
    fake_quant = build_fake_quant(model, sites, Record({"up1": layer}))
    assert names(fake_quant) == [
        "up1.input0.quant", "up1.input0.dequant", "up1.weight.dequant", "up1.weight.split", "up1.weight.transpose",
        "up1.weight.merge", "up1.bias.dequant", "up1",
    ]  # fmt: skip
    constants = fake_quant.graph.initializers
    assert constants["up1.bias.quantized"].dtype == ir.DataType.INT32
    assert constants["up1.bias.scale"].const_value.numpy().tolist() == [0.5 * one for one in scale]
    assert list(constants["up1.weight.quantized"].shape) == [9, 2, 2, 2]  # output channels first


def test_weight_is_quantized_without_its_input(marked, export_marked):
    model, sites = export_marked(marked("conv", nn.Conv2d(6, 9, 3)), [torch.rand(CONV_SHAPE)])
    record = Record({"conv": LayerRecord(weight=WeightRecord(scale=(0.01,)))})
    fake_quant = build_fake_quant(model, sites, record)
    assert names(fake_quant) == ["conv.weight.dequant", "conv"]  # the bias has no grid without that of the input


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
    model = onnx_text("y = NoSuchOp (x)", "float[n] x", "float[n] y")
    model.graph[0].name = "odd"
    with pytest.raises(ExportError, match=r"opset 21(.|\n)*from opset 13(.|\n)*NoSuchOp"):
        build_fake_quant(model, sites_of("odd"), Record({"odd": activation(num_bits=16)}))


def test_needed_opset_is_13_for_codebooks():
    weight = WeightRecord(scale=(0.5,), num_bits=4, codebook=CODEBOOK)
    assert needed_opset(Record({"a": LayerRecord(weight=weight)})) == 13
    assert needed_opset(Record({"a": LayerRecord(weight=dataclasses.replace(weight, codebook=()))})) == 21


def test_bias_beyond_int32_names_the_layer(marked, export_marked):
    conv = nn.Conv2d(6, 9, 3)
    conv.bias.data.fill_(1e6)
    layer = LayerRecord(activations=activation().activations, weight=WeightRecord(scale=(1e-7,)))
    model, sites = export_marked(marked("conv", conv), [torch.rand(CONV_SHAPE)])
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
    model, sites = export_marked(marked("conv", nn.Conv2d(6, 9, 3)), [torch.rand(CONV_SHAPE)])
    with pytest.raises(ExportError, match="Layer 'conv': the weight has 9 output channels, the record has 2 scales"):
        build_fake_quant(model, sites, Record({"conv": LayerRecord(weight=WeightRecord(scale=(1.0, 2.0)))}))


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
    model = onnx_text("y = Identity(x)", "float[n] x", "float[n] y")
    model.graph[0].name = "layer"
    fake_quant = build_fake_quant(model, sites_of("layer"), Record({"layer": LayerRecord(activations=(record,))}))
    (found,) = run(fake_quant, x)
    assert np.array_equal(found, on_grid(x, scale, offset, num_bits).astype(np.float32))


def test_layer_that_the_exporter_dropped_is_named(monkeypatch):
    warnings = []
    monkeypatch.setattr(layers._logger, "warning", lambda text, *args: warnings.append(text % args))
    model, sites = two_readers()
    build_fake_quant(model, sites, Record({"unused": activation(), "first": activation()}))
    assert warnings == ["Layer 'unused' of the record is not in the ONNX model: nothing uses its result."]
