"""Compares a traced graph with its model on the example, to find errors of code that a trace cannot see."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ....errors import UnsupportedModelError
from ....log import get_logger
from ....torch_private import pytree
from ...batches.batch_store import copied
from ...batches.example import Example
from ...batches.outputs import are_equal, output_tensors
from ...user_model.memory_of_calls import refuse_memory
from ...user_model.model_state import unchanged

_log = get_logger(__name__)

# Of the largest value, in float64. Constants of a graph are float32, so they agree to 6e-8 only.
_ROUNDING = 1e-6

Results = list[tuple[str, Any]]


def check_graph(model: nn.Module, traced: GraphModule, example: Example) -> None:
    """Runs ``model`` and its graph in eval mode on ``example``; the state of both is restored.

    Raises:
      UnsupportedModelError: The results differ by more than rounding; the text names the first module whose result
        differs. For a model in training mode this is a WARNING only, since its graph may hold branches of that mode.
    """
    with _eval_mode(model, traced):
        with torch.no_grad(), unchanged(model) as state:
            expected = copied(_call(model, example))
            has_changed = bool(state.changed_attributes())
        if has_changed:
            refuse_memory(model, lambda: _call(model, example))
        found = _run(model, traced, example)
        if _is_equal(found, expected):
            return
        if not _is_equal(_run(model, model, example), expected):
            _log.debug("The model gives another result in each run; its graph is not compared with it.")
            return
        if _differ_by_rounding(model, traced, example):
            _log.debug("The graph sums in another order than the model; in float64 both agree.")
            return
        place = _first_difference(model, traced, example)
    text = (
        f"The traced graph of {type(model).__name__} does not compute what the model computes on input_data: {place}."
        " The forward does what a trace cannot see, such as type(x) is Tensor, a branch on the mode, or NumPy."
    )
    if not model.training:
        raise UnsupportedModelError(text)
    _log.warning("%s The model is in training mode; create it from the model in eval mode to make this an error.", text)


def _run(model: nn.Module, run: nn.Module, example: Example) -> Any:
    with torch.no_grad(), unchanged(model):
        return copied(_call(run, example))


def _call(run: nn.Module, example: Example) -> Any:
    args, kwargs = copied((example.args, dict(example.kwargs)))
    return run(*args, **kwargs)


def _is_equal(one: Any, other: Any) -> bool:
    return are_equal(output_tensors(one), output_tensors(other))


def _differ_by_rounding(model: nn.Module, traced: GraphModule, example: Example) -> bool:
    """Whether both agree in float64: torch's fused kernels, as of attention, sum in another order than single calls.

    False if the model does not run in float64.
    """
    inputs = (example.args, dict(example.kwargs))
    wide, graph, (args, kwargs) = copy.deepcopy((model, traced, copied(inputs)))
    args, kwargs = pytree.tree_map(_in_float64, (args, kwargs))
    try:
        with torch.no_grad():
            expected, found = (copied(one.double()(*copied(args), **copied(kwargs))) for one in (wide, graph))
    except Exception as error:  # the user's forward may raise anything
        _log.debug("The model does not run in float64: %s", error)
        return False
    ours, theirs = output_tensors(found), output_tensors(expected)
    return len(ours) == len(theirs) and all(map(_is_near, ours, theirs))


def _in_float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _is_near(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    largest = expected[expected.isfinite()].abs().amax().item() if expected.isfinite().any() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=largest * _ROUNDING, equal_nan=True)


def _first_difference(model: nn.Module, traced: GraphModule, example: Example) -> str:
    """Returns a text that names the first module, called by both, whose results differ."""
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"} - hooked_paths(model)
    ours = results_of(traced, called, lambda: _run(model, traced, example))
    theirs = results_of(model, called, lambda: _run(model, model, example))
    return first_difference(ours, theirs, _is_equal)


def hooked_paths(model: nn.Module) -> set[str]:
    """Returns the modules of ``model`` with hooks of the user's, which are nodes of their own in a graph."""
    return {path for path, module in model.named_modules() if module._forward_hooks}


def first_difference(ours: Results, theirs: Results, is_equal: Callable[[Any, Any], bool]) -> str:
    """Returns a text that names the first of two runs' results that differs."""
    before = ""
    for (path, result), (other, expected) in zip(ours, theirs, strict=False):
        if path != other or not is_equal(result, expected):
            behind = f" (behind '{before}', which agrees)" if before else ""
            return f"'{path}' is the first module whose result differs{behind}"
        before = path
    return f"all modules agree up to '{before}'" if before else "its results differ"


def results_of(root: nn.Module, paths: Collection[str], run: Callable[[], Any]) -> Results:
    """Returns what the modules of ``root`` at ``paths`` give while ``run`` runs, in the order of their calls."""
    found: Results = []

    def note(path: str) -> Callable[..., None]:
        return lambda _module, _args, result: found.append((path, copied(result)))

    handles = []
    for path in sorted(paths):
        with contextlib.suppress(AttributeError):  # the path may exist in the graph only
            handles.append(root.get_submodule(path).register_forward_hook(note(path)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def _eval_mode(*models: nn.Module) -> Iterator[None]:
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training
