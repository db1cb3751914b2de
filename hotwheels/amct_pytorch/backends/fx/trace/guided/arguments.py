"""The arguments of a guided trace: the arguments of the example with fake tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .....errors import UnsupportedModelError
from .....torch_private import pytree
from ....batches.example import Example
from .evaluation import Evaluator


def fake_arguments(arguments: Mapping[str, Any], evaluator: Evaluator, batch: tuple[int, int] | None) -> dict[str, Any]:
    """Returns ``arguments`` with fakes in place of tensors.

    ``batch`` is a pair: an axis 0 of the first length gets the second one, in all tensors.
    """

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if batch is None or not value.dim() or value.shape[0] != batch[0]:
            return evaluator.fake(value.detach())
        return evaluator.empty((batch[1], *value.shape[1:]), value)

    return {name: pytree.tree_map(fake, value) for name, value in arguments.items()}


def with_named_keywords(callee: Callable[..., Any], example: Example) -> Callable[..., Any]:
    """Returns ``callee`` with an argument of its own for each entry of ``**kwargs`` that ``example`` has.

    Those of ``*args`` in front of them are named ``args_0``, ``args_1``, ... Without such an entry, and if the example
    does not fit, ``callee`` is returned.
    """
    signature = inspect.signature(callee)
    try:
        given = signature.bind(*example.args, **example.kwargs).arguments
    except TypeError:
        return callee
    if not any(given.get(one.name) for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD):
        return callee

    def named(*args: Any, **kwargs: Any) -> Any:
        return callee(*args, **kwargs)

    every = list(signature.parameters.values())
    has_more = any(given.get(one.name) for one in every if one.kind is one.VAR_POSITIONAL)
    parameters = [one for each in every for one in _spread(each, given, has_more)]
    named.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return named


def as_example_calls(callee: Callable[..., Any], example: Example) -> Callable[..., Any]:
    """Returns ``callee``, which is called with the arguments that ``example`` gives, in the way it gives them."""
    signature = inspect.signature(callee)
    missing = omitted(callee, example)

    def called(*args: Any, **kwargs: Any) -> Any:
        values = signature.bind(*args, **kwargs).arguments
        named = {name: values.pop(name) for name in example.kwargs if name in values}
        rest = inspect.BoundArguments(signature, {name: one for name, one in values.items() if name not in missing})
        return callee(*rest.args, **rest.kwargs, **named)

    called.__signature__ = signature  # type: ignore[attr-defined]
    return called


def omitted(callee: Callable[..., Any], example: Example) -> frozenset[str]:
    """Returns the names of the arguments that ``example`` does not give."""
    signature = inspect.signature(callee)
    return frozenset(signature.parameters) - signature.bind(*example.args, **example.kwargs).arguments.keys()


def _spread(parameter: inspect.Parameter, given: Mapping[str, Any], has_more: bool) -> Iterator[inspect.Parameter]:
    """Yields the arguments for ``parameter``; with ``has_more`` behind the named ones, these have no defaults."""
    if parameter.kind is parameter.VAR_KEYWORD:
        for name in given.get(parameter.name, {}):
            yield inspect.Parameter(name, parameter.KEYWORD_ONLY)
    elif parameter.kind is parameter.VAR_POSITIONAL:
        for index in range(len(given.get(parameter.name, ()))):
            yield inspect.Parameter(f"{parameter.name}_{index}", parameter.POSITIONAL_OR_KEYWORD)
    else:
        is_named = parameter.kind is not parameter.KEYWORD_ONLY and has_more
        yield parameter.replace(default=parameter.empty) if is_named else parameter


def refuse_objects(arguments: Mapping[str, Any]) -> None:
    """Raises UnsupportedModelError for an object of a class of the user's that holds tensors."""
    for value in pytree.tree_leaves(dict(arguments)):
        held = () if isinstance(value, Tensor) else getattr(value, "__dict__", {}).values()
        if any(isinstance(one, Tensor) for one in held):
            msg = (
                f"input_data holds a {type(value).__name__}, an object with tensors in it, whose tensors would be"
                " constants of the graph. Let the forward take them as tensors, or in a tuple, list or dict; or make a"
                " dataclass known to torch: torch.export.register_dataclass."
            )
            raise UnsupportedModelError(msg)
