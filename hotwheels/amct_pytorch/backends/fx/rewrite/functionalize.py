"""Functionalize: replaces in-place operations by their out-of-place form, so that each of them can become a layer.

Spellings:
1. a module with ``inplace=True``;
2. ``F.relu(x, inplace=True)``;
3. ``F.relu_``, ``torch.abs_``;
4. ``Tensor.add_``;
5. ``operator.iadd``;
6. ``operator.setitem``, whose out-of-place form is `with_item`;
7. ``Tensor.copy_``, ``fill_`` and ``zero_``, which use only the shape and type of x;
8. ``torch.mul(x, y, out=z)``.

After the change to ``y = op(x)``, all later readers of x read y. If the memory of x is read later under other names,
these get new values too: the tensor of which x is a view is written with y in the place of x (`with_view`), and its
other views are taken again (`view_of`), in nodes called ``<operation>_view``. A model is refused if one of these views
is not known. A change of a parameter or buffer by a value computed from parameters and buffers alone becomes that value
and the call of `written` with it, in a node called ``<operation>_written``, if a second forward changes nothing
(`settled_writes`). Other changes of buffers, and operations without out-of-place form (``Tensor.uniform_``), stay and
are not quantizable; other changes of parameters are refused. Names and type strings of nodes do not change.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ....errors import UnsupportedModelError
from ....graph import Skip
from ....nn.computed_tensor import Tree
from ...calls.function_names import is_in_place_name
from ...calls.item_assignment import with_item
from ...calls.views import VIEWS, view_of, with_view
from ...calls.written_parameter import written
from ...real_quant.known import is_known
from ...user_model.written_parameters import ANEW, OF_DATA, text_of_change
from ..read.called import callable_of
from ..read.float_reason import mark_float
from ..read.memory import Alias, Memory, View, are_apart, is_known_to_share, lost_change, may_read_memory
from ..read.spelling import mark_in_place, mark_written, remember_spelling
from ..trace.guided.tracer import WRITES
from ..trace.proxies import IN_PLACE_OPERATORS
from .made_constants import copy_made_constants
from .settled_writes import unsettled_states
from .weight_sources import WeightSources

_NO_CHANGES = frozenset({"requires_grad_", "share_memory_"})


@dataclasses.dataclass(frozen=True)
class _OutOfPlace:
    """The callable of a node after the rewrite; the target is None if there is no out-of-place form.

    Attributes:
      target: Function, method or module.
      args: Its positional arguments.
      kwargs: Its keyword arguments.
      kind: The kind of node; empty for the kind of the operation itself.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    kind: str = ""


def functionalize(graph_module: GraphModule) -> tuple[Skip, ...]:
    """Rewrites ``graph_module`` in place; modules with ``inplace=True`` are replaced by copies, not changed.

    Returns:
      The operations on buffers that stayed in place, with the reason.

    Raises:
      UnsupportedModelError: Readers of another name of the memory would not, or may not, see the change. Or a parameter
        is changed in each forward anew.
    """
    copy_made_constants(graph_module, lambda node: _changed_value(node) if is_in_place(node, graph_module) else None)
    skips: list[Skip] = []
    memory, sources = Memory(graph_module), WeightSources(graph_module)
    writes = [node for node in graph_module.graph.nodes if node in sources and is_in_place(node, graph_module)]
    unsettled: set[str] = set()
    if writes:
        unsettled = unsettled_states(graph_module, writes, sources) | _states_changed_by_data(graph_module, sources)
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node in list(graph_module.graph.nodes):
        found, changed = _match(node, graph_module), _changed_value(node)
        if found is None or changed is None:
            _refuse_opaque_change(node, graph_module, memory, order)
            memory.add(node)
            continue
        own = memory[changed]
        others = [one for one in memory.sharing(own) if not are_apart(own.node, one.node)]
        root = own.lineage()[-1]
        state = "" if root.state is None else str(root.state.target)
        is_weight = bool(state) and node in sources and state not in unsettled
        reason = _reason_to_stay(found, node, [own, *others], is_weight)
        if reason is not None and is_parameter(root.state, graph_module):
            raise UnsupportedModelError(text_of_change(state, ANEW if node in sources else OF_DATA, node.stack_trace))
        others = [one for one in others if (is_weight and one is root) or _is_read_behind(one.node, order[node], order)]
        if reason is None or found.target is None:
            _refuse_unknown_views(node, own, others, is_fixed=reason is not None)
        if reason is None:
            _rewrite(node, found, order)
        else:
            mark_in_place(node, reason)
            if found.target is None:
                _read_result(node, changed, order, order[node])
            else:
                skips.append(Skip(node.name, reason))
        for new in [one for one in node.all_input_nodes if one not in memory]:
            memory.add(new)
        memory.renew(own, node)
        if is_weight:
            mark_float(node, f"it computes '{state}', which the forward writes")
        if reason is None:
            last = _write_state(own, node, memory, order, order[node])
            _renew_others(node, last, own, others, memory, order)
    _replace_modules(graph_module, {skip.name for skip in skips})
    return tuple(skips)


