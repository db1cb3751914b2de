"""Finds nn.ZeroPad2d and the like in front of a Conv2d: the padding becomes part of the layer (spec 8.3)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ....nn.module_hooks import has_hooks
from ....onnx_io.initializers import constant_of
from ....onnx_io.layer_sites import LayerSite, write_sites
from ....torch_private import pytree
from ...torchscript.exporter_leftovers import bypass
from ...user_model.model_state import run_example, unchanged
from ..forwards import FORWARD, FoldedForward, OriginalForward, replace_forward
from ..inner_call import CalledWith, CallingForward, make_inner

_AXES = 2


class PaddedConvolution(CallingForward):
    """The forward of a Conv2d that pads in front; the module that did so before returns its input."""


@dataclasses.dataclass
class _Seen:
    """What one run of the model shows of a padding or a convolution: how often it was called, and its tensors."""

    calls: int = 0
    read: Any = None
    result: Any = None


def find_paddings(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, PaddedConvolution]:
    """Returns, by path of the convolution, a forward that pads; the forwards of the paddings are replaced, in place.

    Both modules are called once, one reads the result of the other, and nothing else reads it.
    """
    pads = {module for module in model.modules() if _is_zero_padding(module)}
    convolutions = {path: module for path, module in model.named_modules() if path and _is_plain(module)}
    if not pads or not convolutions:
        return {}
    seen = {module: _Seen() for module in (*pads, *convolutions.values())}
    reads, result = _watched(model, inputs, seen)
    by_result = {id(one.result): module for module, one in seen.items() if module in pads and one.calls == 1}
    found = {}
    for path, conv in convolutions.items():
        pad = by_result.get(id(seen[conv].read)) if seen[conv].calls == 1 else None
        is_returned = any(leaf is seen[conv].read for leaf in pytree.tree_leaves(result))
        if pad is not None and reads[id(seen[conv].read)] == 1 and not is_returned:
            found[path] = _padded(conv, pad, seen[pad].read)
    return found


class _Original(OriginalForward):
    """The forward of a convolution behind a padding; if it is restored, that of the padding is, too."""

    def __init__(self, module: nn.Module, pad: OriginalForward) -> None:
        super().__init__(module)
        self._pad = pad

    def restore(self) -> None:
        """Makes the original forwards those of both modules again."""
        super().restore()
        self._pad.restore()


def _padded(conv: Any, pad: Any, x: Tensor) -> PaddedConvolution:
    original = _Original(conv, OriginalForward(pad))
    called = CalledWith(original, "conv2d", (pad(x),), {})
    settings = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "bias")}
    inner = make_inner(called, settings)
    inner.margins = tuple(pad.padding)
    forward = PaddedConvolution(inner, called)
    replace_forward(pad, FoldedForward(OriginalForward(pad)))
    replace_forward(conv, forward)
    return forward


def merge_pads(model: ir.Model, sites: Mapping[str, LayerSite], layers: Collection[str]) -> dict[str, LayerSite]:
    """Makes the Pad nodes in the sites of ``layers`` the ``pads`` of their Conv, in place; returns all sites."""
    nodes = {str(node.name): node for node in model.graph}
    merged = dict(sites)
    for layer in layers:
        own_nodes = {nodes[one].op_type: nodes[one] for one in sites[layer].nodes}
        pad, conv = own_nodes.get("Pad"), own_nodes["Conv"]
        if pad is None:  # the Conv was written with all pads
            continue
        added, own = constant_of(pad.inputs[1]), conv.attributes.get("pads")
        if added is None:
            continue
        begin, end = added[_AXES : 2 * _AXES], added[-_AXES:]  # of batch, channels, height, width
        before = [0] * (2 * _AXES) if own is None else own.as_ints()
        total = [int(a) + int(b) for a, b in zip(before, [*begin, *end], strict=True)]
        conv.attributes.add(ir.AttrInt64s("pads", total))
        bypass(pad)
        merged[layer] = LayerSite(
            nodes=tuple(one for one in sites[layer].nodes if one != pad.name), inputs={0: ((str(conv.name), 0),)}
        )
    write_sites(model, merged)
    return merged


def _watched(model: nn.Module, inputs: tuple[Any, ...], seen: dict[nn.Module, _Seen]) -> tuple[Counter[int], Any]:
    """Runs the model; returns how many functions read each result of a padding, by id, and the model's result."""
    handles = [module.register_forward_hook(_note(one)) for module, one in seen.items()]
    readers = _Readers(seen)
    try:
        with unchanged(model), readers:
            return readers.counted, run_example(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _note(seen: _Seen) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        seen.calls += 1
        seen.read, seen.result = args[0] if args else None, result

    return hook


class _Readers(TorchFunctionMode):
    def __init__(self, seen: dict[nn.Module, _Seen]) -> None:
        super().__init__()
        self.counted: Counter[int] = Counter()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func`` and counts the watched results that it reads."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.counted.update(id(leaf) for leaf in leaves if any(leaf is one.result for one in self._seen.values()))
        return func(*args, **(kwargs or {}))


def _is_zero_padding(module: nn.Module) -> bool:
    if not isinstance(module, nn.ConstantPad2d) or module.value != 0 or not _is_unchanged(module, nn.ConstantPad2d):
        return False
    return len(module.padding) == 2 * _AXES and min(module.padding) >= 0 and any(module.padding)


def _is_plain(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or type(module)._conv_forward is not nn.Conv2d._conv_forward:
        return False
    return module.padding_mode == "zeros" and "weight" in module._parameters and _is_unchanged(module, nn.Conv2d)


def _is_unchanged(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether ``module`` computes what its class ``base`` of torch computes, without hooks."""
    return type(module).forward is base.forward and FORWARD not in vars(module) and not has_hooks(module)
