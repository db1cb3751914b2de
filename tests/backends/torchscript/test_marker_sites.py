"""Markers become sites: nodes named after layers, places of the inputs, no remains of the exporter."""

import io
import warnings

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.backends.torchscript.marker_sites import resolve_markers
from hotwheels.amct_pytorch.backends.torchscript.markers import mark_input, mark_output
from hotwheels.amct_pytorch.errors import ExportError
from hotwheels.amct_pytorch.onnx_io.layer_sites import SITES_KEY, LayerSite, read_sites

HEADER = '<ir_version: 7, opset_import: ["" : 13, "amct_marker" : 1]>'
DYNAMIC_SUFFIXES = {"Pad": "_pad", "Transpose": "_transpose"}


def parse(nodes, inputs="float[n, 4] x", outputs="float[n, 4] y", constants=""):
    return ir.from_proto(onnx.parser.parse_model(f"{HEADER} net ({inputs}) => ({outputs}) {constants} {{ {nodes} }}"))


def check(model):
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def nodes(model):
    return [(node.name, node.op_type) for node in model.graph]


def site(name, *places):
    return LayerSite(nodes=(name,), inputs={index: (place,) for index, place in enumerate(places)})


def test_one_node_layer_takes_the_name():
    model = parse("""
        a = amct_marker.Input <layer = "act", index = 0> (x)
        b = Relu (a)
        y = amct_marker.Output <layer = "act"> (b)
    """)
    assert resolve_markers(model) == {"act": site("act", ("act", 0))}
    assert nodes(model) == [("act", "Relu")]
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]
    assert model.opset_imports == {"": 13}
    check(model)


def test_two_inputs_and_the_same_tensor_twice():
    model = parse("""
        a = amct_marker.Input <layer = "add", index = 0> (x)
        b = amct_marker.Input <layer = "add", index = 1> (x)
        c = Add (b, a)
        y = amct_marker.Output <layer = "add"> (c)
    """)
    assert resolve_markers(model) == {"add": site("add", ("add", 1), ("add", 0))}
    assert [value.name for value in model.graph[0].inputs] == ["x", "x"]
    check(model)


def test_input_read_in_several_places():
    model = parse(
        """
        a = amct_marker.Input <layer = "norm", index = 0> (x)
        m = ReduceMean <axes = [-1]> (a)
        d = Sub (a, m)
        s = Mul (d, d)
        v = ReduceMean <axes = [-1]> (s)
        q = Sqrt (v)
        r = Div (d, q)
        y = amct_marker.Output <layer = "norm"> (r)
        """
    )
    found = resolve_markers(model)["norm"]
    assert found.nodes == ("norm/ReduceMean", "norm/Sub", "norm/Mul", "norm/ReduceMean_1", "norm/Sqrt", "norm")
    assert found.inputs == {0: (("norm/ReduceMean", 0), ("norm/Sub", 0))}
    check(model)


def test_shape_of_an_input_is_no_place():
    model = parse("""
        a = amct_marker.Input <layer = "view", index = 0> (x)
        s = Shape (a)
        r = Reshape (a, s)
        y = amct_marker.Output <layer = "view"> (r)
    """)
    assert resolve_markers(model)["view"] == LayerSite(nodes=("view/Shape", "view"), inputs={0: (("view", 0),)})


def test_layer_without_nodes_gets_an_identity():
    model = parse("""
        a = amct_marker.Input <layer = "view", index = 0> (x)
        b = amct_marker.Output <layer = "view"> (a)
        y = Relu (b)
    """)
    assert resolve_markers(model) == {"view": site("view", ("view", 0))}
    assert nodes(model) == [("view", "Identity"), ("Relu", "Relu")]
    check(model)


def test_matmul_with_the_weight_is_the_layer_and_not_its_bias():
    model = parse(
        """
        a = amct_marker.Input <layer = "fc", index = 0> (x)
        m = MatMul (a, w)
        s = Add (c, m)
        y = amct_marker.Output <layer = "fc"> (s)
        """,
        constants="<float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4] c = {1,2,3,4}>",
    )
    assert resolve_markers(model) == {"fc": LayerSite(nodes=("fc", "fc/Add"), inputs={0: (("fc", 0),)})}
    assert nodes(model) == [("fc", "MatMul"), ("fc/Add", "Add")]


