"""Advice that needs the ranges which calibration has found: matmul, cat and mul, siblings (docs/advice.md)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from ..graph import OpNode
from ..ops.desc import Role
from .advice import Advice, AdviceRule, Remedy
from .configured_graph import ConfiguredGraph, LayerInput, inputs_of
from .remedies import can_be_wide, left_in_float, overrides, widened, with_bits, without_offset
from .sibling_advice import REASON

WIDE_BITS = 12  # recommended instead of 8; the hardware also has 16
# A second input that reaches this magnitude is wide: HiSilicon's AMCT manual has the example -30.6857 to 12.2666.
WIDE_SECOND_INPUT = 30.0
LEAST_SWAP_GAIN = 6.0  # dB, one bit: a swap that gains less is not worth another model
LARGEST_RATIO = 50.0  # between the ranges of two inputs of a layer
_SWAP = "torch.matmul(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2)"


@dataclasses.dataclass(frozen=True)
class _Mixing:
    """An operation that mixes tensors: the harm to the tensor of smaller range, and how to separate the tensors."""

    reason: str
    split: str


_CAT = _Mixing(
    "The layer that reads the result has one grid, with the step that the larger input needs: the smaller input keeps"
    " only a few of its levels",
    "Split the layer that reads the result, so that each tensor has its own layer: conv(cat((a, b))) is conv_a(a) +"
    " conv_b(b)",
)
_MUL = _Mixing(
    "The product has one grid, as wide as the largest values of the larger input need: small products keep only a few"
    " of its levels",
    "Split the tensors into parts of similar range and multiply those separately",
)
_MIXING = {"cat": _CAT, "stack": _CAT, "Cat": _CAT, "mul": _MUL, "EltwiseMul": _MUL}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedInput:
    """The grid and the range that calibration found for one input.

    Attributes:
      scale: Real value of one step.
      offset: Integer that stands for 0.0.
      num_bits: Width of the stored integer.
      low: Smallest value, or 0. Comparisons ignore ``low`` and ``high``, since they compare grids.
      high: Largest value, or 0.
    """

    scale: float
    offset: int
    num_bits: int
    low: float = dataclasses.field(compare=False)
    high: float = dataclasses.field(compare=False)

    @property
    def reach(self) -> float:
        """Largest magnitude."""
        return max(-self.low, self.high)


@dataclasses.dataclass(frozen=True)
class SwapMeasured:
    """Signal to noise ratio of the result of a matmul, in dB, measured on its real inputs.

    Attributes:
      as_is: With the present grids of the inputs.
      swapped: With the inputs swapped, so that the former second input has ``WIDE_BITS``.
    """

    as_is: float
    swapped: float


Calibrated = Mapping[LayerInput, CalibratedInput]
Swaps = Mapping[str, SwapMeasured]


def calibrated_advice(model: ConfiguredGraph, inputs: Calibrated, swaps: Swaps | None = None) -> tuple[Advice, ...]:
    """Returns the advice in graph order, advice on siblings first.

    Args:
      model: The quantized layers.
      inputs: The results of calibration; inputs that are not floating tensors are absent.
      swaps: The measured effect of swapping the inputs of each matmul. If given, it decides; else the range decides.
    """
    of_layers = (_layer_advice(model, node, inputs, swaps) for node in model.graph.quantizable)
    return (*_sibling_advice(model, inputs), *(one for one in of_layers if one is not None))


def _layer_advice(model: ConfiguredGraph, node: OpNode, inputs: Calibrated, swaps: Swaps | None) -> Advice | None:
    found = {one: inputs[one] for one in inputs_of(node) if one in inputs}
    if node.op is None or len(found) < 2:
        return None
    if node.op.role is Role.MATMUL:
        return _swap_advice(model, node, found, swaps)
    return _range_advice(model, node, found) if node.op.name in _MIXING else None


def _swap_advice(model: ConfiguredGraph, node: OpNode, found: Calibrated, swaps: Swaps | None) -> Advice | None:
    first, second = found
    measured = None if swaps is None else swaps.get(node.name)
    is_worth = found[second].reach >= WIDE_SECOND_INPUT if swaps is None else _gain(measured) >= LEAST_SWAP_GAIN
    if not is_worth:
        return None
    wide, narrow = model.settings(first), model.settings(second)
    assert wide is not None and narrow is not None, "a calibrated input is quantized"
    settings = overrides(model, {first: with_bits(wide, WIDE_BITS), second: narrow})
    return Advice(
        rule=AdviceRule.MATMUL_SECOND_INPUT,
        layers=(node.name,),
        finding=f"The second input of '{node.name}' ranges from {found[second].low:.4g} to {found[second].high:.4g}, a"
        f" step of its 8 bits is {found[second].scale:.3g}",
        reason=f"The second input of matmul has 8 bits without offset, the first can have more; {_in_words(measured)}",
        remedies=(
            Remedy(
                f"Swap them, {_SWAP}, and give the first input, and a transpose in front of it, {WIDE_BITS} bits",
                settings if can_be_wide(model, first) else None,
            ),
        ),
    )


def _gain(measured: SwapMeasured | None) -> float:
    """Returns the gain of the swap in dB; -inf if the inputs cannot be swapped."""
    return -math.inf if measured is None else measured.swapped - measured.as_is


def _in_words(measured: SwapMeasured | None) -> str:
    if measured is None:
        return "amct.check_model(model, inputs) measures what a swap gains"
    as_is, swapped = measured.as_is, measured.swapped
    return f"a swap gains {_gain(measured):.1f} dB: {swapped:.1f} instead of {as_is:.1f} dB on these inputs"


def _range_advice(model: ConfiguredGraph, node: OpNode, found: Calibrated) -> Advice | None:
    reaches = {one: known.reach for one, known in found.items() if known.reach > 0}
    if len(reaches) < 2 or all(known.num_bits >= WIDE_BITS for known in found.values()):
        return None
    assert node.op is not None
    narrow, wide = min(reaches, key=reaches.__getitem__), max(reaches, key=reaches.__getitem__)
    ratio = reaches[wide] / reaches[narrow]
    if ratio <= LARGEST_RATIO:
        return None
    names = {one: f"input {one.index} ('{model.edge(one).producer}')" for one in (narrow, wide)}
    mixing = _MIXING[node.op.name]
    return Advice(
        rule=AdviceRule.RANGES,
        layers=(node.name,),
        finding=f"In '{node.name}' {names[wide]} reaches {reaches[wide]:.4g}, {names[narrow]} only"
        f" {reaches[narrow]:.4g}: {ratio:.0f} times less",
        reason=mixing.reason,
        remedies=(Remedy(mixing.split), *_range_remedies(model, node)),
    )


def _range_remedies(model: ConfiguredGraph, node: OpNode) -> Iterator[Remedy]:
    wider = widened(model, inputs_of(node), WIDE_BITS)
    if wider is not None:
        yield Remedy(f"Give its inputs, and all inputs that must share their grids, {WIDE_BITS} bits", wider)
    skipped = left_in_float(model, (node.name,))
    if skipped is not None:
        yield Remedy("Leave it in float, and all layers that must not be quantized beside it", skipped)


def _sibling_advice(model: ConfiguredGraph, inputs: Calibrated) -> Iterator[Advice]:
    """Yields one piece of advice for all siblings with equal settings but different grids.

    Siblings with different settings are the subject of `sibling_advice`.
    """
    found = {producer: [one for one in readers if one in inputs] for producer, readers in model.readers.items()}
    found = {producer: readers for producer, readers in found.items() if _are_apart(model, inputs, readers)}
    if not found:
        return
    readers = [one for group in found.values() for one in group]
    layers = {one.layer for one in readers}
    yield Advice(
        rule=AdviceRule.SIBLINGS,
        layers=tuple(name for name in model.graph.nodes if name in layers),
        finding="; ".join(_grids_in_words(inputs, producer, group) for producer, group in found.items()),
        reason=REASON,
        remedies=tuple(_sibling_remedies(model, found, readers)),
    )


def _are_apart(model: ConfiguredGraph, inputs: Calibrated, readers: list[LayerInput]) -> bool:
    grids = {inputs[one] for one in readers}
    return len(grids) > 1 and not any(model.difference(readers[0], one) for one in readers)


def _sibling_remedies(
    model: ConfiguredGraph, found: Mapping[str, list[LayerInput]], readers: list[LayerInput]
) -> Iterator[Remedy]:
    copied = [
        producer for producer, group in found.items() if any(model.edge(one).producer != producer for one in group)
    ]
    if copied:
        yield Remedy(f"Let all of them read {', '.join(copied)} directly, not a copy or a cast")
    symmetric = without_offset(model, readers)
    if symmetric is not None:
        yield Remedy("Quantize all of them without offset, so that they share a quantizer", symmetric)
    else:
        yield Remedy("Quantize all of them without offset, with an algorithm of this package")


def _grids_in_words(inputs: Calibrated, producer: str, readers: list[LayerInput]) -> str:
    groups: dict[CalibratedInput, list[str]] = {}
    for one in readers:
        groups.setdefault(inputs[one], []).append(f"'{one.layer}'")
    grids = (
        f"{', '.join(names)} {grid.num_bits} bits, scale {grid.scale:.6g}, offset {grid.offset}"
        for grid, names in groups.items()
    )
    return f"'{producer}' is read on different grids: {'; '.join(grids)}"
