"""Makes layers of modules whose weight the forward of another module writes.

`functionalize` has made calls of `written` of the writes. A function that is called with a written weight is a function
with a computed weight (`weighted_calls`). A module that is called behind the write reads its parameter itself: here a
convolution or Linear becomes a module with computed weight, in the same node; before any other module the write stays
a node, which each forward runs.
"""

from __future__ import annotations

import copy

from torch import Tensor
from torch.fx import GraphModule, Node

from ....errors import UnsupportedModelError
from ....nn.computed_tensor import ComputedTensor, Step, Tree
from ...calls.written_parameter import written
from ...user_model.weight_hooks import tensor_hooks
from ...user_model.written_parameters import OF_DATA, text_of_change
from .weight_sources import WeightSources
from .weighted_calls import place_call


def place_written_weights(graph_module: GraphModule, keeps_states: bool = True) -> None:
    """Rewrites ``graph_module`` in place.

    Without ``keeps_states`` written parameters and buffers are replaced by copies, since reading a weight writes it.

    Raises:
      UnsupportedModelError: What is written depends on a buffer that the data change.
    """
    writes = [node for node in graph_module.graph.nodes if node.target is written]
    if not writes:
        return
    if not keeps_states:
        _own_copies(graph_module, writes)
    sources, tree = WeightSources(graph_module), Tree(graph_module)
    for write in writes:
        if write not in sources:
            raise UnsupportedModelError(text_of_change(_target(write), OF_DATA, write.stack_trace))
    present: dict[Tensor, Node] = {}
    for node in graph_module.graph.nodes:
        if node.target is written:
            present[tree.find(_target(node))] = node
        elif present and node.op == "call_module":
            _give_weights(graph_module, node, present, sources)


def _give_weights(graph_module: GraphModule, node: Node, present: dict[Tensor, Node], sources: WeightSources) -> None:
    """Makes the module that ``node`` calls one with computed weight if its parameters are written before."""
    path = str(node.target)
    module = graph_module.get_submodule(path)
    if tensor_hooks(module) or not any(one in present for one in module.parameters(recurse=False)):
        return
    found: dict[str, ComputedTensor | None] = {"weight": None, "bias": None}
    for name, parameter in module.named_parameters(recurse=False):
        write = present.get(parameter)
        found[name] = (
            ComputedTensor(f"{path}.{name}", sources.tree, (Step(f"{path}.{name}"),))
            if write is None
            else sources.tensor(write)
        )
    place_call(graph_module, node, module, **found)


def _target(write: Node) -> str:
    """Returns the name of the parameter or buffer that a call of `written` writes."""
    state = write.args[0]
    assert isinstance(state, Node)
    return str(state.target)


def _own_copies(graph_module: GraphModule, writes: list[Node]) -> None:
    """Gives ``graph_module`` copies of the written parameters and buffers, under all of their names."""
    tree = Tree(graph_module)
    states = {id(one): one for one in (tree.find(_target(write)) for write in writes)}
    copies = {key: copy.deepcopy(one) for key, one in states.items()}
    for module in graph_module.modules():
        for registry in (module._parameters, module._buffers):
            registry.update({name: copies[id(one)] for name, one in registry.items() if id(one) in copies})
