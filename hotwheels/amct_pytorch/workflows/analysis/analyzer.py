"""QuantAnalyzer: shows which layers of a quantized model lose accuracy (spec 14).

HiSilicon's AMCT manual, chapter "Error analysis" [误差分析功能的使用介绍].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...backends.batches.example import positional
from ...backends.calls.leaves import leaves
from ...backends.fx.float_prefix import FloatPrefix, WritesInPlace
from ...backends.fx.interpreters import NodeResult
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.write.example_call import positional_inputs
from ...errors import UnsupportedModelError
from ...files import check_folder, check_writable
from ...graph import Skip
from ...log import get_logger
from ...nn.mode import Mode
from ...nn.quantized_layer import QuantizedLayer
from ...plan.integer_share import IntegerShare
from ...report.analysis import (
    Analysis,
    Change,
    Difference,
    LayerChange,
    LayerEffect,
    LayerSettings,
    NodeSimilarity,
    compare,
    describe_change,
    floating_tensors,
    group_by_size,
    merged,
    why_incomparable,
)
from ...report.graph_boxes import draw_quantized
from ...torch_private import pytree
from ..arguments import as_inputs, check_model
from ..check.integer_share import measured_share
from ..data_batches import check_call
from ..kept_state import copies_of, kept_state
from ..quantized import quantized_inside, refuse_dynamic
from ..static import default_quantized_copy
from ..torch_contexts import in_full_precision
from .analysis_remarks import layer_settings, read_on, with_remarks

_log = get_logger(__name__)

# Bytes of float results, and as many of fake_quant, kept at a time; if there are more, the models run once per group.
_KEPT_BYTES = 1 << 29
_STATES = {"fake_quant": Mode.FAKE_QUANT, "real_quant": Mode.REAL_QUANT}

_Watch = Callable[[str, str, Tensor], None]  # node, name of the tensor, tensor


class QuantAnalyzer:
    """Compares a quantized model, layer by layer, with its float self and writes a report in three views.

    Args:
      model: Calibrated quantized model in any state, or a module that contains one; its state is restored afterwards.
        Or a float model: a copy of it is quantized with the default configuration and calibrated with ``inputs``
        and ``more_inputs``.
      inputs: The input of the model, a tensor or the positional arguments of its forward; a dict at their end holds
        keyword arguments.
      save_dir: Folder of the reports; created if it does not exist.
      more_inputs: Further batches, each like ``inputs``; the figures are those of all batches (`analysis.merged`).
      evaluate: Called with the quantized model in several states, returns a number such as an accuracy; the report
        shows the numbers. None: no such numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        save_dir: str | Path,
        *,
        more_inputs: Iterable[Any] = (),
        evaluate: Callable[[nn.Module], float] | None = None,
    ) -> None:
        function = "QuantAnalyzer"
        self._model = check_model(function, model)
        if not _is_quantized(model):
            refuse_dynamic(function, model)
        self._batches = [as_inputs(inputs), *map(as_inputs, more_inputs)]
        for at, batch in enumerate(self._batches):
            what = "argument 'inputs'" if at == 0 else f"batch {at - 1} of 'more_inputs'"
            check_call(function, what, batch, model)
        if evaluate is not None and not callable(evaluate):
            raise TypeError(f"{function}: argument 'evaluate' must be a function of the model, got {evaluate!r:.80}.")
        self._save_dir = check_folder(function, "save_dir", save_dir)
        self._evaluate = evaluate

    @in_full_precision
    @torch.no_grad()
    def analyze(self) -> dict[str, Any]:
        """Writes the reports and returns their numbers (`Analysis.as_dict`).

        One document in three views stands in ``index.html`` and under the three names below, each of which opens its
        view; ``report.json`` has the figures. ``quant.svg`` is the graph with the SQNR of every node in fake_quant.

        ``layerwise_analysis_report.html``: what each layer, quantized alone, does to the outputs; what lies in front of
        the layer is computed once. ``graphwise_analysis_report.html``: how far the result of every node is from float
        in fake_quant and in real_quant. ``statistic_analysis_report.html``: how outputs and weights of the layers are
        distributed before and after quantization. The ten worst layers come with the next step as a simple
        configuration.

        Raises:
          CalibrationError: The quantized model is not calibrated.
          UnsupportedModelError: The model returns something else than tensors, or tensors in tuples, lists and dicts;
            or the float model cannot be quantized.
        """
        check_writable("QuantAnalyzer", "save_dir", self._save_dir)  # not after minutes of computing
        name = _class_name(self._model)
        quantized = self._model if _is_quantized(self._model) else default_quantized_copy(self._model, self._batches)
        batches = [_by_position(quantized, batch) for batch in self._batches]
        with kept_state(quantized):
            comparisons = [_Comparison(quantized, batch, name) for batch in batches]
            analysis = merged([one.run() for one in comparisons])
            analysis = with_remarks(analysis, quantized, batches[0], self._evaluate)
        for skip in analysis.skipped:
            _log.debug("'%s' is not compared: %s.", skip.name, skip.reason)
        from ...report.html import (
            write_reports,  # here, because a page is written by libraries that no other call needs
        )

        written = write_reports(analysis, self._save_dir)
        if isinstance(quantized, QuantGraphModule) and quantized.origin is not None:
            similar = {one.name: one.fake_quant.sqnr_db for one in analysis.graphwise}
            picture = self._save_dir / "quant.svg"
            draw_quantized(quantized, quantized.origin.model.graph, picture, similar)
            written.append(picture)
        _log.info("Wrote %s.", ", ".join(f"'{path}'" for path in written))
        return analysis.as_dict()


