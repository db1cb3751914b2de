"""The numbers of the error analysis: how far tensors are apart and how they are distributed (spec 14)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.metrics import cosine, sqnr_db
from ..graph import Skip
from ..plan.integer_share import IntegerShare

WITHOUT = "without "  # begins the name of a metric with one layer in float

BINS = 64  # of a histogram: more bars could not be told apart on a screen
_NARROWEST_RANGE = 1e-6  # relative to the values; in a narrower range a bin would be smaller than a step of float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a quantized tensor is from the float tensor.

    Attributes:
      sqnr_db: Signal to quantization noise in dB; inf if they are equal.
      cosine: Cosine of the angle between them, in [-1, 1].
      max_error: Largest absolute difference.
      left_out: Number of elements that are NaN or infinite in either tensor; the numbers above ignore them.
    """

    sqnr_db: float
    cosine: float
    max_error: float
    left_out: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the values of a tensor are distributed.

    Attributes:
      minimum: Smallest value.
      maximum: Largest value.
      mean: Mean.
      std: Standard deviation of the values, divided by their number and not by one less.
      counts: Number of values in each of ``BINS`` equal bins between ``low`` and ``high`` of the `Change`.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One tensor before and after quantization.

    Attributes:
      low: Lower edge of the first bin of both histograms.
      high: Upper edge of the last bin.
      before: The float tensor.
      after: The quantized tensor.
      difference: How far they are apart.
    """

    low: float
    high: float
    before: Distribution
    after: Distribution
    difference: Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerEffect:
    """The effect of quantizing one layer alone on each output of the model.

    Attributes:
      name: Layer name.
      op: Operation of the layer.
      outputs: The outputs that can be compared, by index; at least one.
    """

    name: str
    op: str
    outputs: Mapping[int, Difference]

    @property
    def worst_output(self) -> int:
        """Index of the output with the lowest SQNR."""
        return min(self.outputs, key=lambda index: self.outputs[index].sqnr_db)

    @property
    def worst(self) -> Difference:
        """The difference of that output."""
        return self.outputs[self.worst_output]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSimilarity:
    """How far the result of one node is from float while every layer is quantized.

    Attributes:
      name: Name of the node.
      is_quantized: Whether the node is a quantized layer.
      fake_quant: Its result in fake_quant.
      real_quant: Its result in real_quant.
      max_lsb: Largest difference between the two, in steps of the grid on which the next layer reads the result; None
        where no quantized layer reads it.
    """

    name: str
    is_quantized: bool
    fake_quant: Difference
    real_quant: Difference
    max_lsb: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSettings:
    """How one input or the weight of a layer is quantized.

    Attributes:
      what: ``input 0``, ``weight``.
      num_bits: Width of the integers.
      scales: The smallest and the largest scale: one for each channel of a weight.
      offset: Integer that stands for 0.0.
      quantizer: Class of the quantizer.
      observer: Class of its observer; empty if it has none.
    """

    what: str
    num_bits: int
    scales: tuple[float, float]
    offset: int
    quantizer: str
    observer: str


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """How one layer is quantized: its inputs, then its weight."""

    name: str
    tensors: tuple[TensorSettings, ...]


@dataclasses.dataclass(frozen=True)
class NextStep:
    """One thing to try.

    Attributes:
      text: What, and what is known of its gain.
      yaml: The simple configuration that does it; None where none can.
    """

    text: str
    yaml: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remark:
    """What to do about one of the worst layers.

    Attributes:
      name: Layer name.
      sqnr_db: Of the worst output, with this layer alone quantized.
      weight_sqnr_db: The same with the weight of the layer alone; None for a layer without weight.
      gain_db: What the SQNR of the model's first output gains in fake_quant if this layer stays in float.
      finding: What loses, a sentence.
      steps: What to try, the best first.
    """

    name: str
    sqnr_db: float
    weight_sqnr_db: float | None
    gain_db: float
    finding: str
    steps: tuple[NextStep, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerChange:
    """Output of one quantized layer, and its weight with the BatchNorm folded in, before and after quantization."""

    name: str
    op: str
    output: Change
    weight: Change | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """All numbers of one analysis; layers and nodes are in graph order.

    Attributes:
      model: Class name of the model.
      inputs: The inputs in words.
      layerwise: The effect of each layer quantized alone.
      graphwise: Every node that returns floating tensors.
      statistic: Every quantized layer.
      outputs: The outputs of the model by index, in the states ``fake_quant`` and ``real_quant``.
      skipped: What could not be compared, and why.
      multiplications: Which of them run on integers; None for a model that only contains a quantized one.
      settings: How each layer is quantized.
      remarks: What to do about the worst layers, the worst first.
      shares: Share of the multiplications of the model, by node.
      reasons: Why nodes stay in float.
      metric: What the user's ``evaluate`` gave, by state: ``float``, ``fake_quant``, ``real_quant``, and
        ``without <layer>`` for the worst layers; empty without it.
    """

    model: str
    inputs: str
    layerwise: tuple[LayerEffect, ...]
    graphwise: tuple[NodeSimilarity, ...]
    statistic: tuple[LayerChange, ...]
    outputs: Mapping[str, Mapping[int, Difference]]
    skipped: tuple[Skip, ...]
    multiplications: IntegerShare | None = None
    settings: tuple[LayerSettings, ...] = ()
    remarks: tuple[Remark, ...] = ()
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metric: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers as dicts of plain values; layers and nodes by name.

        ``layerwise``: the difference of the worst output, and ``outputs`` by index. ``graphwise``: ``is_quantized``,
        ``fake_quant``, ``real_quant``. ``statistic``: ``output`` and ``weight`` (or None), each with ``before``,
        ``after``, ``difference`` and the edges of the histograms, ``low`` and ``high``. ``outputs``: by state and
        index. ``skipped``: the reason by name. ``multiplications``: `IntegerShare.as_dict`, or None. ``settings``: the
        quantized tensors of each layer. ``remarks``: the worst layers with what to try. ``shares``: of the
        multiplications, by node. ``metric``: what ``evaluate`` gave, by state.
        """
        return {
            "layerwise": {one.name: dataclasses.asdict(one.worst) | _without_name(one) for one in self.layerwise},
            "graphwise": {one.name: _without_name(one) for one in self.graphwise},
            "statistic": {one.name: _without_name(one) for one in self.statistic},
            "outputs": {
                state: {index: dataclasses.asdict(one) for index, one in found.items()}
                for state, found in self.outputs.items()
            },
            "skipped": {one.name: one.reason for one in self.skipped},
            "multiplications": None if self.multiplications is None else self.multiplications.as_dict(),
            "settings": {one.name: [dataclasses.asdict(tensor) for tensor in one.tensors] for one in self.settings},
            "remarks": {one.name: _without_name(one) for one in self.remarks},
            "shares": dict(self.shares),
            "metric": dict(self.metric),
        }


