"""A transformer as torch has it: attention is layers, and only the operations of the chip's matrix unit are quantized.

Run: python sample/tutorials/transformer.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, train
from torch import nn

import hotwheels.amct_pytorch as amct


class Vit(nn.Module):
    """Sixteen patches of 2 x 2 pixels, one block of attention."""

    def __init__(self, dim=32, heads=4):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 16, dim) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


CUBE_ONLY = """
common_config: {quant_enable: false}
override_layer_types:
  - layer_type: [torch.nn.Linear, torch.nn.Conv2d]
    weight_quant_params: {quantizer: ArqWeightFakeQuantize}
    activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 12}}
  - layer_type: [torch.matmul, operator.matmul, matmul]
    activation_quant_params:
      - quantizer: LuqActivationFakeQuantize
        quantizer_args: {observer: IFMRObserver, num_bits: 12, qscheme: symmetric, with_offset: false}
      - quantizer: LuqActivationFakeQuantize # the second input counts as a weight: 8 bits
        quantizer_args: {observer: IFMRObserver, num_bits: 8, qscheme: symmetric, with_offset: false}
"""

torch.manual_seed(0)
model = Vit()
train(model, epochs=12, lr=0.004)
model.eval()
images, _, _, _ = load()
Path("tmp").mkdir(exist_ok=True)
Path("tmp/cube_only.yml").write_text(CUBE_ONLY)
for rules in (None, "tmp/cube_only.yml"):  # everything with 8 bits; the matrix unit alone, data with 12 bits
    # `input_data` gives the trace an example: transformers read sizes.
    amct.create_quant_config_fx("tmp/config.json", model, rules, input_data=images[:2])
    quant_model = amct.create_quant_model_fx("tmp/config.json", model, input_data=images[:2])
    amct.enable_quantization(quant_model, calibration=True)
    with torch.no_grad():
        quant_model(images[:64])
    amct.enable_quantization(quant_model, fake_quant=True)
    print(f"{rules or 'default'}: {accuracy(quant_model):.2f} % (float {accuracy(model):.2f} %)")
amct.save_quant_model_fx(quant_model, "out/vit", images[:1])
