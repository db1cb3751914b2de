"""One call of a function or module as a small ONNX graph, by torch's TorchScript-based exporter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from ...onnx_io.model_file import parse_model
from ..calls.leaves import map_leaves, tensors_in
from ..real_quant.known import is_known
from .aliases import FollowedAliases
from .baked_values import BakedValues
from .composed_calls import ComposedCalls
from .exporter_leftovers import clean_exporter_leftovers
from .torch_exporter import export_once

_CALL = "call"  # name of the module that is called
_CONSTANT, _INPUT = "constant_", "input_"  # with a number: names of the tensors among the arguments


@dataclasses.dataclass(frozen=True)
class Slot:
    """The source of an argument: input number ``index`` or, if ``is_constant``, constant number ``index``."""

    index: int
    is_constant: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TemplateCall:
    """A call with slots in place of its tensors.

    Attributes:
      function: The callable.
      args: Its arguments, with a `Slot` in place of each tensor and each size that depends on the inputs.
      kwargs: Its keyword arguments, likewise.
      inputs: Tensors with which the call is run.
      dynamic_axes: The axes of each input that may have other sizes.
      constants: The tensors that do not depend on the inputs.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Tensor]
    dynamic_axes: Sequence[Sequence[int]]
    constants: Sequence[Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExportedCall:
    """The nodes of one call, in a model from which they are moved into the graph.

    Attributes:
      model: The model.
      inputs: The value of each input of the call by its number; inputs that are not read are missing.
      constants: The tensors of the call by the name of the initializer, each with its name in the called module; the
        name is empty for an argument.
    """

    model: ir.Model
    inputs: Mapping[int, ir.Value]
    constants: Mapping[str, tuple[Tensor, str]]


def export_call(call: TemplateCall, opset: int) -> bytes:
    """Returns ``call`` as an ONNX model for `take_apart`.

    Raises:
      ExportError: The call fails, or it has no ONNX form.
      OpsetTooLow: The call has an ONNX form at a higher opset.
    """
    names = [f"{_INPUT}{index}" for index in range(len(call.inputs))]
    axes = {
        name: {axis: f"{name}_{axis}" for axis in found}
        for name, found in zip(names, call.dynamic_axes, strict=True)
        if found
    }
    setting = {"input_names": names, "dynamic_axes": axes, "opset_version": opset}
    module = _CallModule(call)
    content = export_once(module, tuple(call.inputs), setting)
    if not is_known(call.function):
        module.baked.report()
    return content


def take_apart(content: bytes, call: TemplateCall) -> ExportedCall:
    """Returns the nodes in ``content``, which `export_call` wrote for ``call`` or an equal call."""
    model = parse_model(content)
    clean_exporter_leftovers(model)
    numbers = {f"{_INPUT}{index}": index for index in range(len(call.inputs))}
    inputs = {numbers[str(value.name)]: value for value in model.graph.inputs}
    known = {f"{_CONSTANT}{index}": (tensor, "") for index, tensor in enumerate(call.constants)}
    if isinstance(call.function, nn.Module):
        state = (*call.function.named_parameters(), *call.function.named_buffers())
        known |= {f"{_CALL}.{name}": (tensor, name) for name, tensor in state}
    constants = {name: known[name] for name in model.graph.initializers if name in known}
    return ExportedCall(model=model, inputs=inputs, constants=constants)


def module_path(node_name: str) -> str:
    """Returns the path of a node inside the called module, from the exporter's name: ``/inner/conv``."""
    path = node_name.rpartition("/")[0]
    return path.removeprefix(f"/{_CALL}")


class _CallModule(nn.Module):
    """The call as a module: its forward takes the inputs and returns the tensors of the result."""

    def __init__(self, call: TemplateCall) -> None:
        super().__init__()
        self._template = call
        self.baked = BakedValues(len(call.inputs))
        for index, constant in enumerate(call.constants):
            self.register_buffer(f"{_CONSTANT}{index}", constant.detach())
        if isinstance(call.function, nn.Module):
            self.add_module(_CALL, call.function)
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        constants = [getattr(self, f"{_CONSTANT}{index}") for index in range(len(self._template.constants))]

        def filled(leaf: Any) -> Any:
            return (constants if leaf.is_constant else inputs)[leaf.index] if isinstance(leaf, Slot) else leaf

        call = self._template
        with ComposedCalls(), FollowedAliases(), self.baked:
            result = call.function(*map_leaves(filled, call.args), **map_leaves(filled, call.kwargs))
        return tuple(tensors_in(result))
