"""Checks that the nodes exported for a module are exactly the one operation of the module's type."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ....nn.in_projection import InProjection
from ....nn.weighted_call import WeightedCall
from ....onnx_io.initializers import constant_of
from .candidates import Candidate

# The node types allowed for a module whose forward was replaced: exactly the operation that is computed on integers.
PLAIN_BODIES = (("Conv",), ("ConvTranspose",), ("Gemm",), ("MatMul",), ("MatMul", "Add"))


def why_no_single_operation(candidate: Candidate, body: Sequence[ir.Node], has_own_forward: bool) -> str | None:
    """Returns why the layer cannot be quantized as one operation; None if it can (spec 9.1)."""
    types = [node.op_type for node in body]
    written = ", ".join(types)
    if sum(one in candidate.onnx_types for one in types) != 1:
        expected = " or ".join(sorted(candidate.onnx_types))
        return f"the exporter writes it as {written}, not as one {expected} node"
    if has_own_forward and candidate.op.is_cube and not _is_plain(types, candidate):
        return f"a forward was set on it that computes {written}; move all other operations out of that forward"
    if (
        candidate.op.has_weight
        and not isinstance(candidate.module, (WeightedCall, InProjection))
        and any(_computes_weight(node, candidate) for node in body)
    ):
        return "its weight is computed in every forward; make it a parameter first, e.g. with remove_spectral_norm"
    return None


def _is_plain(types: Sequence[str], candidate: Candidate) -> bool:
    if candidate.op.has_weight:
        return tuple(types) in PLAIN_BODIES
    return len(types) == 1 or (len(types) == 2 and types[0] == "Pad")


def _computes_weight(node: ir.Node, candidate: Candidate) -> bool:
    if node.op_type not in candidate.onnx_types:
        return False
    # A weight computed from parameters alone is a constant in the file, so the module is checked too.
    is_stored = "weight" in {**candidate.module._parameters, **candidate.module._buffers}
    return not is_stored or constant_of(node.inputs[1]) is None
