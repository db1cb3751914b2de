"""Operations of your own as layers: a class for a function of torch, a row of AMCT_CAPACITY for a module.

Run: python sample/tutorials/custom_operations.py
"""

import json
import os
from pathlib import Path

import torch
from digits_net import DigitsNet, accuracy, load, trained

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.capacity import read_capacity


class Floor(amct.CustomModuleBase):
    """``torch.floor`` as a module: torch has none."""

    onnx_type = "Floor"  # the type of its ONNX node
    num_inputs = 1

    def forward(self, x):
        return torch.floor(x)


class Flip(torch.nn.Module):
    """A module that knows nothing of this package; it is exported as a Transpose."""

    def forward(self, x):
        return x.transpose(2, 3)


class Net(DigitsNet):
    def __init__(self):
        super().__init__()
        self.floor, self.flip = Floor(), Flip()

    def forward(self, x):
        return super().forward(self.flip(self.flip(self.floor(x * 8) / 8)))


# In each process, before the first configuration or model.
amct.register_custom_op(Floor, quantize=True)

# Rows of this file replace the installed rows of the same name. Both rows of a pair grow by one.
rows = read_capacity()
types, onnx_types = (*rows.no_weight_quant_types, "Flip"), (*rows.no_weight_quant_onnx_types, "Transpose")
text = f"NO_WEIGHT_QUANT_TYPES, list, {', '.join(types)}\nNO_WEIGHT_QUANT_ONNX_TYPES, list, {', '.join(onnx_types)}\n"
Path("tmp").mkdir(exist_ok=True)
Path("tmp/capacity.csv").write_text(text)
os.environ["AMCT_CAPACITY"] = "tmp/capacity.csv"

model = Net().eval()
model.load_state_dict(trained().state_dict())
images, _, _, _ = load()
amct.create_quant_config_fx("tmp/config.json", model)
entries = json.loads(Path("tmp/config.json").read_text())
print("layers:", [name for name, entry in entries.items() if isinstance(entry, dict)])
quant_model = amct.create_quant_model_fx("tmp/config.json", model)
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    quant_model(images[:64])
amct.enable_quantization(quant_model, fake_quant=True)
print(f"float: {accuracy(model):.2f} %, fake_quant: {accuracy(quant_model):.2f} %")
amct.save_quant_model_fx(quant_model, "out/digits", images[:1])