def test_transposed_weight_is_folded():
    model = parse(
        """
        a = amct_marker.Input <layer = "fc", index = 0> (x)
        t = Transpose <perm = [1, 0]> (w)
        m = MatMul (a, t)
        y = amct_marker.Output <layer = "fc"> (m)
        """,
        outputs="float[n, 2] y",
        constants="<float[2, 4] w = {1,2,3,4,5,6,7,8}>",
    )
    resolve_markers(model)
    assert nodes(model) == [("fc", "MatMul")]
    assert model.graph[0].inputs[1].const_value.numpy().tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert list(model.graph.initializers) == ["t"]
    check(model)


def test_leftovers_of_the_exporter_are_gone():
    model = parse(
        """
        d = Identity (w)
        k = Constant <value = float {2.0}> ()
        e = Cast <to = 1> (x)
        f = Add (e, d)
        y = Mul (f, k)
        """,
        constants="<float[4] w = {1,2,3,4}>",
    )
    assert resolve_markers(model) == {}
    assert nodes(model) == [("Add", "Add"), ("Mul", "Mul")]
    assert list(model.graph.initializers) == ["w", "k"]
    check(model)


def test_cast_to_another_type_stays():
    model = parse("y = Cast <to = 11> (x)", outputs="double[n, 4] y")
    resolve_markers(model)
    assert nodes(model) == [("Cast", "Cast")]


def test_interface_keeps_its_names():
    """The input handed on as an output, and one tensor as two outputs: a node stays where two names are needed."""
    model = parse(
        """
        p = Identity (x)
        a = amct_marker.Input <layer = "act", index = 0> (x)
        b = Relu (a)
        y = amct_marker.Output <layer = "act"> (b)
        z = Identity (y)
        """,
        outputs="float[n, 4] p, float[n, 4] y, float[n, 4] z",
    )
    resolve_markers(model)
    assert [value.name for value in model.graph.outputs] == ["p", "y", "z"]
    assert [op_type for _, op_type in nodes(model)] == ["Identity", "Relu", "Identity"]
    check(model)


def test_unquantized_node_yields_its_name_to_a_layer():
    model = parse("""
        r = Sigmoid (x)
        a = amct_marker.Input <layer = "act", index = 0> (r)
        b = Relu (a)
        y = amct_marker.Output <layer = "act"> (b)
    """)
    model.graph[0].name = "act"
    resolve_markers(model)
    assert nodes(model) == [("act_1", "Sigmoid"), ("act", "Relu")]


def test_dynamic_suffixes():
    model = parse(
        """
        a = amct_marker.Input <layer = "layer1.0.pool", index = 0> (x)
        p = Pad (a, k)
        m = MaxPool <kernel_shape = [2, 2]> (p)
        y = amct_marker.Output <layer = "layer1.0.pool"> (m)
        """,
        inputs="float[n, 1, 4, 4] x",
        outputs="float[n, 1, 5, 5] y",
        constants="<int64[8] k = {0, 0, 1, 1, 0, 0, 1, 1}>",
    )
    found = resolve_markers(model, DYNAMIC_SUFFIXES)
    name = "layer1.0.pool"
    assert found == {name: LayerSite(nodes=(f"{name}_pad", name), inputs={0: ((f"{name}_pad", 0),)})}
    check(model)


def test_side_branch_belongs_to_its_layer():
    """The indices of a max leave through no marker, and what comes behind them is not the layer."""
    model = parse(
        """
        a = amct_marker.Input <layer = "max", index = 0> (x)
        b = ReduceMax <axes = [1]> (a)
        i = ArgMax <axis = 1> (a)
        c = amct_marker.Output <layer = "max"> (b)
        j = Cast <to = 1> (i)
        y = Add (c, j)
        """,
        outputs="float[n, 1] y",
    )
    found = resolve_markers(model)["max"]
    assert found == LayerSite(nodes=("max", "max/ArgMax"), inputs={0: (("max", 0), ("max/ArgMax", 0))})
    assert [name for name, _ in nodes(model)] == ["max", "max/ArgMax", "Cast", "Add"]


