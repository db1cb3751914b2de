"""The state of the class in a source file: modules, parameters, buffers and, for a quantized model, the graph.

All are in one file, so that objects which two places share stay shared.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ....errors import UnsupportedModelError
from ..portable_graph import PortablePickler, portable
from ..quant_graph_module import QuantGraphModule

_REGISTRIES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
# The specs describe how torch.fx flattens nested arguments, if a graph has such arguments.
_ATTRIBUTES = ("training", "_in_spec", "_out_spec", "_takes_other_floats")


def dump_state(graph_module: fx.GraphModule) -> bytes:
    """Returns the content of the file.

    Raises:
      UnsupportedModelError: The graph module holds objects of classes, or functions, that cannot be imported.
    """
    state: dict[str, Any] = {name: getattr(graph_module, name) for name in _REGISTRIES}
    state["attributes"] = {name: getattr(graph_module, name) for name in _ATTRIBUTES if hasattr(graph_module, name)}
    if isinstance(graph_module, QuantGraphModule):
        state["graph"] = portable(graph_module.graph)
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
    """Returns the state that `dump_state` wrote to ``file``."""
    # The file holds modules, which weights_only refuses. It is as trusted as the Python code in the same folder.
    state: Mapping[str, Any] = torch.load(file, weights_only=False)
    return state


def restore(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Sets the state of ``module``, which is empty."""
    for name in _REGISTRIES:
        getattr(module, name).update(state[name])
    vars(module).update(state["attributes"])


# The part of the module pickle that torch.save uses.
_PICKLE = types.SimpleNamespace(__name__=pickle.__name__, Pickler=PortablePickler)
