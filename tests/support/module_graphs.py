"""OpGraphs as the dynamic back-end makes them: module paths as names, ONNX types, operations of the real table."""

from __future__ import annotations

import torch

from hotwheels.amct_pytorch.graph import Edge, Form, OpGraph, OpNode
from hotwheels.amct_pytorch.ops.desc import OpDesc, Role
from hotwheels.amct_pytorch.ops.registry import Registry

_ONNX_TYPES = {
    "Conv2d": "Conv",
    "ConvTranspose2d": "ConvTranspose",
    "Linear": "Gemm",
    "ReLU": "Relu",
    "ReLU6": "Clip",
    "MaxPool2d": "MaxPool",
    "Softsign": "Softsign",
    "EltwiseAdd": "Add",
}
_REGISTRY = Registry()
_ADD = OpDesc(name="EltwiseAdd", role=Role.EXTENSION, modules=("hotwheels.amct_pytorch.custom_op.EltwiseAdd",))


def module(name: str, kind: str, *inputs: str, unquantizable: str | None = None) -> OpNode:
    """A quantizable module of the class ``kind`` that reads the named nodes."""
    path = f"torch.nn.{kind}"
    op = _ADD if kind == "EltwiseAdd" else _REGISTRY.find_module(path)
    edges = tuple(Edge(producer, f"input{index}", index) for index, producer in enumerate(inputs))
    return OpNode(
        name=name,
        form=Form.MODULE,
        type=path,
        op=op,
        inputs=inputs,
        edges=() if unquantizable else edges,
        unquantizable=unquantizable,
        module_path=name,
        onnx_type=_ONNX_TYPES[kind],
    )


def matmul(name: str, *inputs: str) -> OpNode:
    """A matrix product of two tensors."""
    op = _REGISTRY.find_function(torch.matmul)
    edges = tuple(Edge(producer, f"input{index}", index) for index, producer in enumerate(inputs))
    return OpNode(name=name, form=Form.MODULE, op=op, inputs=inputs, edges=edges, onnx_type="MatMul")


def graph(*nodes: OpNode) -> OpGraph:
    """The nodes behind an input ``x``."""
    return OpGraph({one.name: one for one in (OpNode(name="x", form=Form.INPUT), *nodes)})


def residual_net() -> OpGraph:
    """The layers which the samples of HiSilicon's AMCT manual name, in a net like the ResNet they are from."""
    return graph(
        module("conv1", "Conv2d", "x"),
        module("relu", "ReLU", "conv1", unquantizable="it belongs to the convolution in front of it"),
        module("maxpool", "MaxPool2d", "relu"),
        module("layer1.0.conv1", "Conv2d", "maxpool"),
        module("layer1.0.relu", "ReLU6", "layer1.0.conv1", unquantizable="it belongs to the convolution before it"),
        module("layer1.0.conv2", "Conv2d", "layer1.0.relu"),
        module("layer1.0.eltwise_add", "EltwiseAdd", "layer1.0.conv2", "maxpool"),
        module("layer1.1.conv2", "Conv2d", "layer1.0.eltwise_add"),
        module("layer1.2.conv2", "Conv2d", "layer1.1.conv2"),
        module("softsign", "Softsign", "layer1.2.conv2"),
        module("fc", "Linear", "softsign"),
    )
