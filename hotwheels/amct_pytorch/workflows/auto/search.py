"""The search: from sensitivities and costs to one configuration, and the curve of what else was possible."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ...backends.fx.backend import FxBackend
from ...backends.fx.quant_graph_module import QuantGraphModule
from ...backends.fx.write.example_call import positional_inputs
from ...config.fx.expand import expand
from ...config.fx.yaml_writer import to_simple_yaml
from ...config.layers.quant_config import LayerConfig, QuantConfig
from ...config.layers.refine_config import RefineConfig
from ...core.metrics import ratio_db
from ...errors import ConfigError
from ...log import get_logger
from ...ops.desc import Role
from ...ops.registry import Registry
from ...plan.bit_search import Option, Options, Tie, cheapest, quietest
from ...plan.configured_graph import ConfiguredGraph
from ...plan.cost_model import CostModel
from ..refine.refine_model import refine_graph
from .found import AutoQuantization, LayerChoice, Point, described
from .sensitivity import Batch, Sensitivity, calibrated, measure, output_sqnr
from .settings import FLOAT, Setting, config_with, may_stay_in_float, weight_bits, widths

_log = get_logger(__name__)
_WIDEST = 16  # bits of data
_POINTS = 12  # on the curve
_ROUNDING = 1e-6  # so that a limit which is the value of a choice lets that choice pass
_LEAST_NOISE = 1e-30
_TRIES = 5  # how often the limit for the predicted noise is moved by what the measured model is off
_MARGIN_DB = 0.05
_CLOSE_DB = 2.0  # by which a prediction may be off
_LESS = (0.98, 0.95)  # of a budget: further solutions to judge

Evaluate = Callable[[nn.Module], float]
Choice = Mapping[str, Option]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is wanted; exactly one of ``target`` and ``budget`` is given.

    Attributes:
      settings: The widths to choose from, W8A8 first.
      target: The least SQNR in dB, or value of ``evaluate``, at the least cost.
      budget: The highest cost, in units of W8A8 everywhere, for the best SQNR.
      evaluate: The user's metric, larger is better; None: the SQNR at the output.
      costs: What layers cost.
      refines: Whether the configuration asks for refinement.
      seed: Of everything random.
      progress: Whether progress bars are shown.
      folder: Where finished work is kept; None: nowhere.
    """

    settings: Sequence[Setting]
    target: float | None
    budget: float | None
    evaluate: Evaluate | None
    costs: CostModel
    refines: bool
    seed: int
    progress: bool
    folder: Path | None


def search(model: nn.Module, batches: Sequence[Batch], task: Task) -> AutoQuantization:
    """Returns the configuration that fulfils ``task``.

    Raises:
      ConfigError: There is none.
    """
    return _Search(model, batches, task).run()


