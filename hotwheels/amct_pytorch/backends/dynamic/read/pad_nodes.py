"""Makes zeros padded by a function in front of a convolution or pooling the ``pads`` of its node (spec 8.3).

0 is a point of every grid, so padding and quantizing commute. The user's forward still pads; the layer of the quantized
model takes the zeros off again (`PaddedForward`) and adds them behind its quantizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from ....nn.padding import Margins
from ....onnx_io.initializers import constant_of
from ....onnx_io.layer_sites import LayerSite
from ....onnx_io.node_access import operand, producers, readers, result
from ...torchscript.exporter_leftovers import bypass

_POOLINGS = ("MaxPool", "AveragePool")
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs"})
_KEEPING_SIGN = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
_UNIT_AXIS = -2


def take_pads(model: ir.Model, sites: Mapping[str, LayerSite], paths: Mapping[str, str]) -> dict[str, Margins]:
    """Rewrites ``model`` in place; returns, by module path, the margins that layers have now.

    A padding stays if another node reads its result or its input (their layers would have to share a grid), or if other
    calls of the module have no such padding. ``sites`` are the places of the layers' calls, ``paths`` their modules.
    """
    nodes = {str(node.name): node for node in model.graph}
    owned = {name for site in sites.values() for name in site.nodes}
    found: dict[str, dict[str, _Padded]] = {}
    for name, site in sites.items():
        padded = _padded(site, nodes, owned)
        if padded is not None:
            found.setdefault(paths[name], {})[name] = padded
    margins = {}
    for path, calls in found.items():
        kinds = {one.margins for one in calls.values()}
        if len(kinds) == 1 and len(calls) == sum(paths[name] == path for name in sites):
            margins[path] = kinds.pop()
            for one in calls.values():
                _write(one.main, one.added)
                for reader in readers(one.pad):
                    if reader is not one.main:
                        result(reader).shape = None  # it is smaller now
                bypass(one.pad)
    return margins


@dataclasses.dataclass(frozen=True)
class _Padded:
    """A padding that can be part of a layer.

    Attributes:
      pad: The node that pads.
      main: The node of the layer that gets the ``pads``.
      added: What is added to these.
    """

    pad: ir.Node
    main: ir.Node
    added: tuple[int, ...]

    @property
    def margins(self) -> Margins:
        """The zeros in the order of `nn.padding`, for the axes that the module knows."""
        rank = len(constant_of(self.pad.inputs[1])) // 2 - len("NC")  # type: ignore[arg-type]
        axes = len(self.added) // 2
        return tuple(self.added[at + side * axes] for at in range(axes - 1, axes - 1 - rank, -1) for side in (0, 1))


def _padded(site: LayerSite, nodes: Mapping[str, ir.Node], owned: Collection[str]) -> _Padded | None:
    main = [nodes[name] for name in site.nodes if nodes[name].op_type in ("Conv", *_POOLINGS)]
    place = next(iter(site.inputs.get(0, ())), None)
    if len(main) != 1 or place is None:
        return None
    reader = nodes[place[0]]
    pad = operand(reader, place[1]).producer()
    if pad is None or pad.op_type != "Pad" or str(pad.name) in owned or not _is_alone(pad):
        return None
    added = _added(pad, reader, main[0])
    if added is None or not _is_same(main[0], added, operand(pad, 0)):
        return None
    return _Padded(pad, main[0], tuple(added))


def _is_alone(pad: ir.Node) -> bool:
    values = operand(pad, 0), result(pad)
    return all(len(value.uses()) == 1 and not value.is_graph_output() for value in values)


def _added(pad: ir.Node, reader: ir.Node, main: ir.Node) -> list[int] | None:
    """Returns the zeros that ``pad`` adds, as in ``pads`` of ``main``: begins, then ends; None if it does more."""
    mode = pad.attributes.get("mode")
    amounts = constant_of(pad.inputs[1])
    value = constant_of(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else 0
    if (mode is not None and mode.as_string() != "constant") or amounts is None or len(pad.inputs) > 3:
        return None
    begins, ends = (
        [int(one) for one in amounts[: len(amounts) // 2]],
        [int(one) for one in amounts[len(amounts) // 2 :]],
    )
    if value is None or value != 0 or min(*begins, *ends) < 0 or any((*begins[:2], *ends[:2])):
        return None
    if reader is main:
        return [*begins[2:], *ends[2:]]
    axes = constant_of(reader.inputs[1]) if reader.op_type == "Unsqueeze" else None
    if len(begins) != len("NCL") or axes is None or axes.tolist() not in ([_UNIT_AXIS], [len("NCL") + 1 + _UNIT_AXIS]):
        return None
    return [0, *begins[2:], 0, *ends[2:]]


def _is_same(main: ir.Node, added: Sequence[int], x: ir.Value) -> bool:
    """Whether ``added`` in ``pads`` of ``main`` gives the result that padding ``x`` first gives."""
    if main.op_type == "Conv":
        return True
    kernel = list(main.attributes["kernel_shape"].as_ints())
    own = list(main.attributes.get_ints("pads", [0] * len(added)))
    fits = all(one + other < size for one, other, size in zip(own, added, kernel * 2, strict=True))
    is_plain = not main.attributes.get_int("ceil_mode", 0) and set(main.attributes.get_ints("dilations", [1])) == {1}
    if not fits or not is_plain or len(main.outputs) > 1:
        return False
    if main.op_type == "AveragePool":
        return bool(main.attributes.get_int("count_include_pad", 0)) or not any(own)
    return _is_never_negative(x)


def _is_never_negative(x: ir.Value) -> bool:
    node = x.producer()
    while node is not None and node.op_type in _KEEPING_SIGN:
        node = next(iter(producers(node)), None)
    if node is None:
        return False
    return node.op_type in _NEVER_NEGATIVE or (node.op_type == "Clip" and _is_not_below_zero(node))


def _is_not_below_zero(clip: ir.Node) -> bool:
    least = constant_of(clip.inputs[1]) if len(clip.inputs) > 1 else None
    return least is not None and float(least.min()) >= 0


def _write(main: ir.Node, added: Sequence[int]) -> None:
    own = main.attributes.get_ints("pads", [0] * len(added))
    main.attributes.add(ir.AttrInt64s("pads", [one + other for one, other in zip(own, added, strict=True)]))
    if main.op_type == "AveragePool":
        main.attributes.add(ir.AttrInt64("count_include_pad", 1))
