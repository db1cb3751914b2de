"""Example: the call of a model that ``input_data`` stands for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from ...errors import UnsupportedModelError
from ...torch_private import pytree


@dataclasses.dataclass(frozen=True)
class Example:
    """One call.

    Attributes:
      args: The positional arguments.
      kwargs: The keyword arguments.
      is_bare: Whether a trace leaves out arguments that the call does not give, instead of passing their defaults: a
        decorator may set one by its name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_bare: bool = False

    @classmethod
    def of(cls, inputs: tuple[Any, ...], forward: Callable[..., Any]) -> Example:
        """Returns the call described by ``inputs``.

        As in ``torch.onnx.export``, a dict in the last place holds keyword arguments if its keys are names of arguments
        of ``forward`` that are not given by position.
        """
        if inputs and isinstance(inputs[-1], dict) and _are_keywords(inputs, inspect.signature(forward)):
            return cls(inputs[:-1], inputs[-1])
        return cls(inputs)

    @property
    def batch_size(self) -> int | None:
        """The length of axis 0 of the first tensor that has axes; None if there is none."""
        tensors = [one for one in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(one, Tensor) and one.dim()]
        return tensors[0].shape[0] if tensors else None

    def arguments(self, forward: Callable[..., Any]) -> dict[str, Any]:
        """Returns the arguments of ``forward`` by name, with defaults; variadic names have ``*`` or ``**`` in front.

        Raises:
          UnsupportedModelError: ``forward`` cannot be called with these arguments.
        """
        signature = inspect.signature(forward)
        try:
            bound = signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            msg = (
                f"The model cannot be called with this input_data: {error}. Its forward takes {signature}; pass a"
                " tensor, or a tuple of its arguments."
            )
            raise UnsupportedModelError(msg) from error
        bound.apply_defaults()
        return {starred(signature.parameters[name]): value for name, value in bound.arguments.items()}


def _are_keywords(inputs: tuple[Any, ...], signature: inspect.Signature) -> bool:
    last = inputs[-1]
    if not all(isinstance(key, str) for key in last):
        return False
    try:
        signature.bind(*inputs[:-1], **last)
    except TypeError:
        return False
    if last:
        return True
    try:  # an empty dict means no keyword arguments, unless the forward needs it as an argument
        signature.bind(*inputs[:-1])
    except TypeError:
        return False
    return True


def positional(inputs: tuple[Any, ...], forward: Callable[..., Any]) -> tuple[Any, ...]:
    """Returns the positional arguments which ``inputs`` stand for: keyword arguments in their places, with defaults.

    Defaults behind the last given argument are left out.

    Raises:
      UnsupportedModelError: One of them cannot be given by position, or ``forward`` cannot be called so.
    """
    example = Example.of(inputs, forward)
    if not example.kwargs:
        return example.args
    signature = inspect.signature(forward)
    bound = signature.bind(*example.args, **example.kwargs)
    given = set(bound.arguments)
    bound.apply_defaults()
    while bound.arguments and next(reversed(bound.arguments)) not in given:
        bound.arguments.popitem()
    if bound.kwargs and set(bound.kwargs) & set(example.kwargs):
        raise UnsupportedModelError(keywords_refused(bound.kwargs))
    return bound.args


def keywords_refused(names: Iterable[str]) -> str:
    """Returns the text for arguments ``names`` that are only given by keyword."""
    given = list(names)
    return (
        f"{', '.join(map(repr, given))} can be given to forward by keyword only, which torch's exporter does not know."
        f" Name the arguments: def forward(self, x, {', '.join(given)}); or pass a module around the model whose"
        f" forward has them by position and calls self.model(x, {', '.join(f'{name}={name}' for name in given)})."
    )


def starred(parameter: inspect.Parameter) -> str:
    """Returns the name which a graph has for ``parameter``: with the stars of ``*args`` and ``**kwargs``."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    return f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
