"""Advanced Model Compression Toolkit for PyTorch, an open implementation: quantization for fixed-function chips."""

import importlib.util

if importlib.util.find_spec(f"{__name__}.proto") is None:  # setup.py puts that folder of the checkout here
    raise ImportError(
        "This hotwheels/amct_pytorch is a checkout that is not installed: run 'pip install -e .' in its folder, or, if"
        " another copy is installed, start Python in another folder."
    )

from . import custom_op, nn
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
from .version import __version__
from .workflows.analysis.analyzer import QuantAnalyzer
from .workflows.check.model_report import CheckedLayer, ModelProblem, ModelReport

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
