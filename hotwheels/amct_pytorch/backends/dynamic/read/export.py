"""Exports a model once with markers around its candidate modules, and reads layer sites from the markers."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ....errors import ExportError
from ....graph import Edge
from ....log import get_logger
from ....nn.padding import Margins
from ....onnx_io.layer_sites import LayerSite
from ....onnx_io.model_file import name_outputs, parse_model
from ....onnx_io.node_access import operand
from ....onnx_io.opset import DEFAULT_OPSET, OpsetTooLow
from ....torch_private import pytree
from ...batches.export_names import Axes, input_names, labels_of, output_names, report_unused_axes
from ...batches.outputs import output_tensors
from ...calls.constant_calls import ConstantsBeforehand
from ...torchscript import markers
from ...torchscript.aliases import FollowedAliases
from ...torchscript.baked_values import BakedValues, report_baked
from ...torchscript.composed_calls import ComposedCalls
from ...torchscript.exporter_leftovers import bypass, clean_exporter_leftovers
from ...torchscript.marker_sites import INPUT_MARKER, MARKER_DOMAIN, resolve_markers
from ...torchscript.size_arithmetic import fold_size_arithmetic
from ...torchscript.torch_exporter import export_onnx
from ...torchscript.unexportable_pooling import refuse_divisor
from ...user_model.model_state import unchanged
from ...writer.example import DynamicAxis, Example, dynamic_axes_of, without_fixed
from ..forwards import MarkedForward, Marks, OriginalForward, call_name, replace_forward
from .candidates import Candidate
from .module_writer import ModuleWriter, SizeOfData
from .pad_nodes import take_pads
from .pads import merge_pads

_log = get_logger(__name__)
_SUFFIXES = {"Pad": "_pad", "Transpose": "_transpose"}  # spec 9.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarkedExport:
    """A float ONNX model whose nodes are named after the layers.

    Attributes:
      model: The model, without markers.
      sites: The place of each call of a candidate in the model, by layer name.
      edges: The quantizable inputs of each call, in the order of the site's indices, without producers.
      calls: How often each candidate was called, by path.
      makers: By call: path of the candidate that made the first argument of the call, if that was not changed since.
      exporter_names: For each node the name that torch's exporter gave it.
      own_forwards: Paths of the candidates whose forward was set on the instance.
      margins: Zeros in front of a module that are part of its layer, by path.
      unread: Numbers of the tensors of the example which the model does not read: they are no inputs of the files.
    """

    model: ir.Model
    sites: Mapping[str, LayerSite]
    edges: Mapping[str, tuple[Edge, ...]]
    calls: Mapping[str, int]
    makers: Mapping[str, str]
    exporter_names: Mapping[ir.Node, str]
    own_forwards: frozenset[str]
    margins: Mapping[str, Margins] = dataclasses.field(default_factory=dict)
    unread: frozenset[int] = frozenset()

    @property
    def paths(self) -> dict[str, str]:
        """The module path of each call, by the call's name."""
        return {call_name(path, number): path for path, count in self.calls.items() for number in range(count)}


def export_marked(
    model: nn.Module, candidates: Mapping[str, Candidate], inputs: tuple[Any, ...], setting: Mapping[str, Any]
) -> MarkedExport:
    """Exports ``model`` in eval mode; the state of the model is restored.

    ``setting`` holds ``input_names``, ``output_names`` and ``dynamic_axes`` of ``torch.onnx.export`` as far as the user
    gave them. Otherwise inputs are named after the arguments of ``forward``, outputs ``output`` or ``output_<i>``.

    Raises:
      ExportError: The call with ``inputs``, which hold a tensor, fails, or an operation has no ONNX form.
    """
    for path, one in model.named_modules():
        if isinstance(one, nn.AvgPool2d):
            refuse_divisor(path, one.divisor_override)
    given = {key: value for key, value in setting.items() if value is not None}
    names = input_names(given.get("input_names"), _input_names(model, inputs))
    axes = given.pop("dynamic_axes", {})
    named = {*names, *given.get("output_names", ())}  # the exporter knows no default names of outputs
    labels = {name: labels_of(name, one) for name, one in axes.items() if name in named}
    setting = {**given, "input_names": names, "dynamic_axes": labels}
    try:
        onnx_model, forwards, lines = _written(model, candidates, inputs, setting)
    except ExportError as error:
        _log.debug("torch's TorchScript exporter writes the model, since the writer does not: %s", error)
        try:
            onnx_model, forwards, lines = _exported(model, candidates, inputs, setting)
        except ExportError as second:
            if not isinstance(error, SizeOfData):
                raise ExportError(f"{str(second).rstrip('. ')}. The writer, which is tried first: {error}") from second
            onnx_model, forwards, lines = _written(model, candidates, inputs, setting, takes_sizes_of_data=True)
    report_baked(lines)
    unread = _unread(onnx_model, names)
    outputs = output_names(given.get("output_names"), len(onnx_model.graph.outputs), names)
    report_unused_axes(axes, names, outputs)
    name_outputs(onnx_model, outputs)
    _label_outputs(onnx_model, axes)
    return dataclasses.replace(_read(onnx_model, forwards), unread=unread)


