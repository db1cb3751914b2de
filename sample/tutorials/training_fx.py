"""Quantization-aware training on the FX path: 4-bit weights, a checkpoint, and the files.

Run: python sample/tutorials/training_fx.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, train, trained

import hotwheels.amct_pytorch as amct

RULES = """
common_config:
  weight_quant_params: {quantizer: ArqWeightFakeQuantize, quantizer_args: {num_bits: 4}}
  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 8}}
override_layer_configs:
  - layer_name: fc # the last layer keeps 8 bits
    weight_quant_params: {quantizer: ArqWeightFakeQuantize, quantizer_args: {num_bits: 8}}
"""

model = trained()
images, _, _, _ = load()
Path("tmp/rules.yml").write_text(RULES)
amct.create_quant_config_fx("tmp/config.json", model, "tmp/rules.yml")
quant_model = amct.create_quant_model_fx("tmp/config.json", model)
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    quant_model(images[:64])
amct.enable_quantization(quant_model, fake_quant=True)
print(f"float: {accuracy(model):.2f} %, calibrated: {accuracy(quant_model):.2f} %")

# The ranges are parameters too, so the optimizer is built after the quantized model. A tenth of the float rate.
torch.manual_seed(0)
train(quant_model, epochs=1, lr=0.001)
amct.freeze_batch_norm(quant_model)  # the last epoch keeps the statistics of the BatchNorms
train(quant_model, epochs=1, lr=0.0002)
quant_model.eval()
print(f"trained: {accuracy(quant_model):.2f} %")
torch.save(quant_model.state_dict(), "tmp/trained.pt")

restored = amct.restore_quant_model_fx("tmp/config.json", model, "tmp/trained.pt")
amct.enable_quantization(restored, fake_quant=True)
print(f"restored: {accuracy(restored):.2f} %")
amct.save_quant_model_fx(restored, "out/digits", images[:1])
