"""Refinement: changes weights and biases of a calibrated model to reduce the output error of its layers, no training.

The layers are visited in the order of execution. Each layer gets its inputs from the quantized network, whose layers in
front are refined already, and is to match the output of the float network. Only the layer's weight, codebook and bias
change, so a refined model is saved, restored, trained and verified like any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ...backends.layers.layer_step import LayerStep
from ...config.layers.refine_config import BIAS_CORRECTION, COMPENSATED_ROUNDING, LEARNED_ROUNDING
from ...core.affine import canonical_scale
from ...core.params import QuantParams
from ...core.refine.columns import Geometry, as_rows, columns
from ...core.refine.compensation import compensated, descended
from ...core.refine.grid import RowGrid
from ...core.refine.grid_search import fitted_codebook, scale_by_output
from ...core.refine.moments import Moments, MomentsSum, shifted_targets
from ...core.refine.shift import ShiftSum
from ...errors import CalibrationError
from ...nn.layer_weight import LayerWeight
from ...nn.unit_axis import as_image, image_settings
from ...nn.weighted_op import WeightedOp
from ...ops.desc import Role
from ...quantizers.distributed import process_count, process_rank, total
from ...quantizers.weight_grid import GridOrigin
from .held_out import TOO_FEW, split
from .learning import Drawn, learn

Pair = tuple[int, int]
COLUMNS_PER_ELEMENT, FEWEST_COLUMNS, MOST_COLUMNS = 16, 1024, 16384  # per layer, over all batches
SHIFT_DAMPINGS = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class RefinedLayer:
    """The result of refinement for one layer.

    Attributes:
      name: Layer name.
      methods: The methods that changed the layer.
      skipped: (method, reason) for each method that was not applied or not kept.
    """

    name: str
    methods: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


class LayerRefiner:
    """Refines layers one by one, with the same result on every process of a distributed run."""

    def __init__(self, wanted: Callable[[str, str], bool | str], seed: int = 0) -> None:
        """Makes a refiner.

        Args:
          wanted: Called with a layer's name and a method: True to apply the method, False if the user does not want it,
            else the reason why the method cannot be applied.
          seed: Seed for drawing the positions of the feature maps that are used.
        """
        self._wanted = wanted
        self._seed = seed
        self._evidence: _Evidence | None = None  # of the layer that is being refined
        self._changes = (  # in the order in which they are applied
            (COMPENSATED_ROUNDING, self._round),
            (LEARNED_ROUNDING, self._learn),
            (BIAS_CORRECTION, self._correct_bias),
        )

    def refine(self, step: LayerStep) -> RefinedLayer:
        """Refines the layer of ``step``, in place."""
        name = step.layer.name
        done: list[str] = []
        skipped: list[tuple[str, str]] = []
        for method, change in self._changes:
            is_wanted = self._wanted(name, method)
            if is_wanted is False:
                continue
            reason = change(step) if is_wanted is True and step.obstacle is None else step.obstacle or str(is_wanted)
            if reason is None:
                done.append(method)
            else:
                skipped.append((method, reason))
        self._evidence = None
        return RefinedLayer(name, tuple(done), tuple(skipped))

    def _correct_bias(self, step: LayerStep) -> str | None:
        """Adds the mean error of every output channel to the bias; returns None, or the reason if impossible."""
        op = step.weight.op
        if op.stored_bias() is None:
            return "the layer has no bias that could take the correction"
        sums = ShiftSum(op.out_channels)
        for index, (exact, quantized) in enumerate(step.outputs()):
            error = exact - quantized
            _require_finite(error, step, index, "output")
            sums.add(error, exact.dim() - len(op.channel_shape))
        sums.merge(total)
        op.add_to_bias(sums.shift().to(step.layer.non_float_inputs.device))
        return None

    def _round(self, step: LayerStep) -> str | None:
        weight = step.weight
        reason = _why_not_rounded(weight)
        if reason is not None:
            return reason
        evidence = self._found_in(step, self._drawn(step))
        if evidence is None:
            return TOO_FEW
        folded, bias = weight.op.folded()
        params = weight.params(folded, bias)
        found = _rounded(folded, evidence.target, params, weight.quantizer.grid_origin, evidence.learned)
        rounded = weight.quantizer.fake_quantize(folded, params)
        before, after = _errors((rounded, found.weight), folded, evidence.judged, weight.op.groups)
        if not after < before:
            return "the output of held-out data did not come nearer to the float output"
        weight.op.set_folded(found.weight)
        if found.params is not None:
            weight.quantizer.adopt(found.params, found.weight)
        return None

    def _learn(self, step: LayerStep) -> str | None:
        """Learns the rounding, starting at the present weights; returns None, or why the weight is as before."""
        reason = _why_not_rounded(step.weight)
        if reason is not None:
            return reason
        drawn = list(self._drawn(step))
        evidence = self._found_in(step, drawn)
        if evidence is None:
            return TOO_FEW
        return learn(step, evidence.target, drawn, self._generator(step, "steps"))

    def _found_in(self, step: LayerStep, drawn: Iterable[tuple[Drawn, Drawn]]) -> _Evidence | None:
        """Returns what the drawn columns say of the layer, found once for all methods; None if none are held out."""
        if self._evidence is None:
            op = step.weight.op
            folded = step.reference_weight.op.folded()[0]
            sums = _moments(as_rows(folded, op.groups), drawn)
            if not all(one.count for one in sums):
                return None
            learned, judged = (one.result(is_centred=op.stored_bias() is not None) for one in sums)
            self._evidence = _Evidence(learned, judged, _target(folded, learned, judged, op.groups))
        return self._evidence

    def _count(self, step: LayerStep) -> int:
        """Returns the number of columns to use, proportional to their length: a matrix of that size is estimated."""
        weight = step.weight.op.folded()[0]
        return min(max(COLUMNS_PER_ELEMENT * weight[0].numel(), FEWEST_COLUMNS), MOST_COLUMNS)

    def _drawn(self, step: LayerStep) -> Iterator[tuple[Drawn, Drawn]]:
        """Yields for each batch the columns to learn from, and the held-out columns."""
        batches = int(total(torch.tensor(sum(1 for _ in step.calls()))))  # of all processes
        for index, (exact, quantized) in enumerate(step.inputs()):
            _require_finite(exact, step, index, "input")
            _require_finite(quantized, step, index, "input")
            number = index * process_count() + process_rank()
            generator = self._generator(step, number)
            count = -(-self._count(step) // batches)
            parts = []
            for part in split(exact.shape[0], number):
                share = -(-count * (part.stop - part.start) // exact.shape[0])
                parts.append(columns_of(step.weight.op, [exact[part], quantized[part]], share, generator))
            yield parts[0], parts[1]

    def _generator(self, step: LayerStep, purpose: object) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed} {step.layer.name} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _require_finite(values: Tensor, step: LayerStep, batch: int, what: str) -> None:
    """Raises CalibrationError, with the layer and the batch, if ``values`` hold NaN or inf."""
    if values.numel() and not all(math.isfinite(end) for end in torch.aminmax(values)):  # NaN propagates
        raise CalibrationError(
            f"refine: layer '{step.layer.name}', batch {batch}: its {what} holds NaN or inf; pass data on which the"
            " float model gives finite values."
        )


def _moments(rows: Tensor, drawn: Iterable[tuple[Drawn, Drawn]]) -> tuple[MomentsSum, MomentsSum]:
    """Returns the moments of the columns to learn from, and of the held-out columns; ``rows`` is the weight."""
    groups, _, length = rows.shape
    learned, judged = (MomentsSum(groups, length, rows.device) for _ in range(2))
    for parts in drawn:
        for moments, (exact, quantized) in zip((learned, judged), parts, strict=True):
            moments.add(exact, quantized)
    for moments in (learned, judged):
        moments.merge(total)
    return learned, judged


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """The moments of a layer's columns, to learn from and held out, and the weight to round, [groups, rows, K]."""

    learned: Moments
    judged: Moments
    target: Tensor


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """Weights on their grid, [C_out, ...] float64, and the new grid; None if the quantizer keeps its grid."""

    weight: Tensor
    params: QuantParams | None


