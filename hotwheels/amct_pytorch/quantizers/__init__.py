"""Observers and fake quantizers: thin state around ``core`` (spec 5, 6)."""

from .arq import ArqWeightFakeQuantize
from .base import ActivationQuantizer, WeightQuantizer
from .fixed import FixedFakeQuantize
from .lnq import LnqFakeQuantize
from .luq import LuqActivationFakeQuantize, LuqWeightFakeQuantize
from .observers.arq_observer import ArqObserver
from .observers.ifmr_observer import IFMRObserver
from .observers.luq_observer import LuqMseObserver
from .observers.snq_observer import SnqObserver
from .registry import build_activation, build_weight, register
from .snq import SnqWeightFakeQuantize
from .ulq import UlqFakeQuantize

__all__ = [
    "ActivationQuantizer",
    "ArqObserver",
    "ArqWeightFakeQuantize",
    "FixedFakeQuantize",
    "IFMRObserver",
    "LnqFakeQuantize",
    "LuqActivationFakeQuantize",
    "LuqMseObserver",
    "LuqWeightFakeQuantize",
    "SnqObserver",
    "SnqWeightFakeQuantize",
    "UlqFakeQuantize",
    "WeightQuantizer",
    "build_activation",
    "build_weight",
    "register",
]
