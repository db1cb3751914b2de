"""QuantizedLayer: one operation with its quantizers; the only class that knows the modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.affine import bias_scale_floor, quantize_bias
from ..core.params import QuantParams
from ..core.search.codebook import rescaled
from ..errors import CalibrationError
from ..log import get_logger
from ..ops.desc import OpDesc, Role
from ..quantizers.base import ActivationQuantizer, WeightQuantizer
from ..quantizers.learning.gradients import replace_value
from ..quantizers.weight_grid import with_smallest_scale
from ..record import LayerRecord, WeightRecord
from .call import LayerCall
from .integer_call import real_quant_forward
from .integer_trace import IntegerTrace
from .layer_record import activation_record, weight_record
from .mode import Mode
from .shared_input import SharedInput
from .weighted_op import WeightedOp

_log = get_logger(__name__)
NO_SHIFT_YET = -1


class QuantizedLayer(nn.Module):
    """Wraps one operation - module, function or Tensor method - a quantizer per quantized input, one for its weight.

    Attributes:
      name: Layer name.
      op: What the registry knows of the operation.
      call: The operation, and where its quantized inputs stand in the call.
      weighted: The module with its folded BatchNorm, None without weights.
      activation: One quantizer per quantized input; siblings hold the same object.
      weight: The weight quantizer, None without weights.
      mode: What forward does; set by ``enable_quantization``.
      keeps_inputs: Whether somebody watches the tensors between the layers, which must then not be overwritten.
      trace: Where real_quant notes its integers; None outside of ``trace_integers``.
      has_bare_grid: Whether the weight quantizer knows the grid of the weight without its BatchNorm, of which the
        BatchNorm's present factor makes that of the folded one (spec 6.7, last paragraph).
      constant_inputs: Which inputs are constants; the files hold their grid points in float32 (spec 11.3).
      non_float_inputs: bool [inputs], which inputs turned out not to be floating tensors (spec 4.7).
      shift_bit: int32 [scales of the weight], right shift of the accumulator (spec 4.6); `NO_SHIFT_YET` until it is
        found, None if there is none.
    """

    non_float_inputs: Tensor
    shift_bit: Tensor | None

    def __init__(
        self,
        name: str,
        op: OpDesc,
        call: LayerCall,
        activation: list[ActivationQuantizer],
        sharing: list[SharedInput],
        weighted: WeightedOp | None = None,
        weight: WeightQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.op = op
        self.weighted = weighted
        self.call = call
        self._sharing = sharing
        self.activation = nn.ModuleList(activation)
        self.weight = weight
        self.mode = Mode.FLOAT
        self.keeps_inputs = False
        self.has_bare_grid = False
        self.trace: IntegerTrace | None = None
        self.constant_inputs: frozenset[int] = frozenset()
        self.register_buffer("non_float_inputs", torch.zeros(len(activation), dtype=torch.bool))
        self.register_buffer("shift_bit", None)

    @property
    def is_quantized(self) -> bool:
        """False if all quantized inputs turned out not to be floating tensors."""
        return not bool(self.non_float_inputs.all())

    @property
    def is_calibrated(self) -> bool:
        """Whether every quantizer which has something to quantize has its parameters."""
        needed = [q for q, is_other in zip(self.activation, self.non_float_inputs, strict=True) if not is_other]
        return all(q.is_calibrated for q in (*needed, *([self.weight] if self.weight is not None else [])))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the operation in the current mode."""
        if self.mode is Mode.FLOAT:
            return self._float(args, kwargs)
        if self.mode.observes:
            self._observe(args, kwargs)
        if self.mode is Mode.CALIBRATION:
            return self._float(args, kwargs)
        if self.mode in (Mode.WEIGHTS, Mode.CALIBRATION_OF_DATA):
            return self._quantize_weight_only(args, kwargs)
        if self.mode is Mode.PRE_CALIBRATION:
            return self._fake_quant(args, kwargs)
        self._require_calibration(args, kwargs)
        if self.mode is Mode.FAKE_QUANT:
            return self._fake_quant(args, kwargs)
        return real_quant_forward(self, args, kwargs)

    def current_weight_params(self, weight: Tensor, bias: Tensor | None) -> QuantParams:
        """Returns the grid of the folded ``weight`` [C_out, ...], with scales the int32 bias fits (spec 4.3, 4.4)."""
        assert self.weight is not None
        if self.has_bare_grid:
            return self.present_weight_params()
        return self._with_room_for_bias(self.weight.params(weight, bias), bias)

    @torch.no_grad()
    def present_weight_params(self) -> QuantParams:
        """Returns ``current_weight_params(*weighted.folded())``, which need not make the folded weight."""
        op = self.weighted
        assert op is not None
        if op.batch_norm is None:
            return self.current_weight_params(*op.folded())
        weight, factor, _ = op.unfolded()
        return self._folded_params(weight, factor, op.folded_bias(factor))

    def observe_weight(self) -> None:
        """Lets the weight quantizer find what it learns from the weight; ignored without one, and if that is known."""
        if self.weight is None or self.weight.is_calibrated:
            return
        assert self.weighted is not None
        weight = self.weighted.unfolded()[0] if self.has_bare_grid else self.weighted.folded()[0]
        self.weight.observe(weight.detach())

    def record(self) -> LayerRecord:
        """Returns the layer's parameters as plain values; CalibrationError if they are not complete."""
        activations = tuple(
            activation_record(index, quantizer.params())
            for index, quantizer in enumerate(self.activation)
            if not self.non_float_inputs[index]
        )
        return LayerRecord(activations=activations, weight=self.weight_record(), shift_bit=self._known_shift())

    @torch.no_grad()
    def weight_record(self) -> WeightRecord | None:
        """Returns the weight's parameters, None without weights; CalibrationError if they are not known yet.

        With a bare grid they are those of the bare weight.
        """
        if self.has_bare_grid:
            assert self.weighted is not None and self.weight is not None
            return weight_record(self.weight.params(self.weighted.unfolded()[0]))
        return self.folded_weight_record()

    @torch.no_grad()
    def folded_weight_record(self) -> WeightRecord | None:
        """Returns the parameters of the weight with the present BatchNorm folded into it, None without weights."""
        if self.weighted is None:
            return None
        return weight_record(self.present_weight_params())

    def expect_shift(self, record: LayerRecord) -> None:
        """Makes room for the shift bits, one for each scale of the weight in ``record`` (spec 4.6)."""
        assert record.weight is not None
        device = self.non_float_inputs.device
        self.shift_bit = torch.full((len(record.weight.scale),), NO_SHIFT_YET, dtype=torch.int32, device=device)

    def set_shift(self, bits: Sequence[int]) -> None:
        """Takes the shift bits that were found; none if the layer turned out not to be quantized."""
        if bits and self.shift_bit is not None:
            self.shift_bit.copy_(torch.tensor(bits, dtype=torch.int32))

    def forget_shift(self) -> None:
        """The shift bits are to be found anew: what they were found for has changed."""
        if self.shift_bit is not None:
            self.shift_bit.fill_(NO_SHIFT_YET)

    def shared_result(self, index: int, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)`` of one input, made once for all layers which share its quantizer (spec 8.6)."""
        if x.is_inference():  # it counts no versions
            return compute(x)
        return self._sharing[index].get(x, purpose, compute)

    def extra_repr(self) -> str:
        """The layer's name and operation."""
        return f"name={self.name!r}, op={self.op.name}, mode={self.mode.name}"

    def _known_shift(self) -> tuple[int, ...]:
        bits = () if self.shift_bit is None else tuple(self.shift_bit.tolist())
        return () if NO_SHIFT_YET in bits else bits

    def _with_room_for_bias(self, params: QuantParams, bias: Tensor | None) -> QuantParams:
        if bias is None or not self.activation[0].is_calibrated:
            return params
        scale = bias_scale_floor(bias.detach(), self.activation[0].params().scale, params.scale)
        if scale is params.scale:
            return params
        _log.warning("Layer '%s': weight scale enlarged, so that the bias fits into int32.", self.name)
        return dataclasses.replace(params, scale=scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        for quantizer, is_other in zip(self.activation, self.non_float_inputs.tolist(), strict=True):
            quantizer.use(not is_other)

    def _float(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.weighted is not None:
            return self.weighted.forward_float(args, kwargs)
        return self.call(args, kwargs)

    def _observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = self.call.inputs(args, kwargs)
        for index, (x, quantizer, shared) in enumerate(zip(values, self.activation, self._sharing, strict=True)):
            if not _is_float_tensor(x):
                self.non_float_inputs[index] = True
                continue
            self.non_float_inputs[index] = False
            self._prepare_linear(x, quantizer)
            shared.get(x, "observe", quantizer.observe)
        self.observe_weight()

    def _note_input(self, index: int, is_float: bool) -> None:
        """Only floating tensors are quantized; it shows in the data, not in the graph (spec 4.7)."""
        if bool(self.non_float_inputs[index]) == is_float:
            self.non_float_inputs[index] = not is_float
            self.activation[index].use(is_float)

    def _prepare_linear(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """A Linear of more than 2 dimensions becomes MatMul + Add, and the chip takes MatMul with offset 0 only."""
        if self.op.role is not Role.LINEAR or x.dim() <= 2 or quantizer.is_symmetric:
            return
        quantizer.make_symmetric()
        _log.warning(
            "Layer '%s': input has %d dimensions, so it is exported as MatMul + Add and its data is quantized"
            " symmetrically (offset 0). To keep the offset, reshape the input to 2 dimensions around the Linear, or use"
            ' a 1x1 Conv2d (HiSilicon\'s AMCT manual, chapter "Linear layers on more than two dimensions"'
            " [不支持输入大于两维且bias为True的linear量化]).",
            self.name,
            x.dim(),
        )

    def _require_calibration(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for x, quantizer in zip(self.call.inputs(args, kwargs), self.activation, strict=True):
            if not _is_float_tensor(x):
                continue
            if not quantizer.is_calibrated:
                raise CalibrationError(_not_calibrated(self.name))
            self._prepare_linear(x, quantizer)
        if self.weight is not None and not self.weight.is_calibrated:
            raise CalibrationError(_not_calibrated(self.name))

    def _fake_quant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = [
            self._fake_quant_input(x, quantizer, shared)
            for x, quantizer, shared in zip(self.call.inputs(args, kwargs), self.activation, self._sharing, strict=True)
        ]
        if self.weighted is not None and self.weight.is_calibrated:
            return self._fake_quant_weighted(values[0], *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        args, kwargs = self.call.substitute(args, kwargs, values)
        return self._float(args, kwargs)

    def _fake_quant_input(self, x: Any, quantizer: ActivationQuantizer, shared: SharedInput) -> Any:
        if not _is_float_tensor(x) or not quantizer.is_calibrated:
            return x
        is_free = shared.may_overwrite and not self.keeps_inputs
        return shared.get(x, "fake_quantize", quantizer.overwrite if is_free else quantizer.fake_quantize)

    def _quantize_weight_only(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.weighted is None or not self.weight.is_calibrated:
            return self._float(args, kwargs)
        x, *_ = self.call.inputs(args, kwargs)
        return self._fake_quant_weighted(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})

    def _fake_quant_weighted(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        op = self.weighted
        assert op is not None
        if op.trains_batch_norm:
            weight, params = self._weight_before_batch_norm()
            return op.forward_training(x, weight, output_size, has_one_scale=not params.scale.dim())
        weight, bias = op.folded()
        params = self.current_weight_params(weight.detach(), bias)
        weight = self.weight.fake_quantize(weight, params)
        return op.apply(x, weight, self._fake_quant_bias(bias, x, params), output_size)

    def _weight_before_batch_norm(self) -> tuple[Tensor, QuantParams]:
        """The weight on the grid of the folded one, divided by what the BatchNorm will multiply by (spec 6.7)."""
        op = self.weighted
        assert op is not None and self.weight is not None
        weight, factor, inverse = op.unfolded()
        with torch.no_grad():
            bias = op.folded_bias(factor)
        params = self._folded_params(weight, factor, bias)
        return self.weight.fake_quantize_unfolded(weight, factor, inverse, params), params

    def _folded_params(self, weight: Tensor, factor: Tensor, bias: Tensor | None) -> QuantParams:
        """The grid of ``weight * factor``, with scales the int32 bias fits."""
        assert self.weight is not None
        if not self.has_bare_grid:
            return self._with_room_for_bias(self.weight.folded_params(weight, factor, bias), bias)
        params = with_smallest_scale(rescaled(self.weight.params(weight), factor), bias)
        return self._with_room_for_bias(params, bias)

    def _fake_quant_bias(self, bias: Tensor | None, x: Tensor, params: QuantParams) -> Tensor | None:
        """The int32 bias as a float; the bias of a Linear of another rank than 2 is a float Add (spec 8.3)."""
        if bias is None or not self.activation[0].is_calibrated or (self.op.role is Role.LINEAR and x.dim() != 2):
            return bias
        step = (self.activation[0].params().scale * params.scale).detach()
        real = quantize_bias(bias.detach(), self.activation[0].params().scale, params.scale).float() * step
        real = real.to(bias.dtype)
        return replace_value(real, bias) if bias.requires_grad else real


def _is_float_tensor(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _not_calibrated(name: str) -> str:
    return (
        f"Layer '{name}' is not calibrated. Run enable_quantization(model, calibration=True) and at least as many"
        " forwards as the largest batch_num of the configuration first."
    )
