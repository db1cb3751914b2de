"""Follows views and changes in place while torch's TorchScript exporter traces a model.

The exporter has one value for each tensor object. It does not know that ``h.permute(0, 2, 3, 1).add_(1)`` changes ``h``
too: that change is silently missing in the file. Here every view is noted with the call that made it. A change in place
of a tensor that shares memory is traced as a change of a copy. Then each tensor with the same memory gets a new value
in the trace: the viewed tensor by writing the changed part back into it, the other views by viewing it again. torch
itself computes on the original tensors, so the results of the model do not change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import ExportError
from ...torch_private import pytree
from ...torch_torchscript import is_tracing, not_tracing, trace_as
from ..calls.constant_calls import changes_in_place
from ..calls.item_assignment import joined_item
from ..calls.views import with_places

# Properties, and equivalent methods that the exporter supports; it would treat ``data`` as a constant.
_SPELLINGS: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (Tensor.data.__get__, Tensor.detach),  # type: ignore[attr-defined]
    (Tensor.mT.__get__, lambda x: x.transpose(-2, -1)),  # type: ignore[attr-defined]
)
# In-place methods by name that change no values.
_NO_CHANGES = frozenset({"requires_grad_", "detach_", "share_memory_", "squeeze_", "unsqueeze_", "transpose_", "t_"})


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """A view: tensor ``index`` in the result of ``function(*args, **kwargs)`` on the tensor ``parent``.

    Attributes:
      tensor: The view itself.
    """

    tensor: Tensor
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int
    parent: Tensor

    def of(self, parent: Tensor) -> Tensor:
        """Returns the same view of another tensor, which has the shape of the parent."""
        args, kwargs = pytree.tree_map(lambda leaf: parent if leaf is self.parent else leaf, (self.args, self.kwargs))
        return _tensors(self.function(*args, **kwargs))[self.index]


class FollowedAliases(TorchFunctionMode):
    """While this mode is active, a trace has every in-place change in all tensors that share the memory.

    A change of a parameter of ``model`` is left out: an earlier call has made it, and a second one changes nothing
    (`user_model.written_parameters`). The file then has the written parameter.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self._parameters = set() if model is None else {_memory(one) for one in model.parameters() if _has_memory(one)}
        self._views: dict[int, _View] = {}  # by the id of the tensor
        self._relatives: dict[int, list[Tensor]] = {}  # by memory; kept alive, so that ids and memory are not reused

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func`` such that the trace has all its changes."""
        kwargs = kwargs or {}
        if not is_tracing():
            return func(*args, **kwargs)
        func = next((spelling for other, spelling in _SPELLINGS if func == other), func)
        with not_tracing():
            target = _target(func, args, kwargs)
            has_relatives = target is not None and len(self._family(target)) > 1
            is_parameter = target is not None and _memory(target) in self._parameters
        if is_parameter:
            return None if getattr(func, "__name__", "") == "__setitem__" else target
        if target is not None and getattr(func, "__name__", "") == "__setitem__":
            joined = joined_item(*args)
            if joined is not NotImplemented:
                self._overwrite(target, joined)
                return None
        if target is not None and func is Tensor.copy_:
            return self._overwrite(target, args[1].to(target.dtype).expand_as(target))
        if target is not None and kwargs.get("out") is not None:  # the exporter does not support ``out``
            return self._overwrite(target, func(*args, **{name: one for name, one in kwargs.items() if name != "out"}))
        if target is not None and has_relatives:
            return self._change(target, func, args, kwargs)
        result = func(*args, **kwargs)
        with not_tracing():
            self._note(func, args, kwargs, result)
        return result

    # --- views ---

    def _note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Notes the tensors of ``result`` that are views of an argument."""
        given = [x for x in _tensors((args, kwargs)) if _has_memory(x)]
        for index, one in enumerate(_tensors(result)):
            if id(one) in self._views or not _has_memory(one) or any(one is x for x in given):
                continue
            parent = next((x for x in given if _memory(x) == _memory(one)), None)
            if parent is not None:
                self._views[id(one)] = _View(one, func, args, kwargs, index, parent)
                self._relatives.setdefault(_memory(one), [parent])
                self._relatives[_memory(one)] += [x for x in (parent, one) if not _is_in(x, self._family(one))]

    def _family(self, x: Tensor) -> list[Tensor]:
        return self._relatives.get(_memory(x), []) if _has_memory(x) else []

    # --- changes ---

    def _change(self, x: Tensor, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = x.clone()
        new_args = tuple(changed if leaf is x else leaf for leaf in args[:1]) + args[1:]
        new_kwargs = {name: changed if leaf is x else leaf for name, leaf in kwargs.items()}
        result = func(*new_args, **new_kwargs)
        self._overwrite(x, changed)
        return pytree.tree_map(lambda leaf: x if leaf is changed else leaf, result)

    def _overwrite(self, x: Tensor, value: Tensor) -> Tensor:
        """Copies ``value`` into ``x`` and returns ``x``; the trace records no copy, only the new value of ``x``."""
        with not_tracing():
            x.copy_(value)
        renewed = {id(x): value}
        child = x
        while id(child) in self._views:
            view = self._views[id(child)]
            renewed[id(view.parent)] = _put_back(view, renewed[id(child)])
            child = view.parent
        with not_tracing():
            family = self._family(x)
        for one in family:
            self._renew(one, renewed)
        for one in (x, *family):
            trace_as(one, renewed[id(one)])
        return x

    def _renew(self, x: Tensor, renewed: dict[int, Tensor]) -> Tensor:
        if id(x) not in renewed:
            view = self._views.get(id(x))
            if view is None:
                raise ExportError(
                    f"A tensor of shape {list(x.shape)} is changed in place and shares its memory with another tensor,"
                    " it is not known how. Change a copy: x = x.clone()."
                )
            renewed[id(x)] = view.of(self._renew(view.parent, renewed))
        return renewed[id(x)]


def _put_back(view: _View, value: Tensor) -> Tensor:
    """Returns the parent of ``view`` with the part of the view replaced by ``value``."""
    parent = view.parent
    with not_tracing():
        order, span = _permutation(view), _span(view)
        is_whole = view.tensor.numel() == parent.numel()
    if order is not None:
        return value.permute(order)
    if span is not None:
        return _put_span(parent, value, *span)
    if is_whole and view.tensor.is_contiguous() and parent.is_contiguous():
        return value.reshape(parent.shape)
    return with_places(parent, view.of, value)


def _permutation(view: _View) -> tuple[int, ...] | None:
    """Returns the permutation of the view's axes that gives the parent; None if the view is no permutation."""
    one, parent = view.tensor, view.parent
    axes = [(stride, size) for stride, size in zip(one.stride(), one.shape, strict=True)]
    wanted = [(stride, size) for stride, size in zip(parent.stride(), parent.shape, strict=True)]
    if one.storage_offset() != parent.storage_offset() or sorted(axes) != sorted(wanted):
        return None
    order: list[int] = []
    for axis in wanted:
        order.append(next(at for at, own in enumerate(axes) if own == axis and at not in order))
    return tuple(order)


def _span(view: _View) -> tuple[int, int, int, bool] | None:
    """Returns (axis, start, end, whether the view lacks the axis) of a range of one parent axis; else None."""
    one, parent = view.tensor, view.parent
    offset = one.storage_offset() - parent.storage_offset()
    for axis in range(parent.dim()):
        start = offset // parent.stride(axis) if parent.stride(axis) else 0
        if start * parent.stride(axis) != offset or start >= parent.shape[axis]:
            continue
        for lacks_axis in (False, True):
            length = 1 if lacks_axis or one.dim() <= axis else one.shape[axis]
            part = parent.narrow(axis, start, min(length, parent.shape[axis] - start))
            part = part.select(axis, 0) if lacks_axis else part
            if part.shape == one.shape and part.stride() == one.stride():
                return axis, start, start + length, lacks_axis
    return None


def _put_span(parent: Tensor, value: Tensor, axis: int, start: int, end: int, lacks_axis: bool) -> Tensor:
    value = value.unsqueeze(axis) if lacks_axis else value
    before = [parent[(*_all(axis), slice(0, start))]] if start else []
    with not_tracing():
        is_more = end < parent.shape[axis]
    behind = [parent[(*_all(axis), slice(end, None))]] if is_more else []
    return torch.cat([*before, value, *behind], axis) if before or behind else value


def _all(count: int) -> Iterator[slice]:
    return (slice(None) for _ in range(count))


def _target(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Returns the tensor that ``func`` changes in place; None if it changes none."""
    if not changes_in_place(func, kwargs) or getattr(func, "__name__", "") in _NO_CHANGES:
        return None
    target = kwargs["out"] if kwargs.get("out") is not None else next(iter((*args, *kwargs.values())), None)
    return target if isinstance(target, Tensor) and _has_memory(target) else None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_in(x: Tensor, tensors: list[Tensor]) -> bool:
    return any(one is x for one in tensors)


def _has_memory(x: Tensor) -> bool:
    return x.layout is torch.strided and not x.is_quantized and bool(x.numel())


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