class _Comparison:
    """One analysis of one quantized model, whose mode it changes."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], model_name: str) -> None:
        self._model = model.eval()  # one forward changes nothing for the next one
        self._inputs = inputs
        self._model_name = model_name
        self._graphs = _named_graphs(model)
        self._layers = {
            prefix + name: layer
            for prefix, graph in self._graphs.items()
            for name, layer in graph.quantized_layers.items()
        }
        self._node_of: dict[str, str] = {}  # by the name of the tensor, as all below
        self._sizes: dict[str, int] = {}
        self._changes: dict[str, LayerChange] = {}
        self._differences: dict[str, dict[str, Difference]] = {state: {} for state in _STATES}
        self._skipped: dict[str, str] = {}
        self._steps = {prefix + name: step for prefix, graph in self._graphs.items() for name, step in read_on(graph)}
        self._fakes: dict[str, Tensor] = {}
        self._lsbs: dict[str, float] = {}

    def run(self) -> Analysis:
        # Layerwise comes first: siblings of a layer quantized alone do not fetch the input that they share with the
        # layer, so that input stays in memory until the forwards with all layers quantized.
        wanted = self._run_watched(Mode.FLOAT, self._measure)
        layerwise = self._layerwise(wanted)
        outputs = self._graphwise(wanted)
        multiplications = self._multiplications()
        return Analysis(
            model=self._model_name,
            inputs=_in_words(self._inputs),
            layerwise=layerwise,
            graphwise=self._similarities(),
            statistic=tuple(self._changes.values()),
            outputs=outputs,
            skipped=tuple(Skip(name, reason) for name, reason in self._skipped.items()),
            multiplications=multiplications,
            settings=tuple(LayerSettings(name, layer_settings(layer)) for name, layer in self._layers.items()),
        )

    def _multiplications(self) -> IntegerShare | None:
        return measured_share(self._model, self._inputs) if isinstance(self._model, QuantGraphModule) else None

    def _measure(self, node: str, name: str, value: Tensor) -> None:
        self._node_of[name] = node
        self._sizes[name] = value.numel() * value.element_size()

    def _layerwise(self, wanted: list[Tensor]) -> tuple[LayerEffect, ...]:
        self._set_mode(Mode.FLOAT)
        found: dict[str, LayerEffect | None] = {}
        with tqdm(total=len(self._layers), desc="layerwise analysis", unit="layer") as bar:
            if isinstance(self._model, QuantGraphModule):
                with contextlib.suppress(WritesInPlace):
                    for layer, outputs in FloatPrefix(self._model, copies_of(self._inputs)).outputs():
                        found[layer.name] = self._effect(layer.name, wanted, _checked_outputs(outputs))
                        bar.update()
            # A layer must not overwrite what siblings in float read as well.
            with contextlib.ExitStack() as stack:
                for graph in self._graphs.values():
                    stack.enter_context(graph.keeping_inputs())
                for name, layer in self._layers.items():
                    if name not in found:
                        layer.mode = Mode.FAKE_QUANT
                        found[name] = self._effect(name, wanted, self._forward())
                        layer.mode = Mode.FLOAT
                        bar.update()
        return tuple(effect for effect in map(found.get, self._layers) if effect is not None)

    def _effect(self, name: str, wanted: list[Tensor], got: list[Tensor]) -> LayerEffect | None:
        layer = self._layers[name]
        if not layer.is_quantized:
            self._skipped[name] = "its inputs are not floating tensors"
            return None
        differences = self._compare_outputs(wanted, got, f"with {name} quantized")
        return LayerEffect(name=name, op=layer.op.name, outputs=differences) if differences else None

    def _graphwise(self, wanted: list[Tensor]) -> dict[str, dict[int, Difference]]:
        outputs: dict[str, dict[int, Difference]] = {}
        for names in tqdm(group_by_size(self._sizes, _KEPT_BYTES) or [set()], desc="graphwise analysis", unit="group"):
            outputs = self._compare_group(names, wanted)
        return outputs

    def _compare_group(self, names: set[str], wanted: list[Tensor]) -> dict[str, dict[int, Difference]]:
        """Compares the tensors ``names``, and returns the differences of the outputs, in every state."""
        floats = self._float_results(names)
        self._fakes.clear()
        outputs = {}
        for state, mode in _STATES.items():
            got = self._run_watched(mode, self._comparer(floats, state))
            outputs[state] = self._compare_outputs(wanted, got, f"in {state}")
        return outputs

    def _float_results(self, names: set[str]) -> dict[str, Tensor]:
        floats: dict[str, Tensor] = {}

        def keep(_node: str, name: str, value: Tensor) -> None:
            if name in names:
                floats[name] = value.detach().to("cpu", copy=True)  # a later operation may work in place

        self._run_watched(Mode.FLOAT, keep)
        return floats

    def _comparer(self, floats: dict[str, Tensor], state: str) -> _Watch:
        def compare_with_float(node: str, name: str, value: Tensor) -> None:
            if name not in floats:
                return
            before, after = floats[name], value.cpu()
            reason = why_incomparable(before, after)
            if reason is not None:
                self._skipped[name] = reason
                return
            self._differences[state][name] = compare(before, after)
            step = self._steps.get(node)
            if step is not None and state == "fake_quant":
                self._fakes[name] = after.clone()
            elif step is not None and name in self._fakes:
                self._lsbs[name] = float((after.double() - self._fakes.pop(name).double()).abs().max()) / step
            if state == "fake_quant" and node in self._layers:
                self._changes[name] = _layer_change(name, self._layers[node], describe_change(before, after))

        return compare_with_float

    def _similarities(self) -> tuple[NodeSimilarity, ...]:
        fake, real = (self._differences[state] for state in ("fake_quant", "real_quant"))
        return tuple(
            NodeSimilarity(
                name=name,
                is_quantized=node in self._layers,
                fake_quant=fake[name],
                real_quant=real[name],
                max_lsb=self._lsbs.get(name),
            )
            for name, node in self._node_of.items()
            if name in fake and name in real
        )

    def _compare_outputs(self, wanted: list[Tensor], got: list[Tensor], what: str) -> dict[int, Difference]:
        differences = {}
        for index, (before, after) in enumerate(zip(wanted, got, strict=True)):
            reason = why_incomparable(before, after)
            if reason is None:
                differences[index] = compare(before, after)
            else:
                self._skipped[f"output {index} {what}"] = reason
        return differences

    def _run_watched(self, mode: Mode, watch: _Watch) -> list[Tensor]:
        """Runs the model in ``mode``, calls ``watch`` with the floating results of its nodes; returns the outputs."""
        self._set_mode(mode)
        for prefix, graph in self._graphs.items():
            graph.watch_next_forward(_watcher(prefix, _operations(graph), watch))
        return self._forward()

    def _set_mode(self, mode: Mode) -> None:
        for graph in self._graphs.values():
            graph.mode = mode

    def _forward(self) -> list[Tensor]:
        return _checked_outputs(self._model(*copies_of(self._inputs)))


def _by_position(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``inputs`` with the keyword arguments of a dict at their end in their places."""
    if isinstance(model, QuantGraphModule):
        return positional_inputs(model, inputs)
    return positional(inputs, model.forward)


