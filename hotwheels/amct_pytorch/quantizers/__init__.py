"""Observers and fake quantizers: thin state around ``core`` (SPEC 5, 6)."""

from .arq import ArqWeightFakeQuantize
from .arq_observer import ArqObserver
from .base import ActivationQuantizer, WeightQuantizer
from .fixed import FixedFakeQuantize
from .ifmr_observer import IFMRObserver
from .lnq import LnqFakeQuantize
from .luq import LuqActivationFakeQuantize, LuqWeightFakeQuantize
from .luq_observer import LuqMseObserver
from .registry import build_activation, build_weight, register
from .snq import SnqWeightFakeQuantize
from .snq_observer import SnqObserver
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
