"""Widths by layer: data with 8, 12 or 16 bits, weights with 8 or 4 bits, or on a codebook of 16 values.

Run: python sample/tutorials/mixed_bits_and_codebooks.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

RULES = {
    "8 bits": "common_config: {quant_enable: true}\n",
    "12 bits for the data of two layers": """
override_layer_configs:
  - layer_name: [conv1, conv2]
    activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 12}}
""",
    "4-bit weights": """
override_layer_types:
  - layer_type: torch.nn.Conv2d
    weight_quant_params: {quantizer: ArqWeightFakeQuantize, quantizer_args: {num_bits: 4}}
""",
    "a codebook of 16 values": """
override_layer_types:
  - layer_type: torch.nn.Conv2d
    weight_quant_params: {quantizer: SnqWeightFakeQuantize, quantizer_args: {num_bits: 4}}
""",
    "a codebook, refined": """
override_layer_types:
  - layer_type: torch.nn.Conv2d
    weight_quant_params: {quantizer: SnqWeightFakeQuantize, quantizer_args: {num_bits: 4}}
refine: true
""",
}

model = trained()
images, _, _, _ = load()
print(f"{'float':36}{accuracy(model):6.2f} %")
for name, rules in RULES.items():
    Path("tmp/rules.yml").write_text(rules)
    amct.create_quant_config_fx("tmp/config.json", model, "tmp/rules.yml")
    quant_model = amct.create_quant_model_fx("tmp/config.json", model)
    amct.enable_quantization(quant_model, calibration=True)
    with torch.no_grad():
        quant_model(images[:64])
    amct.enable_quantization(quant_model, fake_quant=True)
    print(f"{name:36}{accuracy(quant_model):6.2f} %")

# The codebook is in the files: 4-bit indices in the deploy model, 16 values in the parameter file.
amct.save_quant_model_fx(quant_model, "out/codebook", images[:1])
