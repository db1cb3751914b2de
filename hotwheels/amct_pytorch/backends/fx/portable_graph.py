"""Graphs as bytes, with functions that pickle itself cannot save."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

from torch import fx

from ...nn.importable import is_misnamed, look_up


class PortablePickler(pickle.Pickler):
    """Also saves functions such as ``F.max_pool2d``; see `nn.importable`."""

    def reducer_override(self, value: Any) -> Any:
        """Replaces a function by the name under which its module has it."""
        return (look_up, (value.__module__, value.__name__)) if is_misnamed(value) else NotImplemented


def dump_graph(graph: fx.Graph) -> bytes:
    """Returns ``graph`` as bytes; raises what pickle raises if it calls functions that cannot be imported."""
    buffer = io.BytesIO()
    PortablePickler(buffer).dump(portable(graph))
    return buffer.getvalue()


def load_graph(content: bytes) -> fx.Graph:
    """Returns the graph that `dump_graph` made ``content`` of."""
    graph: fx.Graph = pickle.loads(content)
    return graph


def portable(graph: fx.Graph) -> fx.Graph:
    """Returns a copy without the owning module, the classes of callers (which may be local) and fake tensors."""
    copied = copy.deepcopy(graph)
    for node in copied.nodes:
        for name in ("nn_module_stack", "val", "amct_writes"):
            node.meta.pop(name, None)
    return copied