def test_unused_first_output():
    model = parse(
        """
        a = amct_marker.Input <layer = "max", index = 0> (x)
        y = ArgMax <axis = 1> (a)
        """,
        outputs="int64[n, 1] y",
    )
    assert resolve_markers(model) == {"max": site("max", ("max", 0))}


def test_output_without_inputs_is_no_layer():
    model = parse("""
        a = Relu (x)
        y = amct_marker.Output <layer = "zeros"> (a)
    """)
    assert resolve_markers(model) == {}
    assert nodes(model) == [("Relu", "Relu")]
    check(model)


def test_sites_come_back_from_the_file():
    model = parse("""
        a = amct_marker.Input <layer = "b", index = 0> (x)
        b = Relu (a)
        c = amct_marker.Output <layer = "b"> (b)
        d = amct_marker.Input <layer = "a", index = 0> (c)
        e = Relu (d)
        y = amct_marker.Output <layer = "a"> (e)
    """)
    sites = resolve_markers(model)
    assert list(sites) == ["b", "a"]  # graph order
    again = read_sites(ir.from_proto(ir.to_proto(model)))
    assert again == sites
    assert list(again) == list(sites)


def test_model_without_sites_is_refused():
    with pytest.raises(ExportError, match="was not exported for quantization"):
        read_sites(parse("y = Relu (x)"))
    damaged = parse("y = Relu (x)")
    damaged.metadata_props[SITES_KEY] = '{"layers": {"a": {}}}'
    with pytest.raises(ExportError, match=f"'{SITES_KEY}' of the ONNX model is damaged"):
        read_sites(damaged)


def test_second_call_of_a_layer_is_refused():
    model = parse("""
        a = amct_marker.Input <layer = "act", index = 0> (x)
        b = Relu (a)
        c = amct_marker.Output <layer = "act"> (b)
        d = amct_marker.Input <layer = "act", index = 0> (c)
        e = Relu (d)
        y = amct_marker.Output <layer = "act"> (e)
    """)
    with pytest.raises(ExportError, match="Layer 'act' is called more than once"):
        resolve_markers(model)


def test_layers_that_share_a_node_are_refused():
    model = parse("""
        a = amct_marker.Input <layer = "first", index = 0> (x)
        b = amct_marker.Input <layer = "second", index = 0> (x)
        c = Add (a, b)
        d = amct_marker.Output <layer = "first"> (c)
        e = amct_marker.Output <layer = "second"> (c)
        y = Add (d, e)
    """)
    with pytest.raises(ExportError, match="Layers 'first' and 'second' both contain node"):
        resolve_markers(model)


class Block(nn.Module):
    """What the exporter makes of modules: scopes, a shared weight, a decomposed layer, a chunk with two results."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.load_state_dict(self.first.state_dict())  # the exporter stores equal tensors once
        self.norm, self.split = nn.LayerNorm(8), Chunk()

    def forward(self, x):
        for name in ("first", "second", "norm"):
            x = mark_output(getattr(self, name)(mark_input(x, name, 0)), name)
        left, right = self.split(x)
        return left + torch.relu(right)


class Chunk(nn.Module):
    def forward(self, x):
        left, right = mark_input(x, "split", 0).split(4, -1)
        return mark_output(left, "split"), right


def test_exported_modules():
    buffer, x = io.BytesIO(), torch.rand(2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Block().eval(), (x,), buffer, dynamo=False, opset_version=13, custom_opsets={"amct_marker": 1}
        )
    model = ir.from_proto(onnx.load_from_string(buffer.getvalue()))
    sites = resolve_markers(model)
    check(model)
    assert list(sites) == ["first", "second", "norm", "split"]
    assert sites["split"].nodes == ("split",)
    assert {node.op_type for node in model.graph}.isdisjoint({"Identity", "Constant", "Input", "Output"})
    assert [name for name, _ in nodes(model)][-3:] == ["split", "/Relu", "/Add"]
    assert model.graph[0].inputs[1] is model.graph[1].inputs[1]
