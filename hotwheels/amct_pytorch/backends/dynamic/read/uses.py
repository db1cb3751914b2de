"""Modules that are called several times: one layer, whose uses are all quantized or none (spec 9.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ....graph import OpGraph, OpNode
from ....log import get_logger

_log = get_logger(__name__)


def settle_uses(graph: OpGraph, owned: Collection[str]) -> OpGraph:
    """Returns ``graph`` in which all uses of a layer are quantizable, or none; a WARNING names layers that become none.

    The record of a layer has one grid for each input, so all uses need the same number of inputs. Nodes in ``owned``
    belong to a convolution and are no uses.
    """
    nodes = dict(graph.nodes)
    for layer, uses in _several(graph, owned).items():
        reason = _why_not_alike(uses)
        if reason is not None and any(node.is_quantizable for node in uses):
            _log.warning("Layer '%s' is not quantized: %s.", layer, reason)
            nodes |= {node.name: dataclasses.replace(node, edges=(), unquantizable=reason) for node in uses}
    return OpGraph(nodes)


def _several(graph: OpGraph, owned: Collection[str]) -> dict[str, list[OpNode]]:
    """Returns the uses of each module that has several."""
    found: dict[str, list[OpNode]] = {}
    for node in graph:
        if node.module_path is not None and node.name not in owned:
            found.setdefault(node.layer, []).append(node)
    return {layer: uses for layer, uses in found.items() if len(uses) > 1}


def _why_not_alike(uses: list[OpNode]) -> str | None:
    wrong = next((node for node in uses if node.unquantizable), None)
    if wrong is not None:
        return f"its module is called several times, and of the call '{wrong.name}' holds: {wrong.unquantizable}"
    counts = sorted({len(node.edges) for node in uses})
    if len(counts) > 1:
        return f"its module is called several times, with {' and with '.join(map(str, counts))} inputs to quantize"
    return None
