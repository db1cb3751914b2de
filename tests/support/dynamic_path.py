"""The calls of the dynamic path in one line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.config.files.tolerant_json import dump_json, read_json
from hotwheels.amct_pytorch.record import Record
from hotwheels.amct_pytorch.record.text_proto import read_record
from tests.support.fx_path import run_onnx


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one run, all in one folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def onnx(self) -> Path:
        return self.folder / "modified.onnx"

    @property
    def record_file(self) -> Path:
        return self.folder / "record.txt"

    @property
    def fake_quant(self) -> Path:
        return self.folder / "out" / "model_fake_quant_model.onnx"

    @property
    def deploy_pair(self) -> tuple[Path, Path]:
        return self.folder / "out" / "model_deploy_model.onnx", self.folder / "out" / "model_quant_param_record.bin"

    @property
    def record(self) -> Record:
        return read_record(self.record_file)

    @property
    def document(self) -> dict[str, Any]:
        document = read_json(self.config)
        assert isinstance(document, dict)
        return document

    def change(self, **changes: Any) -> None:
        """Replaces top-level keys of the configuration."""
        self.config.write_text(dump_json(self.document | changes))

    def change_layers(self, *layers: str, **changes: Any) -> None:
        """Replaces keys in the entries of ``layers``."""
        document = self.document
        self.change(**{name: document[name] | changes for name in layers})

    def save(self, model: nn.Module | None = None) -> None:
        amct.save_model(self.onnx, self.record_file, str(self.folder / "out" / "model"), model)


def make_config(model: nn.Module, folder: Path, inputs: Any, **arguments: Any) -> Files:
    files = Files(folder)
    amct.create_quant_config(files.config, model, inputs, **arguments)
    return files


def quantize(model: nn.Module, files: Files, inputs: Any, **setting: Any) -> nn.Module:
    return amct.quantize_model(files.config, files.onnx, files.record_file, model, inputs, **setting)


def run(model: nn.Module, *inputs: Any) -> Any:
    with torch.no_grad():
        return model(*inputs)


def calibrated(model: nn.Module, folder: Path, batches: Sequence[tuple[Any, ...]], **setting: Any) -> tuple:
    """Returns the model after the calibration with ``batches``, default configuration, and its files."""
    files = make_config(model, folder, batches[0], batch_num=len(batches))
    quantized = quantize(model, files, batches[0], **setting)
    for batch in batches:
        run(quantized, *batch)
    return quantized, files


def check_training(
    make: Callable[[], nn.Module], data: Callable[[int], Any], folder: Path, weight: Callable[[nn.Module], Tensor]
) -> nn.Module:
    """Trains ``weight(model)`` by one step, saves, and compares the file and a restored model with the trained one.

    ``make`` makes the float model, ``data(seed)`` a batch. Returns the trained model; its gradients are those of the
    step. The files begin with ``folder / "trained"``.
    """
    files = Files(folder)
    amct.create_quant_retrain_config(files.config, make(), data(1), None)
    quantized = amct.create_quant_retrain_model(files.config, make(), files.record_file, data(1))
    run(quantized, data(1))
    quantized.train()
    quantized(data(2)).square().mean().backward()
    with torch.no_grad():
        weight(quantized).sub_(weight(quantized).grad)
    run(quantized.eval(), data(3))
    amct.save_quant_retrain_model(files.config, quantized, files.record_file, folder / "trained", data(1))
    (found,) = run_onnx(folder / "trained_fake_quant_model.onnx", data(4))
    torch.testing.assert_close(torch.from_numpy(found), run(quantized, data(4)), rtol=1e-4, atol=1e-5)
    torch.save(quantized.state_dict(), folder / "state.pt")
    restored = amct.restore_quant_retrain_model(
        files.config, make(), folder / "again.txt", data(1), folder / "state.pt"
    )
    torch.testing.assert_close(run(restored.eval(), data(4)), run(quantized, data(4)))
    return quantized


def same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
