"""RetrainSession: first ranges, training and export of the factors of one model on the dynamic path (spec 3)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from ....log import get_logger
from ....nn.mode import Mode
from ....nn.quantized_layer import QuantizedLayer
from ....record import LayerRecord, Record
from ...layers.layer_container import LayerContainer, layers_by_name
from .exported_state import ExportedState
from .record_file import RecordFile
from .shift_search import ShiftErrors

_log = get_logger(__name__)


class RetrainSession:
    """Controls the modes of one model made by create_quant_retrain_model, forward by forward.

    The first ``batch_num`` forwards, in training or eval mode, find the ranges with which training begins; a layer is
    fake-quantized as soon as its ranges are known. Then every forward is fake-quantized. The ``batch_num``-th forward
    in eval mode since the last forward in training mode writes the record.

    Attributes:
      container: The quantized layers.
      layers: The quantized layers by name.
    """

    def __init__(
        self, container: LayerContainer, record_file: RecordFile, batch_num: int, shifted: Collection[str]
    ) -> None:
        """Calibrates the weights and writes the record with their factors. ``shifted`` layers get a shift bit."""
        self.container = container
        self._record_file = record_file
        self._batch_num = batch_num
        self._seen = 0  # forwards that looked for ranges
        self._evaluated = 0  # forwards in eval mode since the last forward in training mode
        self._trains = False  # whether the last forward was in training mode
        self._is_settled = False  # whether every layer has its grids
        self._has_warned = False
        self._exported: ExportedState | None = None  # that of the last export
        self._shifts = {name: _watched(layer) for name, layer in self.layers.items() if name in shifted}
        weights = record_file.write_weights().layers
        for name in self._shifts:
            self.layers[name].expect_shift(weights[name])

    @property
    def layers(self) -> dict[str, QuantizedLayer]:
        """The quantized layers by name, in graph order."""
        return layers_by_name(self.container)

    def known_factors(self) -> dict[str, LayerRecord]:
        """Returns the present factors of the model."""
        return self._record_file.known_factors()

    @property
    def missing(self) -> list[str]:
        """The layers that are not calibrated."""
        return [name for name, layer in self.layers.items() if not layer.is_calibrated]

    @property
    def is_complete(self) -> bool:
        """Whether every factor is known: ranges, weights, and the shift bits of evaluation since the last training."""
        layers = self.layers
        return not self.missing and not any(
            layers[name].lacks_shift for name in self._shifts if layers[name].is_quantized
        )

    @property
    def is_of_copy(self) -> bool:
        """Whether the model is a copy, whose forwards do not write the record of the original."""
        return self._record_file.is_of_copy

    @property
    def is_exported(self) -> bool:
        """Whether the factors, shift bits included, are complete and those of the present ranges and weights."""
        return self.is_complete and self._exported is not None and self._exported.is_of(self.layers.values())

    def take_loaded_state(self, former: Record | None = None) -> None:
        """Continues from a state that was loaded into the model and writes its record.

        The record is complete if the state was saved after evaluation, or if ``former``, the record that was found, is
        one of this state; else it holds the factors of the weights.
        """
        if former is not None and self._is_of_this_state(former):
            for name in self._shifts:
                self.layers[name].set_shift(former.layers[name].shift_bit if name in former.layers else ())
        if self.is_complete:
            self._evaluated, self._exported = self._batch_num, ExportedState(self.layers.values())
            self._record_file.write()
        else:
            self._record_file.write_weights()

    def _is_of_this_state(self, record: Record) -> bool:
        if self.missing:
            return False
        present = self.known_factors()
        return present.keys() == record.layers.keys() and all(
            (one.activations, one.weight) == (record.layers[name].activations, record.layers[name].weight)
            for name, one in present.items()
        )

    def take_changed_weights(self) -> None:
        """Continues with weights that were changed outside of training, as after training: factors are found anew."""
        self._forget_export()
        self._record_file.write_weights()

    @property
    def observes(self) -> bool:
        """Whether the next forward finds ranges or shift bits."""
        is_exporting = not self.container.training and (self._evaluated < self._batch_num or self._has_moved)
        return is_exporting or not self._is_settled

    @property
    def refines_itself(self) -> bool:
        """False: training follows."""
        return False

    @property
    def parts(self) -> tuple[object, ...]:
        """The session and the searches for shift bits."""
        return self, *self._shifts.values()

    def begin(self) -> None:
        """Is called before each forward."""
        if not self._is_settled:
            self._set_modes()
        if (self.container.training and not self._trains) or self._has_moved:
            self._forget_export()
        self._trains = self.container.training
        is_exporting = not self._is_searching and not self._trains and self._evaluated < self._batch_num
        for search in self._shifts.values():
            search.is_on = is_exporting

    def end(self) -> None:
        """Is called after each forward."""
        if self._is_searching:
            self._seen += 1
        elif not self._trains:
            self._evaluated += 1
            if self._evaluated == self._batch_num:
                self._export()

    def keeping(self, batch: tuple[Any, ...]) -> AbstractContextManager[None]:
        """Keeps nothing."""
        return contextlib.nullcontext()

    def settle(self, model: nn.Module) -> None:
        """Does nothing."""

    @property
    def _is_searching(self) -> bool:
        return self._seen < self._batch_num

    def _set_modes(self) -> None:
        """Sets the mode of each layer; a layer that the first forwards did not call is calibrated when it is called."""
        missing = self.missing
        if not missing and not self._seen:  # all ranges are given, or were loaded
            self._seen = self._batch_num
        for name, layer in self.layers.items():
            layer.mode = Mode.PRE_CALIBRATION if self._is_searching or name in missing else Mode.FAKE_QUANT
        self._is_settled = not missing and not self._is_searching

    def _forget_export(self) -> None:
        self._evaluated = 0
        for name, search in self._shifts.items():
            search.clear()
            self.layers[name].forget_shift()

    @property
    def _has_moved(self) -> bool:
        """Whether the factors were exported and belong to other values: a state was loaded, an average was updated."""
        is_exported = not self._trains and not self._is_searching and self._evaluated >= self._batch_num
        return is_exported and not self.is_exported

    def _export(self) -> None:
        missing = self.missing
        if not missing:
            for name, search in self._shifts.items():
                self.layers[name].set_shift(search.bits)
            self._exported = ExportedState(self.layers.values())
            if self.is_of_copy:
                _log.info("The factors of the copy are known; save_quant_retrain_model writes them.")
                return
            record = self._record_file.write()
            _log.info("Wrote the factors of %d layers to '%s'.", len(record.layers), self._record_file.path)
        elif not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The factors are not written to '%s': no forward has shown the inputs of these layers yet: %s.",
                self._record_file.path, ", ".join(missing),
            )  # fmt: skip


def _watched(layer: QuantizedLayer) -> ShiftErrors:
    errors = ShiftErrors()
    layer.register_forward_hook(errors)
    return errors
