"""QuantizedLayer: one operation with its quantizers; the only class whose forward depends on the mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core import native
from ..errors import CalibrationError, UnsupportedModelError
from ..log import get_logger
from ..ops.desc import OpDesc, Role
from ..quantizers.base import ActivationQuantizer
from ..quantizers.learning.learned_range import is_new_result, unrounded
from ..quantizers.learning.recompute import is_recomputing, recomputing
from ..quantizers.observers.observation import RangeObserver, is_quantizable
from ..record import ActivationRecord, LayerRecord, WeightRecord
from .call import LayerCall
from .eager_forward import NO_TRACES, refuse_tracers
from .in_place_call import call_over, call_over_with_gradient
from .integer_layer import IntegerLayer, IntegerWatcher, are_known
from .layer_weight import LayerWeight
from .mode import Mode, forced_mode
from .module_hooks import is_hooked, with_hooks_of
from .shared_input import FollowingInput, SharedInput

_log = get_logger(__name__)
_NO_SHIFT_YET = -6e4  # float16 has it; negative in averages with known bits, too. Checkpoints of version 1.0 have -1
NO_DATA_PARALLEL = (
    "Quantized models cannot run in DataParallel: its replicas throw away what quantizers learn in a forward. Use"
    " DistributedDataParallel, one process per device."
)


class QuantizedLayer(nn.Module):
    """One operation (module, function or Tensor method) with a quantizer per quantized input and one for its weight.

    Attributes:
      name: Layer name.
      op: The operation's description in the registry.
      call: The operation, and the positions of its quantized inputs in the call.
      activation: One quantizer per quantized input; siblings hold the same object.
      weighted: The weight with its folded BatchNorm and its grid, None without weights.
      weight: The weight quantizer, None without weights.
      use: Node name of the present call: the layer name, or the name of a further use (dynamic path).
      calls: Number of calls of the layer's module in the present forward of the model (dynamic path).
      keeps_inputs: Whether a dump or a report reads the input tensors later, so that they must not be overwritten.
      estimates_gain: Whether the batch that completes the calibration shows the `refine_gain`.
      refine_gain: dB that bias correction takes off the weight's rounding error in that batch; None if not known.
      watcher: Called with the integers of real_quant; None if they are not recorded.
      constant_inputs: Which inputs are constants; the files hold their grid points in float32 (spec 11.3).
      non_float_inputs: float32 [inputs], above 0 for inputs that are no floating tensors (spec 4.7).
      shift_bit: float32 [scales of the weight], right shift of the accumulator (spec 4.6); negative until it is
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
        weighted: LayerWeight | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.op = op
        self.weighted = weighted
        self.call = call
        self._sharing = sharing
        self.activation: Sequence[ActivationQuantizer] = cast(Any, nn.ModuleList(activation))  # which has no item type
        self.weight = None if weighted is None else weighted.quantizer
        if weighted is not None:
            weighted.quantizer.belongs_to(weighted.present_params)
        self.use = name
        self.calls = 0
        self._mode = Mode.FLOAT
        self.keeps_inputs = False
        self.estimates_gain = False
        self.refine_gain: float | None = None
        self.watcher: IntegerWatcher | None = None
        self.constant_inputs: frozenset[int] = frozenset()
        self.register_buffer("non_float_inputs", torch.zeros(len(activation)))
        self.register_buffer("shift_bit", None)

    @property
    def mode(self) -> Mode:
        """The mode of the forward."""
        return forced_mode() or self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        """Sets the mode for all threads; see `forcing` for a single forward."""
        self._mode = mode

    @property
    def is_quantized(self) -> bool:
        """False if all quantized inputs turned out not to be floating tensors."""
        return not bool(self.non_float_inputs.all())

    @property
    def is_calibrated(self) -> bool:
        """Whether the quantizers of all floating inputs and of the weight are calibrated."""
        if self.weight is not None and not self.weight.is_calibrated:
            return False
        pairs = zip(self.activation, self.non_float_inputs.tolist(), strict=True)
        return all(is_other or quantizer.is_calibrated for quantizer, is_other in pairs)

    @property
    def calibration_progress(self) -> str:
        """How far the first quantizer is that is not calibrated: ``1 of 4 batches seen``; empty if none counts."""
        pairs = zip(self.activation, self.non_float_inputs, strict=True)
        open_ones = (q for q, is_other in pairs if not is_other and not q.is_calibrated)
        return next((one.progress for one in open_ones if one.progress), "")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the operation in the current mode."""
        refuse_tracers()
        mode = self.mode
        if mode is Mode.FLOAT:
            return self._float(args, kwargs)
        if mode.observes and not is_recomputing():
            self._observe(args, kwargs)
        if mode is Mode.CALIBRATION:
            return self._float(args, kwargs)
        if mode in (Mode.WEIGHTS, Mode.CALIBRATION_OF_DATA):
            return self._quantize_weight_only(args, kwargs)
        if mode is Mode.PRE_CALIBRATION:
            return self._fake_quant(args, kwargs)
        self._require_calibration(args, kwargs)
        if mode is Mode.FAKE_QUANT:
            return self._fake_quant(args, kwargs)
        return self._on_integers(args, kwargs).run(args, kwargs)

    @property
    def computed_modules(self) -> list[nn.Module]:
        """The modules that the layer computes instead of calling them; none on the dynamic path, where they call it."""
        if not isinstance(self.call.function, nn.Module):
            return []
        return [self.call.function, *(() if self.weighted is None else self.weighted.op.constant_norms)]

    @property
    def has_several_uses(self) -> bool:
        """Whether a quantizer of this layer observes several tensors in a forward of the model, as one batch."""
        return any(shared.has_several_tensors for shared in self._sharing)

    def end_forward(self, *, is_complete: bool) -> None:
        """Ends the batch of a layer with several uses; drops it if an error ended the forward (not ``is_complete``)."""
        for quantizer, shared in zip(self.activation, self._sharing, strict=True):
            shared.end_forward(quantizer, is_complete=is_complete)

    def extremes(self, index: int) -> tuple[float, float] | None:
        """Returns the smallest and the largest value of one input in calibration; None if they are not known."""
        shared = self._sharing[index]
        if isinstance(shared, FollowingInput):
            return shared.extremes
        observer = self.activation[index]._modules.get("observer")
        return observer.extremes if isinstance(observer, RangeObserver) else None

    def replace_producer(self, old: nn.Module, new: nn.Module) -> None:
        """Replaces the module ``old`` by ``new`` as producer of tensors that the layer reads."""
        for shared in self._sharing:
            shared.replace_producer(old, new)

    def observe_weight(self) -> None:
        """Lets the weight quantizer observe the weight; ignored without weights, or if it is calibrated."""
        if self.weighted is not None:
            self.weighted.observe()

    def record(self) -> LayerRecord:
        """Returns the layer's parameters as plain values; CalibrationError if a quantizer is not calibrated."""
        grids = {
            index: quantizer.params()
            for index, quantizer in enumerate(self.activation)
            if not self.non_float_inputs[index]
        }
        activations = tuple(
            ActivationRecord(index=index, scale=float(one.scale), offset=int(one.offset), num_bits=one.num_bits)
            for index, one in grids.items()
        )
        return LayerRecord(activations=activations, weight=self.weight_record(), shift_bit=self.known_shifts)

    def weight_record(self) -> WeightRecord | None:
        """Returns the weight's parameters, None without weights; CalibrationError if they are not calibrated."""
        return None if self.weighted is None else self.weighted.record()

    @property
    def known_shifts(self) -> tuple[int, ...]:
        """The shift bits; empty if there are none, or if they are not known, as those of an average of models."""
        if self.shift_bit is None or not are_known(self.shift_bit):
            return ()
        return tuple(int(bit) for bit in self.shift_bit.tolist())

    @property
    def lacks_shift(self) -> bool:
        """Whether the layer has shift bits that are not known."""
        return self.shift_bit is not None and not are_known(self.shift_bit)

    def expect_shift(self, record: LayerRecord) -> None:
        """Creates the buffer of shift bits, one for each scale of the weight in ``record`` (spec 4.6)."""
        assert record.weight is not None
        device = self.non_float_inputs.device
        self.shift_bit = torch.full((len(record.weight.scale),), _NO_SHIFT_YET, device=device)

    def set_shift(self, bits: Sequence[int]) -> None:
        """Stores the shift bits that were found; ``bits`` is empty if the layer is not quantized."""
        if bits and self.shift_bit is not None:
            self.shift_bit.copy_(torch.tensor(bits))

    def forget_shift(self) -> None:
        """Marks the shift bits as unknown, since the grids for which they were found have changed."""
        if self.shift_bit is not None:
            self.shift_bit.fill_(_NO_SHIFT_YET)

    def extra_repr(self) -> str:
        """The layer's name and operation."""
        return f"name={self.name!r}, op={self.op.name}, mode={self.mode.name}"

    def _replicate_for_data_parallel(self) -> QuantizedLayer:
        """Raises UnsupportedModelError: DataParallel calls this to copy the layer to each device."""
        raise UnsupportedModelError(NO_DATA_PARALLEL)

    def __prepare_scriptable__(self) -> None:
        """Raises UnsupportedModelError: torch.jit.script calls this first."""
        raise UnsupportedModelError(NO_TRACES)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        for quantizer, is_other in zip(self.activation, self.non_float_inputs.tolist(), strict=True):
            quantizer.use(not is_other)

    def _float(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.weighted is not None:
            return self.weighted.op.forward_float(args, kwargs)
        return self.call(args, kwargs)

    def _observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Lets each quantizer observe its input; only floating tensors are quantized (spec 4.7)."""
        values, was_calibrated = self.call.inputs(args, kwargs), self.is_calibrated
        known = self.non_float_inputs.tolist()
        for index, (x, quantizer, shared) in enumerate(zip(values, self.activation, self._sharing, strict=True)):
            if is_quantizable(x) == bool(known[index]):
                self.non_float_inputs[index] = float(not is_quantizable(x))
            if is_quantizable(x):
                self._prepare_linear(x, quantizer)
                shared.observe(x, quantizer)
        self.observe_weight()
        if was_calibrated or not self.is_calibrated or not self.is_quantized:
            return
        if self.weighted is not None and self.estimates_gain:
            self.refine_gain = self.weighted.gain_without_shift(values[0])
        if self.op.name == "div" and len(values) == 2 and is_quantizable(values[1]):
            self._warn_of_zeros(values[1])

    @torch.no_grad()
    def _warn_of_zeros(self, divisor: Tensor) -> None:
        """Warns if the grid of the divisor makes some of its values 0."""
        lost = int(((self.activation[1].fake_quantize(divisor) == 0) & (divisor != 0)).sum())
        if lost:
            _log.warning_of_layer(
                self.name,
                f"{lost} of {divisor.numel()} divisors round to 0 on their grid, so quotients become infinite or NaN."
                " Switch it off in the configuration (quant_enable: false), with the addition of an epsilon before it.",
            )

    def _prepare_linear(self, x: Tensor, quantizer: ActivationQuantizer) -> None:
        """Makes the grid symmetric for a Linear on more than 2 dimensions.

        That Linear is exported as MatMul + Add, and the chip takes MatMul with offset 0 only.
        """
        if x.dim() <= 2 or self.op.role is not Role.LINEAR or quantizer.is_symmetric:
            return
        quantizer.make_symmetric()
        _log.warning_of_layer(
            self.name,
            "input has more than 2 dimensions, so it is exported as MatMul + Add and its data is quantized"
            " symmetrically (offset 0). To keep the offset, reshape the input to 2 dimensions around the Linear, or use"
            ' a 1x1 Conv2d (HiSilicon\'s AMCT manual, chapter "Linear layers on more than two dimensions"'
            " [不支持输入大于两维且bias为True的linear量化]).",
        )

    def _require_calibration(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for x, quantizer in zip(self.call.inputs(args, kwargs), self.activation, strict=True):
            if not is_quantizable(x):
                continue
            if not quantizer.is_calibrated:
                raise CalibrationError(_not_calibrated(self.name, self.calibration_progress))
            self._prepare_linear(x, quantizer)
        if self.weight is not None and not self.weight.is_calibrated:
            raise CalibrationError(_not_calibrated(self.name, self.calibration_progress))

    def _fake_quant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = [
            self._fake_quant_input(x, quantizer, shared)
            for x, quantizer, shared in zip(self.call.inputs(args, kwargs), self.activation, self._sharing, strict=True)
        ]
        args, kwargs = self.call.substitute(args, kwargs, values)
        if self.weighted is None and not kwargs:
            owned = self._owned(values)
            call = call_over_with_gradient if torch.is_grad_enabled() else call_over
            result = None if owned is None else call(owned, self.call.function, args)
            if result is not None:
                return result
        if self.op.name == "max_pool2d" and torch.is_grad_enabled():
            with recomputing(values, unrounded):
                return self._float(args, kwargs)
        return self._quantize_weight_only(args, kwargs)

    def _owned(self, values: list[Any]) -> Tensor | None:
        """Returns an input that no hook and nothing but this call reads; None if there is none."""
        if self.keeps_inputs or is_hooked(self):
            return None
        for x, shared in zip(values, self._sharing, strict=True):
            if isinstance(x, Tensor) and shared.is_single and native.handles(x):  # another input is not quantized
                is_owned = is_new_result(x) if torch.is_grad_enabled() else shared.may_overwrite and not x.requires_grad
                if is_owned:
                    return x
        return None

    def _fake_quant_input(self, x: Any, quantizer: ActivationQuantizer, shared: SharedInput) -> Any:
        if not is_quantizable(x) or not quantizer.is_calibrated:
            return x
        if torch.is_grad_enabled():
            return shared.get(x, "fake_quantize", quantizer.fake_quantize)
        is_free = shared.may_overwrite and not self.keeps_inputs and not x.requires_grad
        return shared.get(x, "fake_quantize", quantizer.overwrite if is_free else quantizer.rounded)

    def _quantize_weight_only(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.weighted is None or not self.weighted.quantizer.is_calibrated:
            return self._float(args, kwargs)
        function, norms = self.call.function, self.weighted.op.norms
        if isinstance(function, nn.Module) and (is_hooked(function) or any(map(is_hooked, norms))):
            return with_hooks_of(self.computed_modules, self._fake_quant_weight, args, kwargs)
        return self._fake_quant_weight(*args, **kwargs)

    def _fake_quant_weight(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self.weighted is not None
        x = self.call.inputs(args, kwargs)[0]
        if not kwargs:
            return self.weighted.fake_quant(x, *args[1:])
        return self.weighted.fake_quant(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})

    def _on_integers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> IntegerLayer:
        """Returns the parameters of the layer for one real_quant forward with these arguments."""
        inputs = zip(self.call.inputs(args, kwargs), self.activation, strict=True)
        grids = {index: quantizer.params() for index, (x, quantizer) in enumerate(inputs) if is_quantizable(x)}
        return IntegerLayer(
            name=self.use,
            op=self.op,
            call=self.call,
            grids=grids,
            weight=None if self.weighted is None else self.weighted.frozen(grids.get(0)),
            shift_bit=self.shift_bit,
            constant_inputs=self.constant_inputs,
            shared_result=self._shared_result,
            watcher=self.watcher,
        )

    def _shared_result(self, index: int, x: Tensor, purpose: str, compute: Callable[[Tensor], Any]) -> Any:
        """Returns ``compute(x)`` of one input, computed once for all layers that share its quantizer (spec 8.6)."""
        return self._sharing[index].get(x, purpose, compute)


def _not_calibrated(name: str, progress: str) -> str:
    seen = f" ({progress})" if progress else ""
    return (
        f"Layer '{name}' is not calibrated{seen}. Run enable_quantization(model, calibration=True) and at least as many"
        " forwards as the largest batch_num of the configuration first."
    )