# --- running ---

# The model, its marked forwards by path, and the user's lines whose values are constants of the model.
_Export = tuple[ir.Model, dict[str, MarkedForward], Iterable[str]]


def _written(
    model: nn.Module,
    candidates: Mapping[str, Candidate],
    inputs: tuple[Any, ...],
    setting: Mapping[str, Any],
    *,
    takes_sizes_of_data: bool = False,
) -> _Export:
    """Returns ``model``, written while it runs; an axis whose size decides something is static, with a WARNING.

    With ``takes_sizes_of_data`` sizes that depend on data are constants, which the user's lines say.

    Raises:
      ExportError: The writer does not cover the model.
    """
    opset, axes = DEFAULT_OPSET, None
    while True:
        with unchanged(model), _entered_with_tensors(model, inputs) as tensors:
            model.eval()
            given = dict(zip(setting["input_names"], tensors, strict=True))
            axes = dynamic_axes_of(given, setting["dynamic_axes"]) if axes is None else axes
            writer = ModuleWriter(model, _example(given, axes), opset, takes_sizes_of_data=takes_sizes_of_data)
            with _marked(candidates, writer) as forwards:
                try:
                    written = writer.write()
                except OpsetTooLow as error:
                    opset = error.opset
                    continue
        if not writer.fixed:
            return written, forwards, writer.lines
        axes = without_fixed(axes, writer.fixed)


def _example(given: Mapping[str, Tensor], axes: Sequence[DynamicAxis]) -> Example:
    if not axes:
        return Example(given)
    from ...writer.symbolic_example import SymbolicExample  # here, because symbols cost three seconds of import

    return SymbolicExample(given, axes)


def _exported(
    model: nn.Module, candidates: Mapping[str, Candidate], inputs: tuple[Any, ...], setting: Mapping[str, Any]
) -> _Export:
    """Returns ``model`` as torch's TorchScript exporter writes it.

    Raises:
      ExportError: The call with ``inputs`` fails, or an operation has no ONNX form.
    """
    baked = BakedValues(sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)))
    modes = (ComposedCalls(), ConstantsBeforehand(model), FollowedAliases(model), baked)
    with (
        unchanged(model),
        _marked(candidates, markers) as forwards,
        _counting_anew(model, forwards),
        _entered_with_tensors(model, inputs, modes) as tensors,
    ):
        model.eval()
        return parse_model(export_onnx(model, tensors, setting)), forwards, baked.lines


@contextlib.contextmanager
def _marked(candidates: Mapping[str, Candidate], marks: Marks) -> Iterator[dict[str, MarkedForward]]:
    forwards = {
        path: MarkedForward(path, candidate.op, OriginalForward(candidate.module), marks)
        for path, candidate in candidates.items()
    }
    try:
        for path, forward in forwards.items():
            replace_forward(candidates[path].module, forward)
        yield forwards
    finally:
        for forward in forwards.values():
            forward.original.restore()


@contextlib.contextmanager
def _counting_anew(model: nn.Module, forwards: Mapping[str, MarkedForward]) -> Iterator[None]:
    """Returns a context in which each run of ``model`` restarts the records: the exporter runs it once per opset."""

    def forget(*_: Any) -> None:
        for forward in forwards.values():
            forward.calls.clear()

    handle = model.register_forward_pre_hook(forget)
    try:
        yield
    finally:
        handle.remove()


class _EntryForward:
    """Takes only the tensors of ``input_data`` and calls the model with all of ``input_data``.

    Otherwise the exporter would make inputs of plain numbers, even of default values in the model's signature.
    """

    def __init__(self, original: OriginalForward, inputs: tuple[Any, ...], modes: Sequence[TorchFunctionMode]) -> None:
        self.original = original
        self._leaves, self._layout = pytree.tree_flatten(inputs)
        self._modes = modes

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the model and returns the tensors of its result; inputs that are no tensors are constants."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        with contextlib.ExitStack() as stack:
            for mode in self._modes:
                stack.enter_context(mode)
            return output_tensors(self.original(*pytree.tree_unflatten(leaves, self._layout)))


