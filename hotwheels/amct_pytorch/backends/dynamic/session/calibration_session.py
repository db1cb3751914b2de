"""CalibrationSession: counts the batches of a model made by quantize_model and writes its record (spec 3)."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn

from ....files import FileSet
from ....log import get_logger
from ....nn.mode import Mode
from ....nn.quantized_layer import QuantizedLayer
from ....plan.quant_plan import QuantPlan
from ....record import Record
from ...batches.kept_batches import Batch, keeping
from ...layers.layer_container import LayerContainer, layers_by_name
from ..read.float_model import Fold
from ..read.folding import Fusion
from .bn_update import BnUpdate, switch_batch_norms, update_batch_norms, with_present_weights, write_present_norms
from .record_file import RecordFile
from .shift_search import ShiftSearch
from .written_weights import changed_weights, weight_digests

_log = get_logger(__name__)


class Phase(enum.Enum):
    """The purpose of the next forward."""

    BN_UPDATE = enum.auto()
    CALIBRATION = enum.auto()
    DONE = enum.auto()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatFile:
    """What the float ONNX file of a session was made from, so that it can be written again with other weights.

    Attributes:
      path: The file.
      inputs: The example input.
      setting: Arguments of the export.
      fusion: Which BatchNorms are folded.
      plan: The quantized layers.
      settings: The settings that a save reads from the file.
    """

    path: Path
    inputs: tuple[Any, ...]
    setting: Mapping[str, Any]
    fusion: Fusion
    plan: QuantPlan
    settings: Mapping[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """The settings of a session.

    Attributes:
      batch_num: Number of calibration forwards.
      record_file: File for the quantization factors.
      float_file: The float ONNX file to which the record belongs.
      partners: Digests of the files to which the record belongs, by name.
      shifted: Layers whose record has a shift bit.
      unfused: Layers whose record has ``skip_fusion``.
      folds: The BatchNorms that are folded at save.
      bn_update: How BatchNorms are updated before the calibration; None if they are not.
      pictures: Number of calibration pictures that are kept for `when_calibrated`.
      when_calibrated: Called once with the model and the kept batches after the forward that completes the calibration.
    """

    batch_num: int
    record_file: Path
    float_file: FloatFile | None = None
    partners: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shifted: frozenset[str] = frozenset()
    unfused: frozenset[str] = frozenset()
    folds: tuple[Fold, ...] = ()
    bn_update: BnUpdate | None = None
    pictures: int = 0
    when_calibrated: Callable[[nn.Module, Sequence[Batch]], None] | None = None


class CalibrationSession:
    """Controls the modes of one quantized model, forward by forward.

    Attributes:
      plan: The settings.
      container: The quantized layers.
      layers: The quantized layers by name.
    """

    def __init__(self, container: LayerContainer, plan: SessionPlan, files: FileSet) -> None:
        """Calibrates the weights, and adds the record with their factors to ``files`` (spec 3)."""
        self.plan = plan
        self.container = container
        self._batches = 0
        self._has_warned = False
        self._kept: list[Batch] = []
        self._written: dict[str, str] = {}  # digests of the weights in the float ONNX file
        self._record_file = RecordFile(plan.record_file, container, plan.unfused, plan.partners)
        self._shifts = self._watch_outputs()
        self._enter(Phase.CALIBRATION)
        weights = self._record_file.write_weights(files).layers
        for name in self._shifts:
            self.layers[name].expect_shift(weights[name])

    @property
    def layers(self) -> dict[str, QuantizedLayer]:
        """The quantized layers by name, in graph order."""
        return layers_by_name(self.container)

    @property
    def observes(self) -> bool:
        """Whether the next forward finds ranges."""
        return self._phase is Phase.CALIBRATION

    @property
    def refines_itself(self) -> bool:
        """Whether the end of the calibration is followed by a refinement."""
        return self.plan.when_calibrated is not None

    @property
    def parts(self) -> tuple[object, ...]:
        """The session and the searches for shift bits."""
        return self, *self._shifts.values()

    def begin(self) -> None:
        """Sets the mode; called before each forward."""
        if self._phase is Phase.CALIBRATION and not self._batches and self._is_complete():
            self._enter(Phase.DONE)  # the state was loaded from a checkpoint
        for search in self._shifts.values():
            search.begin_forward()

    def end(self) -> None:
        """Counts the forward and goes on to the next phase if calibration is complete; called after each forward."""
        if self._phase is not Phase.CALIBRATION:
            return
        for name, search in self._shifts.items():
            search.end_forward(self.layers[name])
        self._batches += 1
        if self._batches < self.plan.batch_num:
            return
        if self._is_complete():
            self._finish()
        elif not self._has_warned:
            self._warn_incomplete()

    def keeping(self, batch: Batch) -> AbstractContextManager[None]:
        """Keeps the first batches of the calibration, as many as the plan says."""
        return keeping(self._kept, self.plan.pictures if self.observes else 0, batch)

    def settle(self, model: nn.Module) -> None:
        """Calls ``when_calibrated`` of the plan as soon as the calibration is complete."""
        if self._phase is Phase.DONE and self._kept and self.plan.when_calibrated is not None:
            batches, self._kept = self._kept, []
            self.plan.when_calibrated(model, batches)

    @property
    def missing(self) -> list[str]:
        """The layers that are not calibrated."""
        return [name for name, layer in self.layers.items() if not layer.is_calibrated]

    def write_record(self, files: FileSet, partners: Mapping[str, str]) -> None:
        """Adds the record with the present factors to ``files``; it belongs to other files with these digests."""
        self._record_file.partners = partners
        self._record_file.write(files)

    def note_written_weights(self, model: nn.Module) -> None:
        """Notes the weights of ``model``, the model of this session, as those in the float ONNX file."""
        self._written = weight_digests(model)

    def weights_not_written(self, model: nn.Module) -> list[str]:
        """Returns the names of the weights of ``model`` that a save would not write, since they were changed."""
        return changed_weights(model, self._written, updates_batch_norms=self.plan.bn_update is not None)

    def set_batch_norms(self, model: nn.Module, is_training: bool) -> None:
        """Switches the BatchNorms, for ``update_bn_status``; ``model`` is the model of this session."""
        if self.plan.bn_update is None:
            switch_batch_norms(model, is_training)
            return
        update_batch_norms(model, is_training, self.plan.bn_update, self.plan.folds)
        is_done = not is_training and self._is_complete()
        self._enter(Phase.BN_UPDATE if is_training else Phase.DONE if is_done else Phase.CALIBRATION)

    def fold_present_state(self, float_model: ir.Model, record: Record) -> Record:
        """Writes the present BatchNorms into ``float_model``, in place, and returns the record that fits them.

        ``float_model`` was written by quantize_model, ``record`` by the calibration.
        """
        write_present_norms(float_model, self.plan.bn_update, self.plan.folds)
        return with_present_weights(record, self.layers)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        mode = self._mode_of(phase)
        for layer in self.layers.values():
            layer.mode = mode

    def _mode_of(self, phase: Phase) -> Mode:
        if phase is Phase.CALIBRATION:
            # With update_bn the BatchNorm statistics fit the quantized weights, so the weights are quantized here too.
            return Mode.CALIBRATION if self.plan.bn_update is None else Mode.CALIBRATION_OF_DATA
        return Mode.WEIGHTS if phase is Phase.BN_UPDATE else Mode.FAKE_QUANT

    def _finish(self) -> None:
        self._enter(Phase.DONE)
        for name, search in self._shifts.items():
            self.layers[name].set_shift(search.bits)
        record = self._record_file.write()
        _log.info("Calibrated %d layers, wrote '%s'.", len(record.layers), self.plan.record_file)

    def _is_complete(self) -> bool:
        return not self.missing

    def _warn_incomplete(self) -> None:
        self._has_warned = True
        _log.warning(
            "%d batches were seen, but these layers did not take part in all of them: %s. The calibration goes on until"
            " each has seen batch_num.", self._batches, ", ".join(self.missing),
        )  # fmt: skip

    def _watch_outputs(self) -> dict[str, ShiftSearch]:
        searches = {}
        for name, layer in self.layers.items():
            if name in self.plan.shifted and layer.weighted is not None:
                search = ShiftSearch()
                layer.register_forward_hook(search)
                searches[name] = search
        return searches
