"""Advanced Model Compression Toolkit for PyTorch, an open implementation: quantization for fixed-function chips."""

from . import custom_op, nn
from .api.fx import (
    create_quant_config_fx,
    create_quant_model_fx,
    enable_dump,
    enable_quantization,
    restore_quant_model_fx,
    save_quant_model_fx,
)
from .errors import AmctError, CalibrationError, ConfigError, ExportError, RecordError, UnsupportedModelError
from .version import __version__

__all__ = [
    "AmctError",
    "CalibrationError",
    "ConfigError",
    "ExportError",
    "RecordError",
    "UnsupportedModelError",
    "__version__",
    "create_quant_config_fx",
    "create_quant_model_fx",
    "custom_op",
    "enable_dump",
    "enable_quantization",
    "nn",
    "restore_quant_model_fx",
    "save_quant_model_fx",
]