def merged(analyses: Sequence[Analysis]) -> Analysis:
    """Returns the figures of several batches as one: mean noise-to-signal ratio, mean cosine, largest error.

    Distributions, settings, names and all that does not depend on the data are those of the first batch.
    """
    first = analyses[0]
    if len(analyses) == 1:
        return first
    layers = [{one.name: one for one in each.layerwise} for each in analyses]
    nodes = [{one.name: one for one in each.graphwise} for each in analyses]
    layerwise = [
        dataclasses.replace(
            one, outputs=_merged_outputs([each[one.name].outputs for each in layers if one.name in each])
        )
        for one in first.layerwise
    ]
    graphwise = [_merged_node([each[one.name] for each in nodes if one.name in each]) for one in first.graphwise]
    outputs = {state: _merged_outputs([each.outputs[state] for each in analyses]) for state in first.outputs}
    return dataclasses.replace(first, layerwise=tuple(layerwise), graphwise=tuple(graphwise), outputs=outputs)


def _merged_outputs(found: Sequence[Mapping[int, Difference]]) -> dict[int, Difference]:
    return {index: _merged([one[index] for one in found if index in one]) for index in found[0]}


def _merged_node(found: Sequence[NodeSimilarity]) -> NodeSimilarity:
    steps = [one.max_lsb for one in found if one.max_lsb is not None]
    return dataclasses.replace(
        found[0],
        fake_quant=_merged([one.fake_quant for one in found]),
        real_quant=_merged([one.real_quant for one in found]),
        max_lsb=max(steps, default=None),
    )