class _Search:
    def __init__(self, model: nn.Module, batches: Sequence[Batch], task: Task) -> None:
        self._model = model
        self._batches = batches
        self._task = task
        backend = FxBackend(model, Registry(), copies_tensors=False, inputs=batches[0])
        self._graph = backend.graph()
        self._defaults = expand(self._graph, None)
        self._configs = self._configs_for(len(batches))
        self._configured = backend.origin(self._graph, next(iter(self._configs.values()))).model
        found = measure(model, self._configs, batches, seed=task.seed, progress=task.progress, folder=task.folder)
        self._unit = self._cost_of(found, next(iter(self._configs)))
        self._options = self._make_options(found)
        self._ties = _ties(self._configured, self._options)

    def run(self) -> AutoQuantization:
        task = self._task
        choice, chosen = self._for_target() if task.budget is None else self._within(task.budget)
        _log.info("auto_quantize: %s.", described("chosen", chosen))
        return AutoQuantization(
            text=to_simple_yaml(self._config(choice, len(self._batches)), self._title(chosen)),
            chosen=chosen,
            uniform=tuple(self._uniform(name) for name in self._configs),
            curve=tuple(self._point(one) for one in self._curve()),
            layers={
                name: LayerChoice(
                    setting=choice[name].name,
                    noise={one.name: one.noise for one in options},
                    cost={one.name: one.cost for one in options},
                )
                for name, options in self._options.items()
            },
            float_measured=None if task.evaluate is None else task.evaluate(self._model),
        )

    def _within(self, budget: float) -> tuple[Choice, Point]:
        """Returns the best of some configurations that cost no more, as judged by pictures that did not calibrate it.

        These are the quietest ones by prediction, for the budget and for a little less, and the simple ones.
        Predictions are sums of independent noises, and know no value that calibration has not seen.
        """
        quiet = quietest(self._options, self._ties, budget)
        if quiet is None:
            has_narrow = any(one.weight != "8" for one in self._task.settings)
            hint = "" if has_narrow else ", or weights of 4 bits"
            raise ConfigError(
                f"auto_quantize: no configuration costs {budget:g} or less; the cheapest costs"
                f" {self._least_cost():.3f}. Give a larger budget{hint}."
            )
        least = self._point(quiet).predicted_db - _CLOSE_DB
        others = [quietest(self._options, self._ties, budget * share) for share in _LESS]
        simple = [one for one in self._simple() if _sum(one, "cost") <= budget * (1 + _ROUNDING)]
        candidates = [one for one in (quiet, *others, *simple) if one is not None]
        close = [one for one in candidates if self._point(one).predicted_db >= least]
        distinct = {tuple(option.name for option in one.values()): one for one in close}
        best = max(distinct.values(), key=self._judged) if len(distinct) > 1 else quiet
        return best, self._point(best, self._measured(best))

    def _judged(self, choice: Choice) -> float:
        """Returns what ``evaluate`` returns, or the SQNR on halves of the batches, calibrated with the other half."""
        halves = self._batches[::2], self._batches[1::2]
        if self._task.evaluate is not None or not halves[1]:
            return self._measured(choice)
        found = [output_sqnr(self._quantized(choice, halves[1 - at]), halves[at]) for at in (0, 1)]
        return ratio_db(len(found), math.fsum(10.0 ** (-one / 10.0) for one in found))

    def _simple(self) -> list[Choice]:
        """Returns, for each setting, that setting everywhere, and on the CUBE only; where the rules allow it.

        The latter once with pooling in float and once with pooling quantized, as in the sample ``cube_only_8bit.yaml``.
        """
        choices: list[Choice] = []
        for setting in self._configs:
            everywhere = self._everywhere(setting)
            floats = {name: o for name, os in self._options.items() for o in os if o.name == FLOAT}
            pooling = {name for name in floats if self._role(name) in (Role.MAX_POOL, Role.AVG_POOL)}
            without_pooling = {name: o for name, o in floats.items() if name not in pooling}
            choices += [everywhere, {**everywhere, **floats}, {**everywhere, **without_pooling}]
        return [one for one in choices if self._keeps_ties(one)]

    def _role(self, layer: str) -> Role | None:
        op = self._graph.layers[layer].op
        return None if op is None else op.role

    def _keeps_ties(self, choice: Choice) -> bool:
        """Whether tied inputs have one width; where only the CUBE is quantized, float beside it is allowed (13.1)."""
        is_cube_only = all(one.name == FLOAT or self._graph.layers[name].is_cube for name, one in choice.items())
        pairs = [(choice[a].widths[i], choice[b].widths[j]) for (a, i), (b, j) in self._ties]
        return all(one == other or (is_cube_only and None in (one, other)) for one, other in pairs)

    def _everywhere(self, setting: str) -> Choice:
        """Returns the choice of one setting, as far as layers can have it."""
        return {name: next((o for o in os if o.name == setting), os[0]) for name, os in self._options.items()}

    def _for_target(self) -> tuple[Choice, Point]:
        """Returns the cheapest configuration whose measured value reaches the target."""
        target = self._task.target
        assert target is not None
        if self._task.evaluate is not None:
            return self._along_curve(target)
        wanted, best = target, -math.inf
        found: tuple[Choice, Point] | None = None
        tried: set[str] = set()
        for _ in range(_TRIES):
            choice = cheapest(self._options, self._ties, 10.0 ** (-wanted / 10.0))
            if choice is None or (names := str([one.name for one in choice.values()])) in tried:
                break
            tried.add(names)
            point = self._point(choice, self._measured(choice))
            assert point.measured is not None
            best = max(best, point.measured)
            if point.measured >= target and (found is None or point.cost < found[1].cost):
                found = choice, point
            wanted = point.predicted_db + target - point.measured + _MARGIN_DB
        if found is None:
            raise ConfigError(self._missed(target, best))
        return found

    def _along_curve(self, target: float) -> tuple[Choice, Point]:
        """By bisection: the metric is taken to grow with the cost along the curve."""
        curve, best = self._curve(), -math.inf
        low, high, found = 0, len(curve) - 1, None
        while low <= high:
            middle = (low + high) // 2
            point = self._point(curve[middle], self._measured(curve[middle]))
            assert point.measured is not None
            best = max(best, point.measured)
            if point.measured >= target:
                found, high = (curve[middle], point), middle - 1
            else:
                low = middle + 1
        if found is None:
            raise ConfigError(self._missed(target, best))
        return found

    def _missed(self, target: float, best: float) -> str:
        reached = "" if math.isinf(best) else f"; the best that was measured is {best:.4g}"
        widest = max(one.data_bits for one in self._task.settings)
        ways = [
            "a lower target",
            *(["more data_bits"] if widest < _WIDEST else []),
            *([] if self._task.refines else ["refine=True"]),
        ]
        return f"auto_quantize: no configuration reaches the target {target:g}{reached}. Give {' or '.join(ways)}."

    def _curve(self) -> list[Choice]:
        """The cheapest choices for a row of noises, in even steps of dB, from the cheapest of all to the quietest."""
        most = sum(max(one.cost for one in options) for options in self._options.values())
        best = quietest(self._options, self._ties, most)
        assert best is not None
        loudest = quietest(self._options, self._ties, self._least_cost() * (1 + _ROUNDING))
        assert loudest is not None
        first, last = (max(_sum(one, "noise"), _LEAST_NOISE) for one in (loudest, best))
        noises = np.geomspace(first, last, _POINTS)
        found = [cheapest(self._options, self._ties, float(noise) * (1 + _ROUNDING)) for noise in noises]
        by_setting = {tuple(one.name for one in choice.values()): choice for choice in found if choice is not None}
        return list(by_setting.values())

    def _least_cost(self) -> float:
        choice = cheapest(
            self._options, self._ties, math.fsum(max(o.noise for o in os) for os in self._options.values())
        )
        assert choice is not None
        return _sum(choice, "cost")

    def _uniform(self, setting: str) -> Point:
        """The predicted values of a configuration with one setting everywhere, as far as layers can have it."""
        return dataclasses.replace(self._point(self._everywhere(setting)), name=setting)

    def _point(self, choice: Choice, measured: float | None = None) -> Point:
        return Point(cost=_sum(choice, "cost"), predicted_db=ratio_db(1.0, _sum(choice, "noise")), measured=measured)

    def _measured(self, choice: Choice) -> float:
        quantized = self._quantized(choice, self._batches)
        evaluate = self._task.evaluate
        return output_sqnr(quantized, self._batches) if evaluate is None else float(evaluate(quantized))

    def _quantized(self, choice: Choice, batches: Sequence[Batch]) -> QuantGraphModule:
        config = self._config(choice, len(batches))
        quantized = calibrated(self._model, dataclasses.replace(config, refine=None), batches)
        if (refine := config.refine) is not None:
            inputs = [positional_inputs(quantized, batch) for batch in batches]
            progress = self._task.progress
            refine_graph(quantized, inputs, refine.methods, seed=refine.seed, progress=progress, resume_dir=None)
        return quantized

    def _config(self, choice: Choice, batches: int) -> QuantConfig:
        configs = self._configs_for(batches)
        layers = dict(self._defaults.layers)
        for name, option in choice.items():
            is_float = option.name == FLOAT
            layers[name] = (
                dataclasses.replace(layers[name], quant_enable=False) if is_float else configs[option.name].layers[name]
            )
        return QuantConfig(layers, RefineConfig() if self._task.refines else None)

    def _configs_for(self, batches: int) -> dict[str, QuantConfig]:
        """Returns the configuration of each setting for a calibration with so many batches."""
        settings = self._task.settings
        return {one.name: config_with(self._graph, self._defaults, one, batches) for one in settings}

    def _make_options(self, found: Sensitivity) -> Options:
        options: dict[str, list[Option]] = {}
        for name, work in found.work.items():
            seen: list[LayerConfig] = []
            options[name] = []
            for setting, config in self._configs.items():
                layer = config.layers[name]
                if layer in seen:  # a setting that this layer cannot have, or that changes nothing in it
                    continue
                seen.append(layer)
                cost = self._task.costs.cost(work, _widest(widths(layer)), weight_bits(layer)) / self._unit
                noise = found.noise[setting].get(name, 0.0)  # of a layer that puts out no floats
                options[name].append(Option(name=setting, cost=cost, noise=noise, widths=widths(layer)))
            if may_stay_in_float(self._graph.layers[name]):
                cost = self._task.costs.cost(work, None, weight_bits(seen[0])) / self._unit
                options[name].append(
                    Option(name=FLOAT, cost=cost, noise=0.0, widths=(None,) * len(seen[0].activations))
                )
        return options

    def _cost_of(self, found: Sensitivity, setting: str) -> float:
        layers = self._configs[setting].layers
        costs = (
            self._task.costs.cost(work, _widest(widths(layers[name])), weight_bits(layers[name]))
            for name, work in found.work.items()
        )
        return math.fsum(costs) or 1.0

    def _title(self, chosen: Point) -> str:
        wanted = self._task.target if self._task.budget is None else self._task.budget
        kind = "target" if self._task.budget is None else "budget"
        return f"Made by amct.auto_quantize, {kind} {wanted:g}: {described('this configuration', chosen)}."


def _ties(configured: ConfiguredGraph, options: Options) -> list[Tie]:
    """The pairs of inputs which the converter wants in one width."""
    ties: dict[Tie, None] = {}
    for producer in configured.readers.values():
        for one in producer:
            group = [other for other in configured.one_grid(one) if configured.graph[other.layer].layer in options]
            named = [(configured.graph[other.layer].layer, other.index) for other in group]
            ties |= dict.fromkeys(itertools.pairwise(named))
    return [(first, second) for first, second in ties if first != second]


def _widest(bits: Sequence[int | None]) -> int | None:
    known = [one for one in bits if one is not None]
    return max(known, default=None)


def _sum(choice: Choice, what: str) -> float:
    return math.fsum(getattr(one, what) for one in choice.values())