@contextlib.contextmanager
def _entered_with_tensors(
    model: nn.Module, inputs: tuple[Any, ...], modes: Sequence[TorchFunctionMode] = ()
) -> Iterator[tuple[Tensor, ...]]:
    """Returns a context in which ``model`` takes the tensors of ``inputs``, and calls torch under ``modes``."""
    # Copies, since a forward may change its inputs in place.
    tensors = tuple(leaf.clone() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
    forward = _EntryForward(OriginalForward(model), inputs, modes)
    try:
        replace_forward(model, forward)
        yield tensors
    finally:
        forward.original.restore()


def _unread(model: ir.Model, names: Sequence[str]) -> frozenset[int]:
    """Returns which of the tensors called ``names`` are no inputs of ``model``, and says so."""
    read = {str(value.name) for value in model.graph.inputs}
    unread = [at for at, name in enumerate(names) if name not in read]
    if unread:
        _log.warning("No output depends on %s: no input of the files.", ", ".join(f"'{names[at]}'" for at in unread))
    return frozenset(unread)


def _label_outputs(model: ir.Model, axes: Mapping[str, Axes]) -> None:
    """Gives the sizes of outputs that depend on the inputs their labels in ``axes``, in place."""
    for value in model.graph.outputs:
        sizes = list(value.shape or ())
        for axis, label in labels_of(str(value.name), axes.get(str(value.name), ())).items():
            if -len(sizes) <= axis < len(sizes) and not isinstance(sizes[axis], int):
                sizes[axis] = ir.SymbolicDim(label)
        if sizes:
            value.shape = ir.Shape(sizes)


def _input_names(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    arguments = _argument_names(model, len(inputs))
    names = []
    for argument, value in zip(arguments, inputs, strict=True):
        count = sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
        names += [argument] if count == 1 else [f"{argument}_{index}" for index in range(count)]
    return names


def _argument_names(model: nn.Module, count: int) -> list[str]:
    """Returns the names of the first ``count`` positional arguments; arguments of ``*args`` are numbered."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [*named, *(f"input_{index}" for index in range(len(named), count))][:count]


# --- reading ---


def _read(model: ir.Model, forwards: Mapping[str, MarkedForward]) -> MarkedExport:
    calls = {
        call_name(path, number): call for path, forward in forwards.items() for number, call in enumerate(forward.calls)
    }
    paths = {call_name(path, number): path for path, one in forwards.items() for number in range(len(one.calls))}
    edges = {name: call.edges for name, call in calls.items()}
    clean_exporter_leftovers(model)
    fold_size_arithmetic(model)
    kept = _settle_indices(model, edges)
    names = {node: str(node.name) for node in model.graph}
    padded = [name for name in calls if getattr(forwards[paths[name]].original.module, "margins", None)]
    sites = resolve_markers(model, _SUFFIXES)
    sites = merge_pads(model, sites, [name for name in padded if name in sites])
    margins = take_pads(model, sites, paths)
    return MarkedExport(
        model=model,
        sites=sites,
        edges={layer: kept[layer] for layer in sites},
        calls={path: len(forward.calls) for path, forward in forwards.items()},
        makers={name: call.maker for name, call in calls.items() if call.maker is not None},
        exporter_names={node: names.get(node, str(node.name)) for node in model.graph},
        margins=margins,
        own_forwards=frozenset(path for path, forward in forwards.items() if forward.original.is_own),
    )


def _settle_indices(model: ir.Model, edges: Mapping[str, tuple[Edge, ...]]) -> dict[str, tuple[Edge, ...]]:
    """Numbers the quantizable inputs of each layer from 0, in place; returns the remaining edges.

    Constant operands are removed, as on the FX path, and operands that no node of the exported model reads.
    """
    markers: dict[str, list[ir.Node]] = {}
    for node in list(model.graph):
        if node.domain == MARKER_DOMAIN and node.op_type == INPUT_MARKER:
            if operand(node, 0).is_initializer():
                bypass(node)
            else:
                markers.setdefault(node.attributes["layer"].as_string(), []).append(node)
    return {layer: _renumber(nodes, edges[layer]) for layer, nodes in markers.items()}


def _renumber(markers: list[ir.Node], edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    markers.sort(key=_index)
    kept = tuple(edges[_index(node)] for node in markers)
    for number, node in enumerate(markers):
        node.attributes["index"] = ir.AttrInt64("index", number)
    return kept


def _index(marker: ir.Node) -> int:
    return marker.attributes.get_int("index", 0)
