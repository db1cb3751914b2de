"""ExampleCall: the values of the example call that become inputs of the ONNX model, and those that become constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from ....errors import ExportError
from ....torch_private import pytree
from ...float_model import in_float32
from ..quant_graph_module import QuantGraphModule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleCall:
    """The arguments of one forward.

    Attributes:
      inputs: Arguments that hold tensors, in the order of ``forward``, on the CPU.
      names: Default names of the ONNX inputs, one for each tensor of ``inputs``.
      constants: The other arguments by name, given or default, which are no inputs of the ONNX model.
    """

    inputs: tuple[Any, ...]
    names: tuple[str, ...]
    constants: Mapping[str, Any]


def make_example_call(model: fx.GraphModule, given: tuple[Any, ...]) -> ExampleCall:
    """Returns the call of ``model`` with the positional arguments ``given``.

    Raises:
      ExportError: The number of arguments does not fit ``forward``, or no argument holds a tensor.
    """
    if isinstance(model, QuantGraphModule) and model.takes_other_floats:
        given = in_float32(given)
    values = _bind([node for node in model.graph.nodes if node.op == "placeholder"], given)
    inputs = {name: _on_cpu(value) for name, value in values.items() if _tensors(value)}
    if not inputs:
        raise ExportError("input_data holds no tensor, so the ONNX model would have no input.")
    names = tuple(one for name, value in inputs.items() for one in _names(name, len(_tensors(value))))
    constants = {name: value for name, value in values.items() if name not in inputs}
    return ExampleCall(inputs=tuple(inputs.values()), names=names, constants=constants)


def _bind(placeholders: list[fx.Node], given: tuple[Any, ...]) -> dict[str, Any]:
    names = [str(node.target) for node in placeholders]
    required = sum(not node.args for node in placeholders)
    if not required <= len(given) <= len(names):
        msg = (
            f"input_data has {len(given)} values, but forward takes {', '.join(names)}"
            f"{f' ({required} of them required)' if required < len(names) else ''}. Pass a tensor, or a tuple with one"
            " value for each argument."
        )
        raise ExportError(msg)
    defaults = {str(node.target): node.args[0] for node in placeholders[len(given) :]}
    return {**dict(zip(names, given, strict=False)), **defaults}


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _on_cpu(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, value)


def _names(argument: str, count: int) -> list[str]:
    return [argument] if count == 1 else [f"{argument}_{index}" for index in range(count)]
