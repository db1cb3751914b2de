"""From a loss of accuracy to rules in YAML: measure each layer, change the worst ones, measure again.

Run: python sample/tutorials/tuning_with_the_analyzer.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

model = trained()
images, _, held_out, _ = load()


def quantized(rules=None):
    """Returns the calibrated model in fake_quant."""
    amct.create_quant_config_fx("tmp/config.json", model, rules)
    made = amct.create_quant_model_fx("tmp/config.json", model)
    amct.enable_quantization(made, calibration=True)
    with torch.no_grad():
        made(images[:64])
    amct.enable_quantization(made, fake_quant=True)
    return made


def sqnr(candidate):
    """Returns signal to noise at the outputs, in dB: finer than accuracy, and without labels."""
    with torch.no_grad():
        expected = model(held_out)
        return 10 * torch.log10(expected.pow(2).sum() / (candidate(held_out) - expected).pow(2).sum()).item()


first = quantized()
print(f"default: {sqnr(first):.1f} dB, {accuracy(first):.2f} % (float {accuracy(model):.2f} %)")

# report/index.html: ten worst layers first, with the next step as YAML; report/report.json: the same figures.
amct.QuantAnalyzer(first, images[:64], "report").analyze()
print(amct.check_model(first, images[:64]))

RULES = """
override_layer_configs:
  - layer_name: [conv1, conv3] # their data with 12 bits
    activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 12}}
"""
Path("tmp/twelve.yml").write_text(RULES)
Path("tmp/refine.yml").write_text(f"{RULES}refine: true\n")
for rules in ("tmp/twelve.yml", "tmp/refine.yml"):
    print(f"{rules}: {sqnr(quantized(rules)):.1f} dB")
