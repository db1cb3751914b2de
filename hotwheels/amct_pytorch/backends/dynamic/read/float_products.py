"""Says which products with a parameter are functions in a forward, so that the dynamic path leaves them in float."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from ....log import get_logger
from ....onnx_io.initializers import constant_of
from .export import MarkedExport

_log = get_logger(__name__)
_PRODUCTS = ("MatMul", "Einsum")  # a convolution or a Gemm in float is an error of the hardware's rules already


def tell_float_products(export: MarkedExport, model: nn.Module) -> None:
    """Logs one WARNING with the nodes that multiply the data with a parameter of ``model`` outside of all layers."""
    names = [str(node.name) for node in _products(export, model)]
    if names:
        _log.warning(
            "%d product(s) with a parameter of the model are called as functions and stay in float: %s. Put each into"
            " a module (nn.Linear, or a subclass with a forward of its own), or use the FX path: layers there.",
            len(names),
            ", ".join(names),
        )


def _products(export: MarkedExport, model: nn.Module) -> Iterator[ir.Node]:
    owned = {name for site in export.sites.values() for name in site.nodes}
    matrices = [one for one in model.parameters() if one.dim() == 2]
    for node in export.model.graph:
        if node.op_type in _PRODUCTS and str(node.name) not in owned:
            constants = (constant_of(value) for value in node.inputs)
            if any(one is not None and _is_any_of(one, matrices) for one in constants):
                yield node


def _is_any_of(content: NDArray[Any], matrices: list[nn.Parameter]) -> bool:
    shapes = (content.shape, content.shape[::-1])
    for one in matrices:
        if tuple(one.shape) in shapes:
            values = one.detach().float().cpu().numpy()
            if np.array_equal(content, values) or np.array_equal(content, values.T):
                return True
    return False
