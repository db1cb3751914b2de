"""A call with places for its tensors, and the module that runs it: what torch's exporters get of a single call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .leaves import map_leaves, tensors_in

CALL = "call"  # name of the module that is called
CONSTANT = "constant_"  # with a number: names of the constants in the module
INPUT = "input_"  # with a number: names of the inputs in the model


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

    def input_names(self) -> list[str]:
        """Returns the names of the inputs in the model."""
        return [f"{INPUT}{index}" for index in range(len(self.inputs))]


class CallModule(nn.Module):
    """The call as a module: its forward takes the inputs and returns the tensors of the result.

    Constants are buffers called ``constant_0``, ..., a module that is called is the submodule ``call``.
    """

    def __init__(self, call: TemplateCall) -> None:
        super().__init__()
        self._template = call
        for index, constant in enumerate(call.constants):
            self.register_buffer(f"{CONSTANT}{index}", constant.detach())
        if isinstance(call.function, nn.Module):
            self.add_module(CALL, call.function)
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors of the call's result."""
        constants = [getattr(self, f"{CONSTANT}{index}") for index in range(len(self._template.constants))]

        def filled(leaf: Any) -> Any:
            return (constants if leaf.is_constant else inputs)[leaf.index] if isinstance(leaf, Slot) else leaf

        call = self._template
        return tuple(tensors_in(call.function(*map_leaves(filled, call.args), **map_leaves(filled, call.kwargs))))