def _target(folded: Tensor, learned: Moments, judged: Moments, groups: int) -> Tensor:
    """Returns the weight [groups, rows, K] to round: the float weight, or one adapted to the quantized inputs."""
    rows = as_rows(folded.detach().double(), groups)
    candidates = [rows, *shifted_targets(rows, learned, SHIFT_DAMPINGS)]
    errors = _errors(candidates, folded, judged, groups)
    return candidates[errors.index(min(errors))]


def _rounded(folded: Tensor, target: Tensor, params: QuantParams, origin: GridOrigin, moments: Moments) -> _Rounded:
    groups = target.shape[0]
    rows = as_rows(folded.detach().double(), groups)
    grid = RowGrid.of(params, rows)
    if params.codebook is not None:
        return _on_codebook(folded, params, grid, target, moments)
    scale, largest, pinned = grid.scale, grid.largest, None
    if origin is GridOrigin.WEIGHT:
        has_one_scale = not params.scale.dim()
        is_floored = scale > 1.001 * _covering(rows, largest, has_one_scale)
        covering = torch.where(is_floored, scale, _covering(target, largest, has_one_scale))
        if params.num_bits < 8:
            covering = scale_by_output(target, moments.quantized, covering, largest, has_one_scale)
        scale = torch.where(is_floored, scale, covering)
        pinned, target = _pin(target, scale, largest, ~is_floored, has_one_scale)
    grid = RowGrid(scale, largest)
    weight = compensated(target, moments.quantized, grid, pinned)
    if params.num_bits < 8:
        weight = descended(target, weight, moments.quantized, grid, pinned)
    return _Rounded(weight.reshape(folded.shape), None)


