"""Refining a model of the dynamic path: its layers, and the files that a save reads."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...backends.dynamic.forward_stream import ForwardStream
from ...backends.dynamic.forwards import original_forwards, replacement_of
from ...backends.dynamic.session.calibration_session import CalibrationSession
from ...backends.dynamic.session.retrain_session import RetrainSession
from ...backends.dynamic.session.session_forward import find_session
from ...backends.dynamic.session.shift_search import renew_shift
from ...config.layers.refine_config import RefineConfig
from ...errors import CalibrationError
from ...log import get_logger
from ..data_batches import check_calls, naming_other_shapes
from ..float_file import write_changed_weights
from .refine_model import Methods, Refinement, refine_layers

_log = get_logger(__name__)


def refine_modules(
    model: nn.Module,
    batches: Sequence[tuple[Any, ...]],
    methods: Methods,
    *,
    seed: int,
    progress: bool,
    resume_dir: Path | None,
) -> Refinement:
    """Refines a calibrated model of the dynamic path in place, and writes its files again; see `api.refine.refine`.

    Raises:
      CalibrationError: The model is not calibrated.
    """
    session: CalibrationSession | RetrainSession
    model, session = find_session("refine", model, (CalibrationSession, RetrainSession), ("quantize_model",))
    if session.missing:
        raise CalibrationError(
            f"refine: calibration is not complete, {len(session.missing)} layers have no parameters:"
            f" {', '.join(session.missing)}. Run at least batch_num forwards first."
        )
    with original_forwards(model):
        check_calls("refine", "data", batches, model)
        names = list(inspect.signature(model.forward).parameters)
    seen = getattr(replacement_of(model), "seen_inputs", {})
    with naming_other_shapes("refine", batches, lambda: names, seen):
        result = refine_layers(
            ForwardStream(model),
            session.layers,
            batches,
            methods,
            seed=seed,
            progress=progress,
            resume_dir=resume_dir,
            when_refined=renew_shift,
        )
    if isinstance(session, RetrainSession):
        session.take_changed_weights()
    else:
        write_changed_weights(model, session)
    return result


@dataclasses.dataclass(frozen=True)
class ConfiguredRefinement:
    """Refines a calibrated model as ``config`` says; an object, so that a model that holds it can be pickled."""

    config: RefineConfig

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Any, ...]]) -> None:
        """Refines ``model`` with the kept ``batches``."""
        config = self.config
        result = refine_modules(
            model, batches, config.methods, seed=config.seed, progress=sys.stderr.isatty(), resume_dir=None
        )
        _log.info("%s", result.summary())