def _states_changed_by_data(graph_module: GraphModule, sources: WeightSources) -> set[str]:
    """Returns the names of the parameters and buffers that are changed in place by other nodes than ``sources``."""
    found: set[str] = set()
    memory = Memory(graph_module)
    for node in graph_module.graph.nodes:
        changed = None if _match(node, graph_module) is None else _changed_value(node)
        if changed is None:
            memory.add(node)
            continue
        own = memory[changed]
        memory.renew(own, node)
        state = own.lineage()[-1].state
        if state is not None and node not in sources:
            found.add(str(state.target))
    return found


def is_in_place(node: Node, graph_module: GraphModule) -> bool:
    """Whether a node of ``graph_module`` changes one of its operands."""
    return _match(node, graph_module) is not None


def _match(node: Node, graph_module: GraphModule) -> _OutOfPlace | None:
    """Returns the out-of-place form of an in-place operation; None for any other node."""
    if node.op == "call_module":
        is_in_place = getattr(graph_module.get_submodule(str(node.target)), "inplace", False) is True
        return _OutOfPlace(node.target, node.args, node.kwargs) if is_in_place else None
    if node.op == "call_method":
        name = str(node.target)
        if name == "__setitem__":  # of a constant; torch.fx records that of a traced value as operator.setitem
            return _OutOfPlace(with_item, node.args, node.kwargs, "call_function")
        return (
            _overwriting(node) or _OutOfPlace(_method(name), node.args, node.kwargs) if _ends_in_place(name) else None
        )
    if node.op != "call_function":
        return None
    if node.kwargs.get("inplace") is True:
        return _OutOfPlace(node.target, node.args, {**node.kwargs, "inplace": False})
    if isinstance(node.kwargs.get("out"), Node):
        return _OutOfPlace(node.target, node.args, {key: one for key, one in node.kwargs.items() if key != "out"})
    if node.target is operator.setitem:
        return _OutOfPlace(with_item, node.args, node.kwargs)
    if node.target in IN_PLACE_OPERATORS:
        return _OutOfPlace(IN_PLACE_OPERATORS[node.target], node.args, node.kwargs)
    is_in_place = _is_in_place_function(node.target)
    return _OutOfPlace(_function(node.target), node.args, node.kwargs) if is_in_place else None


def _overwriting(node: Node) -> _OutOfPlace | None:
    """Returns the form of a method that uses only shape and type of its tensor; None for other methods."""
    changed, *others = node.args
    if node.target == "zero_":
        return _OutOfPlace(torch.zeros_like, (changed,), {}, "call_function")
    if node.target == "fill_" and others and isinstance(others[0], (int, float)):
        return _OutOfPlace(torch.full_like, (changed, others[0]), {}, "call_function")
    if node.target == "copy_" and others:
        return _OutOfPlace("expand_as", (others[0], changed), {})
    return None


def _ends_in_place(name: str) -> bool:
    return is_in_place_name(name) and name not in _NO_CHANGES