def _class_name(model: nn.Module) -> str:
    """The class of the user's model: a quantized one knows that of the model it was traced from."""
    origin = model.origin if isinstance(model, QuantGraphModule) else None
    return (origin.class_name if origin is not None else "") or type(model).__name__


def _is_quantized(model: nn.Module) -> bool:
    return any(isinstance(module, QuantGraphModule) for module in model.modules())


def _named_graphs(model: nn.Module) -> dict[str, QuantGraphModule]:
    """Returns the quantized graphs inside ``model``, by a prefix that makes the layer names unique."""
    quantized_inside("QuantAnalyzer", model)  # refuses DataParallel
    found = {f"{path}.": one for path, one in model.named_modules() if isinstance(one, QuantGraphModule)}
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _operations(graph: QuantGraphModule) -> frozenset[str]:
    """Returns the names of the nodes that compute; inputs and constants are equal in every state."""
    return frozenset(node.name for node in graph.graph.nodes if node.op.startswith("call_"))


def _watcher(prefix: str, names: frozenset[str], watch: _Watch) -> Callable[[NodeResult], None]:
    def show(node: NodeResult) -> None:
        if node.name in names:
            for name, value in floating_tensors(prefix + node.name, node.value):
                watch(prefix + node.name, name, value)

    return show


