"""The layers that a type in a configuration matches, the same on both paths (spec 8.5, 9.4)."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import nearest_names
from ...graph import OpGraph, OpNode
from ...log import get_logger
from ...ops.spellings import is_custom_op, is_known, known_names, may_become, types_called
from ..arguments.unmatched import report_unmatched

_log = get_logger(__name__)


def is_of_type(node: OpNode, name: str) -> bool:
    """Whether ``name`` is a spelling of the type of ``node``, or the type of its ONNX node."""
    if name in (node.type, node.onnx_type) or node.type in types_called(name) or is_custom_op(node.type, name):
        return True
    is_exported = bool(node.onnx_name)  # its ONNX type is then known, not only the usual one
    return not is_exported and node.op is not None and node.op.name in may_become(name)


def report_types(graph: OpGraph, names: Iterable[str], where: str) -> None:
    """Reports those of ``names`` that are the type of no layer: unknown types as a WARNING, others at DEBUG."""
    unused = [name for name in dict.fromkeys(names) if not any(is_of_type(node, name) for node in graph.quantizable)]
    for name in filter(is_known, unused):
        _log.debug("%s: the model has no layer of type '%s'.", where, name)
    types = (one for node in graph.quantizable for one in (node.type, node.onnx_type) if one)
    known = tuple(dict.fromkeys((*types, *known_names())))
    report_unmatched(
        [name for name in unused if not is_known(name)],
        lambda name: f"{where}: there is no operation of type '{name}'. {nearest_names(name, known)}",
    )
