"""One call of a function or module as a small ONNX graph, by torch's TorchScript-based exporter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir
from torch import Tensor, nn

from ...onnx_io.model_file import parse_model
from ..calls.template_call import CALL, CONSTANT, CallModule, TemplateCall
from ..real_quant.known import is_known
from .aliases import FollowedAliases
from .baked_values import BakedValues
from .composed_calls import ComposedCalls
from .exporter_leftovers import clean_exporter_leftovers
from .torch_exporter import export_once


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


def export_call(call: TemplateCall, opset: int, baked: dict[str, None]) -> bytes:
    """Returns ``call`` as an ONNX model for `take_apart`.

    Adds the lines of a user's function to ``baked`` that read values in Python; see `report_baked`.

    Raises:
      ExportError: The call fails, or it has no ONNX form.
      OpsetTooLow: The call has an ONNX form at a higher opset.
    """
    names = call.input_names()
    axes = {
        name: {axis: f"{name}_{axis}" for axis in found}
        for name, found in zip(names, call.dynamic_axes, strict=True)
        if found
    }
    setting = {"input_names": names, "dynamic_axes": axes, "opset_version": opset}
    module = _TracedCall(call)
    content = export_once(module, tuple(call.inputs), setting)
    if not is_known(call.function):
        baked |= module.baked.lines
    return content


def take_apart(content: bytes, call: TemplateCall) -> ExportedCall:
    """Returns the nodes in ``content``, which an exporter wrote for ``call`` or an equal call."""
    model = parse_model(content)
    clean_exporter_leftovers(model)
    numbers = {name: index for index, name in enumerate(call.input_names())}
    inputs = {numbers[str(value.name)]: value for value in model.graph.inputs}
    known = {f"{CONSTANT}{index}": (tensor, "") for index, tensor in enumerate(call.constants)}
    if isinstance(call.function, nn.Module):
        state = (*call.function.named_parameters(), *call.function.named_buffers())
        known |= {f"{CALL}.{name}": (tensor, name) for name, tensor in state}
    constants = {name: known[name] for name in model.graph.initializers if name in known}
    return ExportedCall(model=model, inputs=inputs, constants=constants)


def module_path(node_name: str) -> str:
    """Returns the path of a node inside the called module, from the exporter's name: ``/inner/conv``."""
    path = node_name.rpartition("/")[0]
    return path.removeprefix(f"/{CALL}")


class _TracedCall(CallModule):
    """The call as it is traced; ``baked`` notes the values that the file has as constants."""

    def __init__(self, call: TemplateCall) -> None:
        super().__init__(call)
        self.baked = BakedValues(len(call.inputs))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors of the call's result."""
        with ComposedCalls(), FollowedAliases(), self.baked:
            return super().forward(*inputs)