def _layer_change(name: str, layer: QuantizedLayer, output: Change) -> LayerChange:
    return LayerChange(name=name, op=layer.op.name, output=output, weight=_weight_change(layer))


def _weight_change(layer: QuantizedLayer) -> Change | None:
    if layer.weighted is None:
        return None
    weight, bias = (None if one is None else one.detach() for one in layer.weighted.op.folded())
    assert weight is not None
    params = layer.weighted.params(weight, bias)
    return describe_change(weight, layer.weighted.quantizer.fake_quantize(weight, params))


def _checked_outputs(outputs: Any) -> list[Tensor]:
    """Returns the outputs of the model as a list of tensors (spec 14)."""
    found = list(leaves(outputs))
    for index, one in enumerate(found):
        if not isinstance(one, Tensor):
            where = "output" if one is outputs else f"output {index}"
            msg = (
                f"QuantAnalyzer: the {where} of the model is of type {type(one).__name__}; it compares models which"
                " return tensors, also in tuples, lists and dicts. Wrap the model in a module that returns these."
            )
            raise UnsupportedModelError(msg)
    return found


def _in_words(inputs: tuple[Any, ...]) -> str:
    leaves = [one for one in pytree.tree_leaves(inputs) if isinstance(one, Tensor)]
    return ", ".join(f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in leaves)