def _is_in_place_function(function: Any) -> bool:
    """Whether ``function`` is an in-place function of torch; a final underscore in a user's function means nothing."""
    home = str(getattr(function, "__module__", None) or "torch")
    return home.partition(".")[0] == "torch" and _ends_in_place(getattr(function, "__name__", ""))


def _method(name: str) -> str | None:
    plain = name.removesuffix("_")
    return plain if callable(getattr(torch.Tensor, plain, None)) else None


def _function(function: Any) -> Any | None:
    name = function.__name__
    home = torch if getattr(torch, name, None) is function else F
    return getattr(home, name.removesuffix("_"), None)


def is_parameter(node: Node | None, graph_module: GraphModule) -> bool:
    """Whether ``node`` reads a parameter of ``graph_module``."""
    if node is None or node.op != "get_attr":
        return False
    return isinstance(Tree(graph_module).find(str(node.target)), nn.Parameter)


def _write_state(alias: Alias, node: Node, memory: Memory, order: Mapping[Node, int], place: int) -> Node:
    """Returns a new node that writes the value ``node`` of ``alias`` if that is a state; else ``node``."""
    if alias.state is None:
        return node
    with node.graph.inserting_after(node):
        new = node.graph.create_node(
            "call_function", written, (alias.state, node), {}, name=f"{node.name.removesuffix('_view')}_written"
        )
    new.stack_trace = node.stack_trace
    if "val" in alias.state.meta:
        new.meta["val"] = alias.state.meta["val"]
    memory.renew(alias, new)
    _read_result(new, node, order, place)
    return new


def _reason_to_stay(found: _OutOfPlace, node: Node, aliases: list[Alias], is_weight: bool) -> str | None:
    """Returns why the operation has to stay in place, and marks a buffer; None if it can be rewritten."""
    for one in aliases:
        if one.state is not None and not (is_weight and found.target is not None):
            mark_written(one.state)
            return f"it changes the parameter or buffer '{one.state.target}' in place"
    return f"'{node.target}' has no out-of-place form" if found.target is None else None


def _is_read_behind(node: Node, place: int, order: Mapping[Node, int]) -> bool:
    return any(order.get(user, -1) > place and may_read_memory(user) for user in node.users)


def _refuse_opaque_change(node: Node, graph_module: GraphModule, memory: Memory, order: Mapping[Node, int]) -> None:
    """Raises UnsupportedModelError if a later node reads what ``node``, a call of the user's code, changes in place."""
    if not node.meta.get(WRITES) or is_known(callable_of(graph_module, node)):
        return
    for changed in node.meta[WRITES]:
        if changed in memory and changed.op != "get_attr":
            own = memory[changed]
            if any(_is_read_behind(one.node, order[node], order) for one in (own, *memory.sharing(own))):
                raise UnsupportedModelError(lost_change(node, changed))


def _refuse_unknown_views(node: Node, own: Alias, others: list[Alias], is_fixed: bool) -> None:
    """Raises UnsupportedModelError if a reader of ``others`` cannot be given what ``own`` changes."""
    line = own.lineage()
    for other in others:
        common = next(one for one in line if one in other.lineage())
        up = [one.view for one in line[: line.index(common)]]
        down = [one.view for one in other.lineage()[: other.lineage().index(common)]]
        is_known = all(one is not None and one.name in VIEWS for one in up) and None not in down
        if is_fixed or not is_known:
            raise UnsupportedModelError(_refusal(node, other.node, is_known_to_share(own.node, other.node)))


