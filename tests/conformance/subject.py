"""The quantized model of the conformance suite: both paths, calibrated only (PTQ) or trained (QAT)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.quantizers import ActivationQuantizer
from tests.support.nets import shake_batch_norms

FX, DYNAMIC = "fx", "dynamic"
PTQ, QAT = "PTQ", "QAT"
STEPS = 3
SIMPLE = """
common_config:
  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {batch_num: 2}}
override_layer_configs:
  - layer_name: conv3
    weight_quant_params: {quantizer: LnqFakeQuantize, quantizer_args: {cluster_freq: 2}}
  - layer_name: fc
    activation_quant_params: {quantizer: LuqActivationFakeQuantize, quantizer_args: {qscheme: dynamic}}
"""
RETRAIN = """
batch_num : 2
retrain_data_quant_config: { ulq_quantize: { } }
override_layer_configs: { layer_name: "fc" retrain_data_quant_config: { luq_quantize: { } } }
override_layer_configs: { layer_name: "conv3" retrain_weight_quant_config: { lnq_quantize: { cluster_freq: 2 } } }
"""


class Net(nn.Module):
    """A folded BatchNorm, siblings that read one tensor, an addition, a BatchNorm that stands alone, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu2, self.bn2, self.pool = nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 5)
        shake_batch_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.conv2(x) + self.conv3(x))
        return self.fc(self.pool(self.bn2(x)).mean((2, 3)))


def float_net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(seed: int, size: int = 8) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, size: int = 8) -> Tensor:
    return torch.randint(5, (size,), generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Subject:
    """One path and one use of it.

    Attributes:
      path: FX or DYNAMIC.
      use: PTQ or QAT.
      folder: Where its files are.
    """

    path: str
    use: str
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def record(self) -> Path:
        return self.folder / "record.txt"

    @property
    def onnx(self) -> Path:
        return self.folder / "modified.onnx"

    def make(self, model: nn.Module | None = None) -> nn.Module:
        """Returns a quantized model whose ranges are not known yet, in the mode of its use."""
        model = (model or float_net()).train(self.use == QAT)
        if self.path == FX:
            (self.folder / "simple.yaml").write_text(SIMPLE)
            amct.create_quant_config_fx(self.config, model, self.folder / "simple.yaml")
            return amct.create_quant_model_fx(self.config, model)
        if self.use == PTQ:
            amct.create_quant_config(self.config, model, batch(0), batch_num=2)
            return amct.quantize_model(self.config, self.onnx, self.record, model, batch(0))
        (self.folder / "simple.cfg").write_text(RETRAIN)
        amct.create_quant_retrain_config(self.config, model, batch(0), self.folder / "simple.cfg")
        return amct.create_quant_retrain_model(self.config, model, self.record, batch(0))

    def switch(self, model: nn.Module, *, calibration: bool = False) -> None:
        """Goes on to the search for ranges, or from there to fake_quant; the dynamic path does so by itself."""
        if self.path == FX:
            amct.enable_quantization(model, calibration=calibration, fake_quant=not calibration or self.use == QAT)

    def restore(self, checkpoint: Path, model: nn.Module | None = None) -> nn.Module:
        """Returns the quantized model with the state in ``checkpoint``, in fake_quant."""
        model = (model or float_net()).train(self.use == QAT)
        if self.path == FX:
            quantized = amct.restore_quant_model_fx(self.config, model, checkpoint)
        elif self.use == QAT:
            quantized = amct.restore_quant_retrain_model(self.config, model, self.record, batch(0), checkpoint)
        else:
            quantized = self.make(model)
            quantized.load_state_dict(torch.load(checkpoint, weights_only=True))
        self.switch(quantized)
        return quantized

    def save(self, model: nn.Module) -> Path:
        """Writes the files of the model and returns the path of the deploy model."""
        prefix = self.folder / "out" / "net"
        if self.path == FX:
            amct.save_quant_model_fx(model, prefix, batch(0)[:1])
        elif self.use == PTQ:
            amct.save_model(self.onnx, self.record, str(prefix))
        else:
            amct.save_quant_retrain_model(self.config, model, self.record, str(prefix), batch(0)[:1])
        return self.folder / "out" / "net_deploy_model.onnx"


def loss_of(output: Tensor, seed: int) -> Tensor:
    return F.cross_entropy(output.float(), labels(seed, len(output)))


def grids_of(model: nn.Module) -> dict[str, Tensor]:
    """Scale and offset of every activation, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuantizer) and module.is_calibrated:
            found[name] = torch.cat([module.scale, module.zero_point.float()])
    return found


def calibrated(subject: Subject, model: nn.Module | None = None) -> nn.Module:
    """Returns a quantized model, a new one or ``model``, in fake_quant and in the mode of its use."""
    torch.manual_seed(0)
    model = model or subject.make()
    subject.switch(model, calibration=True)
    with torch.no_grad():
        model(batch(0)), model(batch(1))
    subject.switch(model)
    return model


def fake_quant_file_on(subject: Subject, x: Tensor) -> Tensor:
    """Returns the result of the fake_quant model that ``subject`` has saved."""
    session = onnxruntime.InferenceSession(subject.folder / "out" / "net_fake_quant_model.onnx")
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
