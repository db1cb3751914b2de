"""Makes layer sites of marker nodes.

The back-end exports ``y = layer(a, b)`` as

    a' = amct_marker::Input(a){layer, index 0}    b' = amct_marker::Input(b){layer, index 1}
    y  = amct_marker::Output(<the nodes of the layer>(a', b')){layer}

The nodes on the paths from the inputs to the output are the layer. A side branch (the indices of a max, a second chunk)
has no output marker; its nodes belong to the layer if they read a marked input, or were exported from the same module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping

import onnx_ir as ir

from ...errors import ExportError
from ...onnx_io.layer_sites import LayerSite, main_node, read_places, write_sites
from ...onnx_io.node_access import graph_of, operand, producers, readers, result
from ...onnx_io.node_names import name_nodes
from .exporter_leftovers import bypass, clean_exporter_leftovers

MARKER_DOMAIN = "amct_marker"
INPUT_MARKER = "Input"  # attributes: layer (string), index (int); one input, one output
OUTPUT_MARKER = "Output"  # attributes: layer (string); one input, one output


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Markers:
    """The marker nodes of one layer; ``output`` is None if the layer's first output has no reader."""

    inputs: Mapping[int, ir.Node]
    output: ir.Node | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return (*self.inputs.values(), *([self.output] if self.output else []))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Body:
    """The nodes of one layer in graph order, the node with the layer's name, and the readers of each marked input."""

    nodes: tuple[ir.Node, ...]
    main: ir.Node
    reads: Mapping[int, tuple[tuple[ir.Node, int], ...]]


def resolve_markers(model: ir.Model, suffixes: Mapping[str, str] | None = None) -> dict[str, LayerSite]:
    """Removes the markers of ``model``, in place, names its nodes after the layers and returns the sites by layer.

    The layers are in graph order. The node that makes the layer's result, or has its weight, gets the layer's name, the
    others ``<layer>/<OpType>[_k]``, or ``<layer><suffix>[_k]`` for the op types in ``suffixes`` (the dynamic path:
    ``{"Pad": "_pad", "Transpose": "_transpose"}``); a node of type in ``suffixes`` gets the layer's name only if the
    layer has no other node. The sites are also stored in the metadata, for ``read_sites``.

    Raises:
        ExportError: A layer is marked more than once, or two layers share a node.
    """
    clean_exporter_leftovers(model)
    markers = _find_markers(model)
    _give_empty_layers_a_node(markers)
    bodies = _find_bodies(model, markers, suffixes or {})
    _remove_markers(model)
    name_nodes(model, {layer: (body.main, body.nodes) for layer, body in bodies.items()}, suffixes or {})
    sites = {layer: _site(body) for layer, body in bodies.items()}
    write_sites(model, sites)
    return sites


# --- finding ---


def _find_markers(model: ir.Model) -> dict[str, _Markers]:
    inputs: dict[str, dict[int, ir.Node]] = {}
    outputs: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.domain != MARKER_DOMAIN:
            continue
        layer = node.attributes["layer"].as_string()
        known, key = (inputs.setdefault(layer, {}), node.attributes.get_int("index", 0))
        if node.op_type == INPUT_MARKER and key not in known:
            known[key] = node
        elif node.op_type == OUTPUT_MARKER and layer not in outputs:
            outputs[layer] = node
        else:
            raise ExportError(f"Layer '{layer}' is called more than once; each call must be a layer of its own.")
    return {
        layer: _Markers(inputs=dict(sorted(found.items())), output=outputs.get(layer))
        for layer, found in inputs.items()
    }


def _give_empty_layers_a_node(markers: Mapping[str, _Markers]) -> None:
    """Adds an Identity to layers that the exporter removed as no-ops (a view to the same shape), as they quantize."""
    for found in markers.values():
        if found.output and operand(found.output, 0).producer() in found.inputs.values():
            _insert_identity(found.output)


def _insert_identity(output: ir.Node) -> None:
    """Puts an Identity in front of the marker ``output``."""
    value = operand(output, 0)
    identity = ir.node("Identity", [value])
    result(identity).type, result(identity).shape = value.type, value.shape
    graph_of(output).insert_before(output, identity)
    result(identity).name = f"{result(output).name}_identity"
    output.replace_input_with(0, result(identity))


def _find_bodies(model: ir.Model, markers: Mapping[str, _Markers], suffixes: Container[str]) -> dict[str, _Body]:
    order = {node: index for index, node in enumerate(model.graph)}
    owner: dict[ir.Node, str] = {}
    bodies: dict[str, _Body] = {}
    for layer, found in markers.items():
        nodes = sorted(_nodes_of(found), key=order.__getitem__)
        for node in nodes:
            if owner.setdefault(node, layer) != layer:
                raise ExportError(
                    f"Layers '{owner[node]}' and '{layer}' both contain node '{node.name}'; quantize only one of them."
                )
        if nodes:  # without nodes: no output of the layer has a reader, so the exporter has removed the layer
            working = [node for node in nodes if node.op_type not in suffixes] or nodes
            main = main_node(working, operand(found.output, 0) if found.output else None)
            bodies[layer] = _Body(nodes=tuple(nodes), main=main, reads=_reads(found, order))
    return dict(sorted(bodies.items(), key=lambda item: order[item[1].nodes[0]]))


def _nodes_of(found: _Markers) -> set[ir.Node]:
    direct = [reader for marker in found.inputs.values() for reader in readers(marker)]
    behind = _reachable(direct, readers)
    before = _reachable(producers(found.output), producers) if found.output else set()
    scopes = tuple(filter(None, map(_scope, found.nodes)))
    return {node for node in behind if node in before or node in direct or (node.name or "").startswith(scopes)}


def _reachable(start: Iterable[ir.Node], neighbours: Callable[[ir.Node], list[ir.Node]]) -> set[ir.Node]:
    """Returns ``start`` and all nodes behind it, up to the next markers."""
    found: set[ir.Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.domain != MARKER_DOMAIN and node not in found:
            found.add(node)
            waiting.extend(neighbours(node))
    return found


def _scope(marker: ir.Node) -> str:
    """Returns the module path in the exporter's node name: ``/conv1/`` of ``/conv1/Input``, empty for the root."""
    path, _, _ = (marker.name or "").rpartition("/")
    return f"{path}/" if path else ""


def _reads(found: _Markers, order: Mapping[ir.Node, int]) -> dict[int, tuple[tuple[ir.Node, int], ...]]:
    return {index: read_places(result(marker), order) for index, marker in found.inputs.items()}


# --- changing ---


def _remove_markers(model: ir.Model) -> None:
    """Removes all markers, also of layers that were not found: without inputs, or in the body of an If or a Loop."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.domain == MARKER_DOMAIN and not bypass(node):
            node.domain, node.op_type = "", "Identity"
            node.attributes.clear()
    model.opset_imports.pop(MARKER_DOMAIN, None)


def _site(body: _Body) -> LayerSite:
    return LayerSite(
        nodes=tuple(str(node.name) for node in body.nodes),
        inputs={index: tuple((str(node.name), at) for node, at in places) for index, places in body.reads.items()},
    )