def _renew_others(
    node: Node, last: Node, own: Alias, others: list[Alias], memory: Memory, order: Mapping[Node, int]
) -> None:
    """Gives ``others``, which are read behind ``node``, the values that they have after the change of ``own``.

    The new nodes are behind ``last``.
    """
    renewed = {own}
    after = last

    def add(alias: Alias, target: Callable[..., Any], operands: tuple[Node, ...], view: View | None) -> None:
        nonlocal after
        assert view is not None, "refused before"
        with node.graph.inserting_after(after):
            call = (*operands, view.name, view.args, view.kwargs, view.part)
            after = node.graph.create_node("call_function", target, call, {}, name=f"{node.name}_view")
        after.stack_trace = node.stack_trace
        if "val" in alias.node.meta:
            after.meta["val"] = alias.node.meta["val"]
        before = alias.node
        memory.renew(alias, after)
        _read_result(after, before, order, order[node])
        after = _write_state(alias, after, memory, order, order[node])
        renewed.add(alias)

    line = own.lineage()
    needed = max((next(at for at, one in enumerate(line) if one in other.lineage()) for other in others), default=0)
    for child, parent in itertools.pairwise(line[: needed + 1]):
        add(parent, with_view, (parent.node, child.node), child.view)
    for other in others:
        missing = list(itertools.takewhile(lambda one: one not in renewed, other.lineage()))
        for one in reversed(missing):
            assert one.parent is not None
            add(one, view_of, (one.parent.node,), one.view)


def _refusal(node: Node, other: Node, is_known: bool) -> str:
    line = f"\n  {node.stack_trace}" if node.stack_trace else ""
    shares = "shares" if is_known else "may share"
    remedy = "" if is_known else " If the two are different memory, pass input_data=, which shows it."
    return (
        f"'{node.name}' cannot become an operation that makes a new tensor, as quantized layers and exported files need"
        f" it: it changes '{other.name}' in place, which {shares} its memory and is read later under another name."
        f"{line}\nWrite it out of place: y = y + 1, not y += 1.{remedy}"
    )


def _changed_value(node: Node) -> Node | None:
    value = node.kwargs.get("out", node.args[0] if node.args else node.kwargs.get("input"))
    return value if isinstance(value, Node) else None


def _rewrite(node: Node, found: _OutOfPlace, order: Mapping[Node, int]) -> None:
    changed = _changed_value(node)
    remember_spelling(node)
    if node.target == "copy_" and changed is not None:
        found = dataclasses.replace(found, args=(_of_type(found.args[0], changed, node), changed))
    if changed is not None and "val" in changed.meta:
        node.meta["val"] = changed.meta["val"]  # an assignment has no result
    node.op = found.kind or node.op
    node.target, node.args, node.kwargs = found.target, found.args, dict(found.kwargs)
    _read_result(node, changed, order, order[node])


def _read_result(node: Node, changed: Node | None, order: Mapping[Node, int], place: int) -> None:
    """Makes readers of ``changed`` behind ``place`` read the result of ``node``."""
    for user in list(changed.users) if changed is not None else ():
        if changed is not None and order.get(user, -1) > place:
            user.replace_input_with(changed, node)


def _of_type(source: Any, changed: Node, node: Node) -> Any:
    """Returns ``source`` in the type of ``changed``: ``copy_`` converts."""
    types = [one.meta["val"].dtype for one in (source, changed) if isinstance(one.meta.get("val"), Tensor)]
    if len(types) == 2 and types[0] == types[1]:
        return source
    with node.graph.inserting_before(node):
        converted = node.graph.create_node("call_method", "type_as", (source, changed), {}, name=f"{node.name}_type")
    if len(types) == 2:
        converted.meta["val"] = source.meta["val"].to(types[1])
    return converted


def _replace_modules(graph_module: GraphModule, kept: set[str]) -> None:
    """Replaces in-place modules by out-of-place copies, unless a call of the module has to stay in place."""
    calls = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    kept_paths = {str(node.target) for node in calls if node.name in kept}
    for path in {str(node.target) for node in calls} - kept_paths:
        module = graph_module.get_submodule(path)
        if getattr(module, "inplace", False) is True:
            # A shallow copy, which shares parameters and hooks with the module of the user's model.
            replacement = copy.copy(module)
            replacement.inplace = False  # type: ignore[assignment]
            parent, _, name = path.rpartition(".")
            setattr(graph_module.get_submodule(parent), name, replacement)
