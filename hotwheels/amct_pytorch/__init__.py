"""Advanced Model Compression Toolkit for PyTorch, an open implementation: quantization for fixed-function chips."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec(f"{__name__}.proto") is None:  # setup.py puts that folder of the checkout here
    raise ImportError(
        "This hotwheels/amct_pytorch is a checkout that is not installed: run 'pip install -e .' in its folder, or, if"
        " another copy is installed, start Python in another folder."
    )

from . import custom_op, nn
from .custom_op import *  # noqa: F403 - the extension modules, listed there
from .errors import (
    AmctError,
    CalibrationError,
    ConfigError,
    ExportError,
    RecordError,
    TorchVersionError,
    UnsupportedModelError,
)
from .version import __version__

if TYPE_CHECKING:
    from .api.auto import auto_quantize
    from .api.check import check_model
    from .api.dynamic import create_quant_config, quantize_model, save_model, update_bn_status
    from .api.fx import (
        create_quant_config_fx,
        create_quant_model_fx,
        enable_dump,
        enable_quantization,
        restore_quant_model_fx,
        save_quant_model_fx,
    )
    from .api.refine import refine
    from .api.retrain import (
        create_quant_retrain_config,
        create_quant_retrain_model,
        restore_quant_retrain_model,
        save_quant_retrain_model,
    )
    from .api.source import graph_to_dynamic_module
    from .api.training import freeze_batch_norm
    from .plan.advice import Advice, AdviceRule, Remedy
    from .quantizers import (
        ArqObserver,
        ArqWeightFakeQuantize,
        FixedFakeQuantize,
        IFMRObserver,
        LnqFakeQuantize,
        LuqActivationFakeQuantize,
        LuqMseObserver,
        LuqWeightFakeQuantize,
        SnqObserver,
        SnqWeightFakeQuantize,
        UlqFakeQuantize,
    )
    from .quantizers.foreign.trusted import allow_quantizers
    from .workflows.analysis.analyzer import QuantAnalyzer
    from .workflows.check.model_report import CheckedLayer, ModelProblem, ModelReport

# Where the public names are. A module is imported when one of its names is first used: a script that only imports the
# package, or whose workers do, does not pay for what it does not call.
_PLACES = {
    ".api.auto": ("auto_quantize",),
    ".api.check": ("check_model",),
    ".api.dynamic": ("create_quant_config", "quantize_model", "save_model", "update_bn_status"),
    ".api.fx": (
        "create_quant_config_fx",
        "create_quant_model_fx",
        "enable_dump",
        "enable_quantization",
        "restore_quant_model_fx",
        "save_quant_model_fx",
    ),
    ".api.refine": ("refine",),
    ".api.retrain": (
        "create_quant_retrain_config",
        "create_quant_retrain_model",
        "restore_quant_retrain_model",
        "save_quant_retrain_model",
    ),
    ".api.source": ("graph_to_dynamic_module",),
    ".api.training": ("freeze_batch_norm",),
    ".plan.advice": ("Advice", "AdviceRule", "Remedy"),
    ".quantizers": (
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
    ),
    ".quantizers.foreign.trusted": ("allow_quantizers",),
    ".workflows.analysis.analyzer": ("QuantAnalyzer",),
    ".workflows.check.model_report": ("CheckedLayer", "ModelProblem", "ModelReport"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "Advice",
    "AdviceRule",
    "AmctError",
    "ArqObserver",
    "ArqWeightFakeQuantize",
    "CalibrationError",
    "CheckedLayer",
    "ConfigError",
    "ExportError",
    "FixedFakeQuantize",
    "IFMRObserver",
    "LnqFakeQuantize",
    "LuqActivationFakeQuantize",
    "LuqMseObserver",
    "LuqWeightFakeQuantize",
    "ModelProblem",
    "ModelReport",
    "QuantAnalyzer",
    "RecordError",
    "Remedy",
    "SnqObserver",
    "SnqWeightFakeQuantize",
    "TorchVersionError",
    "UlqFakeQuantize",
    "UnsupportedModelError",
    "__version__",
    "allow_quantizers",
    "auto_quantize",
    "check_model",
    "create_quant_config",
    "create_quant_config_fx",
    "create_quant_model_fx",
    "create_quant_retrain_config",
    "create_quant_retrain_model",
    "custom_op",
    "enable_dump",
    "enable_quantization",
    "freeze_batch_norm",
    "graph_to_dynamic_module",
    "nn",
    "quantize_model",
    "refine",
    "restore_quant_model_fx",
    "restore_quant_retrain_model",
    "save_model",
    "save_quant_model_fx",
    "save_quant_retrain_model",
    "update_bn_status",
]
__all__ += custom_op.__all__


def __getattr__(name: str) -> Any:
    """Imports the module that has the public ``name``, or the submodule with that name."""
    if name.startswith("__") or (name not in _PLACE_OF and importlib.util.find_spec(f"{__name__}.{name}") is None):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PLACE_OF.get(name, f".{name}"), __name__)
    value = getattr(module, name) if name in _PLACE_OF else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
