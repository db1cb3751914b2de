"""Finds the quantized graphs inside a module that the user passes."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from ..backends.dynamic.session.mode_switch import ModeSwitch, switches_inside
from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.user_model.float_model import inside_wrapper
from ..errors import CalibrationError, ConfigError, UnsupportedModelError
from ..log import get_logger
from ..nn.quantized_layer import NO_DATA_PARALLEL

_log = get_logger(__name__)
_Quantized = TypeVar("_Quantized", bound=nn.Module)


def quantized_inside(function: str, model: nn.Module) -> list[QuantGraphModule]:
    """Returns the quantized graphs inside ``model``, at any depth; raises as `instances_inside`."""
    return instances_inside(function, model, QuantGraphModule)


def instances_inside(function: str, model: nn.Module, *kinds: type[_Quantized]) -> list[_Quantized]:
    """Returns the modules of the classes ``kinds``, which are quantized models, inside ``model``, at any depth.

    Raises:
      ConfigError: There is no such module.
      UnsupportedModelError: Such a module is wrapped in DataParallel.
    """
    modules = list(model.modules())
    found = [module for module in modules if isinstance(module, kinds)]
    if not found:
        refuse_dynamic(function, model)
        msg = f"{function}: {type(model).__name__} contains no quantized model. Pass a result of create_quant_model_fx."
        raise ConfigError(msg)
    for wrapper in (module for module in modules if isinstance(module, nn.DataParallel)):
        if any(isinstance(module, kinds) for module in wrapper.modules()):
            raise UnsupportedModelError(f"{function}: {NO_DATA_PARALLEL}")
    return found


def switchable_inside(function: str, model: nn.Module) -> list[QuantGraphModule | ModeSwitch]:
    """Returns the quantized models of both paths inside ``model``.

    Raises:
      ConfigError: There is no quantized model.
      UnsupportedModelError: A quantized graph is wrapped in DataParallel.
    """
    dynamic = switches_inside(model)
    if dynamic and not any(isinstance(module, QuantGraphModule) for module in model.modules()):
        return [*dynamic]
    return [*quantized_inside(function, model), *dynamic]


def the_quantized_graph(function: str, model: nn.Module) -> QuantGraphModule:
    """Returns ``model``, or the module inside DistributedDataParallel, torch.compile or AveragedModel.

    Raises:
      UnsupportedModelError: That is no quantized graph.
    """
    while (inside := inside_wrapper(model)) is not None:
        model = inside
    if not isinstance(model, QuantGraphModule):
        refuse_dynamic(function, model)
        msg = (
            f"{function}: {type(model).__name__} is not a quantized model. Pass a result of create_quant_model_fx, not"
            " a module that contains it."
        )
        raise UnsupportedModelError(msg)
    return model


def refuse_dynamic(function: str, model: nn.Module) -> None:
    """Raises UnsupportedModelError if ``model`` is, or contains, a quantized model of the dynamic path."""
    if switches_inside(model):
        msg = (
            f"{function}: {type(model).__name__} is a quantized model of the dynamic path, from quantize_model or"
            f" create_quant_retrain_model; {function} takes those of the FX path, from create_quant_model_fx. To save"
            " it, call save_model or, after training, save_quant_retrain_model; amct compare shows its layers from the"
            " saved files."
        )
        raise UnsupportedModelError(msg)


def require_calibration(quantized: QuantGraphModule) -> None:
    """Raises CalibrationError, with the names, if layers have no grids yet."""
    missing: dict[str, list[str]] = {}
    for name in uncalibrated(quantized):
        missing.setdefault(quantized.quantized_layers[name].calibration_progress, []).append(name)
    if missing:
        groups = (f"{f'{progress} by ' if progress else ''}{', '.join(names)}" for progress, names in missing.items())
        msg = (
            f"Calibration is not complete, {sum(map(len, missing.values()))} layers have no parameters:"
            f" {'; '.join(groups)}. Run enable_quantization(model, calibration=True) and at least batch_num forwards"
            " first."
        )
        raise CalibrationError(msg)


def uncalibrated(quantized: QuantGraphModule) -> list[str]:
    """Returns the names of the layers that are not calibrated."""
    return [name for name, layer in quantized.quantized_layers.items() if not layer.is_calibrated]


def warn_of_finished_calibration(quantized: QuantGraphModule) -> None:
    """Warns that batches will be ignored, if no range of ``quantized`` is left to find; given grids need no batches."""
    layers = quantized.quantized_layers.values()
    found = [one for layer in layers for one in layer.activation if not one.is_fixed]
    if found and not uncalibrated(quantized) and all(one.is_finished for one in found):
        _log.warning(
            "enable_quantization: all %d layers have their grids, so further batches of calibration are ignored. To"
            " calibrate anew, create the model again with create_quant_model_fx from the configuration and the float"
            " model.", len(layers),
        )  # fmt: skip
