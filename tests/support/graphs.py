"""OpGraphs for tests, written with one line per node."""

from __future__ import annotations

from hotwheels.amct_pytorch.graph import Edge, Form, OpGraph, OpNode
from hotwheels.amct_pytorch.ops.desc import OpDesc, Role

_KINDS = {
    "conv": (Role.CONV, "torch.nn.Conv2d"),
    "conv_transpose": (Role.CONV_TRANSPOSE, "torch.nn.ConvTranspose2d"),
    "linear": (Role.LINEAR, "torch.nn.Linear"),
    "matmul": (Role.MATMUL, "matmul"),
    "max_pool": (Role.MAX_POOL, "torch.nn.MaxPool2d"),
    "add": (Role.ELEMENTWISE, "operator.add"),
    "cat": (Role.MOVEMENT, "torch.cat"),
    "softsign": (Role.ACTIVATION, "torch.nn.Softsign"),
    "gelu": (Role.ACTIVATION, "torch.nn.GELU"),
    "shape": (Role.SHAPE, "view"),
}


def node(name: str, kind: str, inputs: int = 1, *, type: str = "", unquantizable: str | None = None) -> OpNode:
    """A quantizable node that reads ``inputs`` times the node ``x``."""
    role, default_type = _KINDS[kind]
    return OpNode(
        name=name,
        form=Form.MODULE,
        type=type or default_type,
        op=OpDesc(
            name=kind,
            role=role,
            is_default_enabled=kind != "softsign",
            allows_channel_wise=role in (Role.CONV, Role.CONV_TRANSPOSE),
        ),
        inputs=("x",),
        edges=() if unquantizable else tuple(Edge("x", f"input{index}", index) for index in range(inputs)),
        unquantizable=unquantizable,
    )


def graph(*nodes: OpNode) -> OpGraph:
    """The nodes behind an input ``x``."""
    return OpGraph({one.name: one for one in (OpNode(name="x", form=Form.INPUT), *nodes)})


def small_net() -> OpGraph:
    """The layers of the config.json in HiSilicon's AMCT manual, and one of each kind with rules of its own."""
    return graph(
        node("conv1", "conv"),
        node("maxpool", "max_pool"),
        node("add", "add", 2),
        node("matmul", "matmul", 2),
        node("softsign", "softsign"),
        node("view", "shape", unquantizable="its input is a size"),
        node("fc", "linear"),
    )
