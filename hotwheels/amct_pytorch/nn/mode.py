"""Mode: what a quantized model does in its forward (spec 2.1)."""

from __future__ import annotations

import contextlib
import contextvars
import enum
from collections.abc import Iterator

from ..errors import ConfigError


class Mode(enum.Enum):
    """The states of ``enable_quantization(calibration, fake_quant, real_quant)``, and two states of the dynamic path.

    WEIGHTS: weights are fake-quantized, data is neither observed nor quantized (BatchNorms are being updated, spec 3).
    CALIBRATION_OF_DATA: data is observed, weights are fake-quantized.
    """

    FLOAT = (False, False, False)
    CALIBRATION = (True, False, False)
    PRE_CALIBRATION = (True, True, False)
    FAKE_QUANT = (False, True, False)
    REAL_QUANT = (False, False, True)
    WEIGHTS = "weights"
    CALIBRATION_OF_DATA = "calibration of data"

    @staticmethod
    def of(calibration: bool, fake_quant: bool, real_quant: bool) -> Mode:
        """Returns the mode for the three switches; raises ConfigError for a combination that is no state."""
        try:
            return Mode((calibration, fake_quant, real_quant))
        except ValueError:
            msg = (
                f"enable_quantization: calibration={calibration}, fake_quant={fake_quant}, real_quant={real_quant} is"
                " not a state. Allowed: all False (float); calibration; calibration and fake_quant (pre-calibration of"
                " training); fake_quant; real_quant."
            )
            raise ConfigError(msg) from None

    @property
    def observes(self) -> bool:
        """Whether the quantizers observe the data."""
        return self in (Mode.CALIBRATION, Mode.PRE_CALIBRATION, Mode.CALIBRATION_OF_DATA)


_forced: contextvars.ContextVar[Mode | None] = contextvars.ContextVar("forced mode of the layers", default=None)


def forced_mode() -> Mode | None:
    """Returns the mode that all layers have inside `forcing`, in this thread; None outside of it."""
    return _forced.get()


@contextlib.contextmanager
def forcing(mode: Mode) -> Iterator[None]:
    """Returns a context in which all layers have ``mode`` in this thread; other threads are not affected."""
    token = _forced.set(mode)
    try:
        yield
    finally:
        _forced.reset(token)
