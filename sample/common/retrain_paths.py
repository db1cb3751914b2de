"""The library calls of the retraining samples, on the FX path and on the dynamic path.

The order is the same in your own script: `new_model` or `restored_model`, then for each epoch `start_training`, steps,
`start_evaluation` and forwards, and `save` at the end.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from sample.common.calibration import (
    ONNX_EXPORT_SETTING,
    CalibrationSample,
    calibration_batches,
    load_checkpoint,
)
from sample.common.datasets import Loaders
from sample.common.restoring import float_model_for, read_checkpoint, state_in
from sample.common.training import trained


@dataclasses.dataclass(frozen=True)
class Folders:
    """The output folders of a run: next to the script, as in the file lists of HiSilicon's AMCT manual."""

    script: Path
    network: str

    @property
    def results(self) -> Path:
        """The folder of checkpoints and deploy files."""
        return self.script.resolve().parent / "checkpoints" / "retrain"

    @property
    def temporary(self) -> Path:
        """The folder of configuration, pictures, the record and results.csv."""
        return self.script.resolve().parent / "tmp" / "retrain"

    def checkpoint(self, which: str) -> Path:
        """The file of the ``best`` or ``last`` weights."""
        return self.results / f"{self.network}_retrain_{which}.pt"


class RetrainPath(Protocol):
    """One of the two families of functions.

    Attributes:
      modes: The modes to evaluate, by their names in results.csv; the last mode decides which epoch is the best.
    """

    modes: ClassVar[tuple[str, ...]]

    def new_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        """Returns a quantized model that is ready to be trained."""

    def restored_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        """Returns the quantized model of the checkpoint ``args.pt``."""

    def start_training(self, model: nn.Module) -> None:
        """Switches ``model``, which may be wrapped in DistributedDataParallel, to training."""

    def start_evaluation(self, model: nn.Module, mode: str) -> None:
        """Switches ``model`` to one of ``modes``."""

    def save(self, args: argparse.Namespace, model: nn.Module, folders: Folders, prefix: Path, example: Tensor) -> None:
        """Writes the files for deployment."""


class FxPath:
    """Static graphs: functions whose names end in ``_fx``."""

    modes: ClassVar[tuple[str, ...]] = ("fake_quant", "real_quant")

    def new_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        model = load_checkpoint(sample, args.weights) if args.weights else trained(sample.network)
        # 1. What is quantized and how. Every process writes the same file; that is safe.
        config_file = folders.temporary / "config.json"
        amct.create_quant_config_fx(config_file, model, args.config_def)
        # 2. The float graph with quantizers in place.
        quant_model = amct.create_quant_model_fx(config_file, model).to(args.device).eval()
        # 3. Pre-calibration: first ranges. Calibrated inputs are quantized at once, so later layers calibrate on them.
        amct.enable_quantization(quant_model, calibration=True, fake_quant=True)
        with torch.no_grad():
            for images, _ in itertools.islice(loaders.train, calibration_batches(config_file)):
                quant_model(images.to(args.device))
        return quant_model

    def restored_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        # The float model only lends its structure.
        model = float_model_for(sample, state_in(read_checkpoint(args.pt), args.state_dict_name, args.pt))
        return amct.restore_quant_model_fx(args.config_file, model, args.pt, args.state_dict_name).to(args.device)

    def start_training(self, model: nn.Module) -> None:
        amct.enable_quantization(model, fake_quant=True)
        model.train()

    def start_evaluation(self, model: nn.Module, mode: str) -> None:
        amct.enable_quantization(model.eval(), **{mode: True})

    def save(self, args: argparse.Namespace, model: nn.Module, folders: Folders, prefix: Path, example: Tensor) -> None:
        amct.save_quant_model_fx(model, prefix, example, ONNX_EXPORT_SETTING)


@dataclasses.dataclass(frozen=True)
class DynamicPath:
    """Models mapped to ONNX: functions with ``quant_retrain`` in their names.

    Attributes:
      network: Returns an untrained float network with the shapes of a state.
    """

    network: Callable[[Mapping[str, Tensor]], nn.Module]
    modes: ClassVar[tuple[str, ...]] = ("fake_quant", "real_quant")

    def new_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        source = load_checkpoint(sample, args.weights) if args.weights else trained(sample.network)
        model = self.network(source.state_dict())
        model.load_state_dict(source.state_dict())
        model, example = model.to(args.device), next(iter(loaders.evaluation))[0][:1].to(args.device)
        # 1. What is quantized and how. Every process writes the same files; that is safe.
        config_file = folders.temporary / "config.json"
        amct.create_quant_retrain_config(config_file, model, example, args.config_def or sample.config_def)
        # 2. The model with quantizers in place. The first training batches calibrate the ranges.
        return amct.create_quant_retrain_model(config_file, model, _record(folders), example)

    def restored_model(
        self, sample: CalibrationSample, args: argparse.Namespace, folders: Folders, loaders: Loaders
    ) -> nn.Module:
        model = self.network(state_in(read_checkpoint(args.pt), args.state_dict_name, args.pt)).to(args.device)
        example = next(iter(loaders.evaluation))[0][:1].to(args.device)
        return amct.restore_quant_retrain_model(
            args.config_file, model, _record(folders), example, args.pt, args.state_dict_name
        )

    def start_training(self, model: nn.Module) -> None:
        amct.enable_quantization(model.train(), calibration=True)  # calibrates first, then fake-quantizes

    def start_evaluation(self, model: nn.Module, mode: str) -> None:
        # The first forwards in fake_quant write the factors into the record; real_quant needs these factors.
        amct.enable_quantization(model.eval(), calibration=mode == "fake_quant", real_quant=mode == "real_quant")

    def save(self, args: argparse.Namespace, model: nn.Module, folders: Folders, prefix: Path, example: Tensor) -> None:
        config_file = args.config_file if args.from_checkpoint else folders.temporary / "config.json"
        amct.save_quant_retrain_model(config_file, model, _record(folders), prefix, example, **ONNX_EXPORT_SETTING)


def _record(folders: Folders) -> Path:
    return folders.temporary / "scale_offset_record.txt"