def _merged(found: Sequence[Difference]) -> Difference:
    noise = sum(10 ** (-one.sqnr_db / 10) for one in found) / len(found)
    return Difference(
        sqnr_db=-10 * math.log10(noise) if 0 < noise < math.inf else (math.inf if noise == 0 else -math.inf),
        cosine=sum(one.cosine for one in found) / len(found),
        max_error=max(one.max_error for one in found),
        left_out=sum(one.left_out for one in found),
    )


def floating_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the floating tensors in the result ``value`` of a node, those of a tuple or list as ``name[index]``."""
    if isinstance(value, (tuple, list)):
        named = [(f"{name}[{index}]", one) for index, one in enumerate(value)]
    else:
        named = [(name, value)]
    for label, one in named:
        if isinstance(one, Tensor) and one.is_floating_point():
            yield label, one


def why_incomparable(before: Tensor, after: Tensor) -> str | None:
    """Returns why the tensors cannot be compared; None if they can."""
    if before.shape != after.shape:
        return (
            f"its shape depends on the data: {tuple(before.shape)} in float, {tuple(after.shape)} with quantized layers"
        )
    if not before.numel():
        return "it has no elements"
    return None if _finite_elements(before, after)[0].numel() else "it has no element that is finite in both"


def compare(before: Tensor, after: Tensor) -> Difference:
    """Returns how far ``after`` is from ``before``; both have the same shape."""
    wanted, got = _finite_elements(before, after)
    return Difference(
        sqnr_db=sqnr_db(wanted, got),
        cosine=cosine(wanted, got),
        max_error=float((wanted - got).abs().max()) if wanted.numel() else 0.0,
        left_out=before.numel() - wanted.numel(),
    )


def describe_change(before: Tensor, after: Tensor) -> Change:
    """Returns the distributions of two tensors of the same shape on the same bins; at least one element is finite."""
    wanted, got = _finite_elements(before, after)
    low, high = _edges(float(min(wanted.min(), got.min())), float(max(wanted.max(), got.max())))
    return Change(
        low=low,
        high=high,
        before=_describe(wanted, low, high),
        after=_describe(got, low, high),
        difference=compare(before, after),
    )


def group_by_size(sizes: Mapping[str, int], limit: int) -> list[set[str]]:
    """Returns the names in groups of at most ``limit`` bytes, in order; a larger tensor is a group alone."""
    groups: list[set[str]] = []
    left = 0
    for name, size in sizes.items():
        if not groups or size > left:
            groups.append(set())
            left = limit
        groups[-1].add(name)
        left -= size
    return groups


def _without_name(value: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(value)
    del plain["name"]
    return plain


def _finite_elements(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the elements that are finite in both tensors: 1-D, float64."""
    wanted, got = before.detach().flatten().double(), after.detach().flatten().double()
    is_finite = torch.isfinite(wanted) & torch.isfinite(got)
    return (wanted, got) if bool(is_finite.all()) else (wanted[is_finite], got[is_finite])


def _edges(low: float, high: float) -> tuple[float, float]:
    """Returns edges such that ``BINS`` bins have a width above 0, even if all values are equal."""
    if high - low > max(abs(low), abs(high)) * _NARROWEST_RANGE:
        return low, high
    margin = max(0.5, abs(low) * 0.5)
    return low - margin, high + margin


def _describe(values: Tensor, low: float, high: float) -> Distribution:
    counts = torch.histc(values.cpu(), bins=BINS, min=low, max=high)
    return Distribution(
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=float(values.mean()),
        std=math.sqrt(float(values.var(correction=0))),
        counts=tuple(int(count) for count in counts.tolist()),
    )
