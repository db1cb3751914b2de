"""ExampleCall: the values of the example call that become inputs of the ONNX model, and those that become constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from ....errors import ExportError
from ....torch_private import pytree
from ...batches.example import Example
from ...user_model.float_model import in_float32
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
    """Returns the call of ``model`` with the arguments ``given``; a dict in the last place may hold keyword arguments.

    Raises:
      ExportError: The number of arguments does not fit ``forward``, or no argument holds a tensor.
    """
    if isinstance(model, QuantGraphModule) and model.takes_other_floats:
        given = in_float32(given)
    values = _bind(_placeholders(model), Example.of(given, model.forward))
    inputs = {name: _on_cpu(value) for name, value in values.items() if _tensors(value)}
    if not inputs:
        raise ExportError("input_data holds no tensor, so the ONNX model would have no input.")
    names = tuple(one for name, value in inputs.items() for one in _names(name.strip("*"), len(_tensors(value))))
    constants = {name: value for name, value in values.items() if name not in inputs}
    return ExampleCall(inputs=_one_by_one(inputs), names=names, constants=constants)


def positional_inputs(model: fx.GraphModule, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the positional arguments of ``model`` that ``given`` stands for, defaults included.

    Raises:
      ExportError: ``forward`` takes another number of arguments.
    """
    return _one_by_one(_bind(_placeholders(model), Example.of(given, model.forward)))


def _one_by_one(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the values in order, those of ``*args`` one by one; those of ``**kwargs`` can only be none."""
    given = ((name, value) for name, value in values.items() if not name.startswith("**"))
    return tuple(one for name, value in given for one in (value if name.startswith("*") else (value,)))


def _placeholders(model: fx.GraphModule) -> list[fx.Node]:
    return [node for node in model.graph.nodes if node.op == "placeholder"]


def _bind(placeholders: list[fx.Node], given: Example) -> dict[str, Any]:
    names = [str(node.target) for node in placeholders]
    rest = next((at for at, name in enumerate(names) if name.startswith("*")), len(names))
    args = dict(zip(names[:rest], given.args, strict=False))
    more, unknown = given.args[rest:], {name: one for name, one in given.kwargs.items() if name not in names}
    variadic = {name: unknown if name.startswith("**") else more for name in names[rest:] if name.startswith("*")}
    values = {**args, **variadic, **{name: one for name, one in given.kwargs.items() if name in names}}
    kinds = {name.count("*") for name in variadic}
    missing = [str(node.target) for node in placeholders if not node.args and str(node.target) not in values]
    if missing or (more and 1 not in kinds) or (unknown and 2 not in kinds):
        required = sum(not node.args and not str(node.target).startswith("*") for node in placeholders)
        msg = (
            f"input_data has {len(given.args) + len(given.kwargs)} values, but forward takes {', '.join(names)}"
            f"{f' ({required} of them required)' if required < len(names) else ''}. Pass a tensor, or a tuple with one"
            " value for each argument."
        )
        raise ExportError(msg)
    if unknown:
        msg = (
            f"The model was traced without the keyword arguments {', '.join(map(repr, unknown))}. Give them in the"
            " input_data of create_quant_model_fx, too: they are then arguments of the quantized model."
        )
        raise ExportError(msg)
    return {
        name: values[name] if name in values else node.args[0] for name, node in zip(names, placeholders, strict=True)
    }


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _on_cpu(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, value)


def _names(argument: str, count: int) -> list[str]:
    return [argument] if count == 1 else [f"{argument}_{index}" for index in range(count)]