def _on_codebook(folded: Tensor, params: QuantParams, grid: RowGrid, target: Tensor, moments: Moments) -> _Rounded:
    weight, grid = fitted_codebook(target, moments.quantized, grid, has_one_scale=not params.scale.dim())
    scale = canonical_scale(grid.scale.reshape(-1) if params.scale.dim() else grid.scale.flatten()[0])
    codebook = grid.codebook
    assert codebook is not None
    adopted = dataclasses.replace(
        params, scale=scale, codebook=codebook.to(torch.int32), centroids=(codebook / codebook.abs().max()).float()
    )
    return _Rounded(weight.reshape(folded.shape), adopted)


def _covering(rows: Tensor, largest: int, has_one_scale: bool) -> Tensor:
    """Returns the scales, [groups, rows], whose grids end at the largest weight of each row, or of all rows."""
    ends = rows.abs().amax(2) / largest
    return ends.max().expand(ends.shape) if has_one_scale else ends


def _pin(target: Tensor, scale: Tensor, largest: int, may_pin: Tensor, has_one_scale: bool) -> tuple[Tensor, Tensor]:
    """Returns (pinned, target): one weight per row, or one in all, is pinned to the end of the grid.

    The quantizer computes the grid from the largest element of the weight. With that element at the end of the grid,
    it computes from the rounded weight the same grid on which the weight was rounded.
    """
    units = (target / scale.unsqueeze(2)).abs()
    pinned = torch.zeros_like(units, dtype=torch.bool)
    if has_one_scale:
        pinned.view(-1)[units.argmax()] = True
    else:
        pinned.scatter_(2, units.argmax(2, keepdim=True), True)
    pinned &= may_pin.unsqueeze(2)
    end = torch.where(target < 0, -1.0, 1.0) * largest * scale.unsqueeze(2)
    return pinned, torch.where(pinned, end, target)


def _errors(weights: Iterable[Tensor], folded: Tensor, moments: Moments, groups: int) -> list[float]:
    """Returns the squared errors of the outputs of ``weights`` on quantized inputs against float, up to a constant."""
    product = as_rows(folded.detach().double(), groups) @ moments.crossed
    found = []
    for weight in weights:
        rows = weight.detach().double().reshape(product.shape)
        found.append(float((((rows @ moments.quantized) - 2 * product) * rows).sum()))
    return found


def _why_not_rounded(weight: LayerWeight) -> str | None:
    if weight.op.stored_weight is None:
        return "its weight is computed, or a normalization in front of it is folded into it"
    if weight.has_bare_grid:
        return "its BatchNorm is still to be updated"
    if weight.quantizer.grid_origin is GridOrigin.OTHER:
        return f"the grid of {type(weight.quantizer).__name__} changes with every weight"
    return None


def columns_of(op: WeightedOp, inputs: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Returns ``count`` columns of each of the ``inputs`` of ``op``; see `columns`."""
    axes = len(op.channel_shape) - 1
    return columns(_geometry_of(op), [as_image(x, axes) for x in inputs], count, generator)


def _geometry_of(op: WeightedOp) -> Geometry:
    """Returns the settings with which the operation reads its input, in their 2-D form."""
    if op.role is Role.LINEAR:
        return Geometry()
    module = op.module
    in_front = getattr(module, "margins", None) or ()
    own = (*module._reversed_padding_repeated_twice, 0, 0)
    left, right, top, bottom = (a + b for a, b in zip(own[:4], (*in_front, 0, 0, 0, 0)[:4], strict=True))
    names = ("kernel_size", "stride", "padding", "output_padding", "dilation")
    settings = {name: getattr(module, name) for name in names}
    settings = settings if len(module.kernel_size) > 1 else image_settings(settings)
    if op.role is Role.CONV_TRANSPOSE:
        return _geometry_of_transposed(module.groups, **settings)
    return Geometry(
        kernel=settings["kernel_size"],
        stride=settings["stride"],
        dilation=settings["dilation"],
        padding=(left, right, top, bottom),
        groups=module.groups,
        mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
    )


def _geometry_of_transposed(
    groups: int, kernel_size: Pair, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair
) -> Geometry:
    """Returns the geometry of a transposed convolution: a convolution of spread inputs with the reversed kernel."""
    reach = [step * (size - 1) for step, size in zip(dilation, kernel_size, strict=True)]
    height, width = (one - removed for one, removed in zip(reach, padding, strict=True))
    extra_height, extra_width = output_padding
    return Geometry(
        kernel=kernel_size,
        dilation=dilation,
        padding=(width, width + extra_width, height, height + extra_height),
        upsampling=stride,
        groups=groups,
        is_reversed=True,
    )
