"""The deploy pair: integer weights, the parameter file, the metadata."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.export.deploy import activation_positions, build_deploy
from hotwheels.amct_pytorch.onnx_io.layer_sites import SITES_KEY
from hotwheels.amct_pytorch.record import ActivationRecord, LayerRecord, Record, WeightRecord
from hotwheels.amct_pytorch.record.calibration_param import DataType, FactorParam, from_text, to_text

CODEBOOK = (-127, -100, -80, -60, -45, -30, -18, -6, 5, 17, 29, 44, 61, 83, 101, 127)
FLOAT = FactorParam(data_type=DataType.F16, scale=(1.0,), offset=(0.0,))


def grid(scale=0.5, offset=0, num_bits=8, index=0):
    return ActivationRecord(index=index, scale=scale, offset=offset, num_bits=num_bits)


def metadata(model):
    return json.loads(model.metadata_props["amct.deploy.v1"])["layers"]


@pytest.fixture
def conv_net(marked, export_marked):
    """A convolution with known weights, its ReLU and a quantized max pooling."""
    conv = nn.Conv2d(1, 2, 2)
    conv.weight.data = torch.tensor([[0.5, -1.0], [0.25, 0.75], [-0.5, 2.0], [1.5, 0.0]]).reshape(2, 1, 2, 2)
    conv.bias.data = torch.tensor([0.5, -0.125])
    net = nn.Sequential(marked("conv1", conv), nn.ReLU(), marked("pool", nn.MaxPool2d(2)))
    return export_marked(net, [torch.rand(2, 1, 5, 5)])


CONV_RECORD = LayerRecord(activations=(grid(20 / 255, -128),), weight=WeightRecord(scale=(2.0**-7, 2.0**-6)))
GOLDEN = """\
version: 65536
layer {
  name: "conv1"
  calc_data_type: S8
  quant_param {
    input {
      data_type: S8
      scale: 12.75
      offset: -128
    }
    weight {
      data_type: S8
      scale: 128
      scale: 64
      offset: 0
      offset: 0
    }
  }
}
layer {
  name: "/1/Relu"
  calc_data_type: F16
  quant_param {
    input {
      data_type: F16
      scale: 1
      offset: 0
    }
  }
}
layer {
  name: "pool"
  calc_data_type: S16
  quant_param {
    input {
      data_type: S16
      scale: 64
      offset: 5
    }
  }
}
"""


def test_parameter_file_of_a_small_net(conv_net):
    record = Record({"conv1": CONV_RECORD, "pool": LayerRecord(activations=(grid(2.0**-6, 5, 12),))})
    model, params = build_deploy(*conv_net, record)
    assert to_text(params) == GOLDEN
    assert from_text(GOLDEN, "golden") == params
    assert metadata(model) == {"conv1": {"num_bits_d": [8], "num_bits_w": 8}, "pool": {"num_bits_d": [12]}}


def test_weights_are_integers_in_float32_and_biases_real(conv_net):
    model, _ = build_deploy(*conv_net, Record({"conv1": CONV_RECORD}))
    weight, bias = (value.const_value.numpy() for value in model.graph[0].inputs[1:])
    assert weight.dtype == np.float32
    assert weight.reshape(2, 4).tolist() == [[64, -128, 32, 96], [-32, 127, 96, 0]]
    assert bias.tolist() == [0.5, -0.125]
    assert len(model.graph.initializers) == 2  # the real weight is gone


def test_deploy_model_is_checker_clean_and_runs(conv_net, run):
    model, _ = build_deploy(*conv_net, Record({"conv1": CONV_RECORD}))
    assert model.opset_imports == {"": 13}
    assert SITES_KEY not in model.metadata_props
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    (found,) = run(model, np.ones((4, 1, 5, 5), dtype=np.float32))
    assert found.shape == (4, 2, 2, 2)


def test_shift_bit_is_in_the_metadata(conv_net):
    layer = LayerRecord(activations=CONV_RECORD.activations, weight=CONV_RECORD.weight, shift_bit=(3, 4))
    model, _ = build_deploy(*conv_net, Record({"conv1": layer}))
    assert metadata(model) == {"conv1": {"num_bits_d": [8], "num_bits_w": 8, "shift_bit": [3, 4]}}


def test_shift_of_zero_is_absent(conv_net):
    layer = LayerRecord(activations=CONV_RECORD.activations, weight=CONV_RECORD.weight, shift_bit=(0,))
    assert "shift_bit" not in metadata(build_deploy(*conv_net, Record({"conv1": layer}))[0])["conv1"]


def test_non_uniform_weight_has_its_codebook(conv_net):
    weight = WeightRecord(scale=(2.0**-6,), num_bits=4, codebook=CODEBOOK)
    model, params = build_deploy(*conv_net, Record({"conv1": LayerRecord(weight=weight)}))
    factor = params.layers[0].weight
    assert (factor.data_type, factor.scale, factor.offset) == (DataType.S4, (64.0,), (0.0,))
    assert np.frombuffer(factor.params, dtype=np.int8).tolist() == list(CODEBOOK)
    # 32, -64, 16, 48, -32, 128, 96, 0 in units of the scale
    found = model.graph[0].inputs[1].const_value.numpy().reshape(-1).tolist()
    assert found == [29, -60, 17, 44, -30, 127, 101, 5]


def test_incomplete_codebook_is_refused(conv_net):
    weight = WeightRecord(scale=(2.0**-6,), num_bits=4, codebook=(-127, 0, 127))
    with pytest.raises(ExportError, match=r"Layer 'conv1': a non-uniform weight needs 16 codebook values .* got 3"):
        build_deploy(*conv_net, Record({"conv1": LayerRecord(weight=weight)}))


@pytest.mark.parametrize(
    ("num_bits", "data_type"), [(4, "S4"), (8, "S8"), (9, "S16"), (12, "S16"), (15, "S16"), (16, "S16")]
)
def test_data_types(num_bits, data_type, conv_net):
    _, params = build_deploy(*conv_net, Record({"conv1": LayerRecord(activations=(grid(num_bits=num_bits),))}))
    assert params.layers[0].inputs[0].data_type.name == data_type
    assert params.layers[0].calc_data_type.name == data_type


def test_sixteen_bits_with_eight_bit_weights(conv_net):
    layer = LayerRecord(activations=(grid(num_bits=16),), weight=WeightRecord(scale=(0.25,)))
    _, params = build_deploy(*conv_net, Record({"conv1": layer}))
    conv = params.layers[0]
    assert (conv.calc_data_type, conv.weight.data_type, conv.weight.scale) == (DataType.S16, DataType.S8, (4.0,))


def test_constants_are_no_inputs(marked, export_marked):
    model, sites = export_marked(marked("add", lambda x: 1.5 - x), [torch.rand(2, 3)])
    deploy, params = build_deploy(model, sites, Record({"add": LayerRecord(activations=(grid(0.5, 3),))}))
    assert [len(layer.inputs) for layer in params.layers] == [1]
    assert params.layers[0].inputs[0].offset == (3.0,)
    assert activation_positions(deploy.graph[0]) == (1,)


def test_two_inputs_in_node_order(marked, export_marked):
    model, sites = export_marked(marked("mm", torch.matmul), [torch.rand(2, 3, 4), torch.rand(2, 4, 3)])
    layer = LayerRecord(activations=(grid(0.5, num_bits=16), grid(0.25, index=1)))
    deploy, params = build_deploy(model, sites, Record({"mm": layer}))
    assert [(one.data_type.name, one.scale) for one in params.layers[0].inputs] == [("S16", (2.0,)), ("S8", (4.0,))]
    assert params.layers[0].weight is None
    assert metadata(deploy)["mm"]["num_bits_d"] == [16, 8]


def test_decomposed_layer_has_a_parameter_for_each_node(marked, export_marked):
    model, sites = export_marked(marked("ln", nn.LayerNorm(4)), [torch.rand(2, 3, 4)])
    deploy, params = build_deploy(model, sites, Record({"ln": LayerRecord(activations=(grid(0.5, 1, 12),))}))
    quantized = FactorParam(data_type=DataType.S16, scale=(2.0,), offset=(1.0,))
    found = {layer.name: layer.inputs for layer in params.layers}
    assert found == {
        "ln/ReduceMean": (quantized,),
        "ln/Sub": (quantized, FLOAT),
        "ln/Pow": (FLOAT,),
        "ln/ReduceMean_1": (FLOAT,),
        "ln/Add": (FLOAT,),
        "ln/Sqrt": (FLOAT,),
        "ln/Div": (FLOAT, FLOAT),
        "ln/Mul": (FLOAT,),
        "ln": (FLOAT,),
    }
    assert metadata(deploy) == {"ln/ReduceMean": {"num_bits_d": [12]}, "ln/Sub": {"num_bits_d": [12, 16]}}


def test_linear_of_rank_3_is_the_matmul(marked, export_marked):
    linear = nn.Linear(4, 3)
    model, sites = export_marked(marked("fc", linear), [torch.rand(2, 5, 4)])
    layer = LayerRecord(activations=(grid(0.5),), weight=WeightRecord(scale=(2.0**-8,)))
    deploy, params = build_deploy(model, sites, Record({"fc": layer}))
    assert [(node.name, node.op_type) for node in deploy.graph] == [("fc", "MatMul"), ("fc/Add", "Add")]
    assert [(one.name, one.calc_data_type.name, one.weight is None) for one in params.layers] == [
        ("fc", "S8", False),
        ("fc/Add", "F16", True),
    ]
    integers = np.clip(np.round(linear.weight.detach().numpy() * 256), -128, 127).T
    assert np.array_equal(deploy.graph[0].inputs[1].const_value.numpy(), integers)


def test_custom_domain_is_kept(marked, export_marked, tmp_path):
    net = nn.Sequential(marked("norm", amct_nn.LayerNorm(6)), marked("act", amct_nn.GELU()))
    model, sites = export_marked(net, [torch.rand(2, 6, 4, 4)])
    deploy, params = build_deploy(model, sites, Record({"norm": LayerRecord(activations=(grid(),))}))
    assert deploy.opset_imports == {"": 13, "custom_domain": 1}
    assert [(node.name, node.domain) for node in deploy.graph] == [("norm", "custom_domain"), ("act", "custom_domain")]
    assert [len(layer.inputs) for layer in params.layers] == [1, 1]
    onnx.checker.check_model(ir.to_proto(deploy), full_check=True)


@pytest.mark.parametrize("scales", [(0.25, 0.25), (0.25, 0.125)], ids=["same_grid", "other_grid"])
def test_shared_weight_is_stored_once_per_grid(scales, marked, export_marked):
    linear = nn.Linear(4, 4, bias=False)
    net = nn.Sequential(marked("a", linear), marked("b", linear))
    model, sites = export_marked(net, [torch.rand(2, 4)])
    layers = {name: LayerRecord(weight=WeightRecord(scale=(scale,))) for name, scale in zip("ab", scales, strict=True)}
    deploy, _ = build_deploy(model, sites, Record(layers))
    assert len(deploy.graph.initializers) == len(set(scales))


def test_quantized_constant_is_stored_on_its_grid(marked, export_marked):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor([0.3, -0.2, 0.9]))
            self.add = marked("add", torch.add)

        def forward(self, x):
            return self.add(x, self.shift)

    model, sites = export_marked(Shifted(), [torch.rand(2, 3)])
    layer = LayerRecord(activations=(grid(0.5), grid(0.25, index=1)))
    deploy, params = build_deploy(model, sites, Record({"add": layer}))
    assert deploy.graph[0].inputs[1].const_value.numpy().tolist() == [0.25, -0.25, 1.0]
    assert len(params.layers[0].inputs) == 1
