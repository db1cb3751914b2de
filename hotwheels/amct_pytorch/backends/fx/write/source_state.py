"""What the class in a source file is filled with: modules, parameters, buffers and, of a quantized model, the graph.

All in one file, so that what two places share stays shared.
"""

from __future__ import annotations

import copy
import importlib
import io
import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ....errors import UnsupportedModelError
from ..quant_graph_module import QuantGraphModule

_REGISTRIES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
# The specs say how torch.fx takes nested arguments apart, where a graph has such.
_ATTRIBUTES = ("training", "_in_spec", "_out_spec", "_freezes_batch_norm", "_takes_other_floats")


def dump_state(graph_module: fx.GraphModule) -> bytes:
    """Returns the content of the file.

    Raises:
      UnsupportedModelError: It holds objects of classes, or functions, that cannot be imported.
    """
    state: dict[str, Any] = {name: getattr(graph_module, name) for name in _REGISTRIES}
    state["attributes"] = {name: getattr(graph_module, name) for name in _ATTRIBUTES if hasattr(graph_module, name)}
    if isinstance(graph_module, QuantGraphModule):
        state["graph"] = _portable(graph_module.graph)
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer, pickle_module=_PICKLE)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # what pickle raises
        msg = (
            f"The modules of {type(graph_module).__name__} cannot be saved: {error}. Classes and functions in them must"
            " stand at module level."
        )
        raise UnsupportedModelError(msg) from error
    return buffer.getvalue()


def read_state(file: Path) -> Mapping[str, Any]:
    """Returns what `dump_state` put into ``file``."""
    # It holds modules, which weights_only refuses; it is no checkpoint from elsewhere, but stands beside the code.
    state: Mapping[str, Any] = torch.load(file, weights_only=False)
    return state


def restore(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Fills ``module``, which has nothing yet."""
    for name in _REGISTRIES:
        getattr(module, name).update(state[name])
    vars(module).update(state["attributes"])


def look_up(home: str, name: str) -> Any:
    """Returns an attribute of a Python module; None if there is none."""
    try:
        return getattr(importlib.import_module(home), name, None)
    except ImportError:
        return None


def _portable(graph: fx.Graph) -> fx.Graph:
    """A copy without the module it belongs to, the classes that calls came from (they may be local ones) and fakes."""
    copied = copy.deepcopy(graph)
    for node in copied.nodes:
        for name in ("nn_module_stack", "val", "amct_writes"):
            node.meta.pop(name, None)
    return copied


class _Pickler(pickle.Pickler):
    """Also saves functions such as ``F.max_pool2d``, whose ``__qualname__`` is that of one inside another function."""

    def reducer_override(self, value: Any) -> Any:
        """Replaces a function by the name under which its module has it."""
        is_misnamed = isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__
        if is_misnamed and look_up(value.__module__, value.__name__) is value:
            return look_up, (value.__module__, value.__name__)
        return NotImplemented


_PICKLE = types.SimpleNamespace(__name__=pickle.__name__, Pickler=_Pickler)  # as much of a module as torch.save uses
