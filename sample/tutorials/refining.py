"""Better weights and biases from the calibration images, without training.

Run: python sample/tutorials/refining.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

RULES = """
common_config:
  weight_quant_params: {quantizer: ArqWeightFakeQuantize, quantizer_args: {num_bits: 4}}
"""

model = trained()
images, _, held_out, _ = load()


def sqnr(candidate):
    """Returns signal to noise at the outputs for other images, in dB."""
    with torch.no_grad():
        expected = model(held_out)
        return 10 * torch.log10(expected.pow(2).sum() / (candidate(held_out) - expected).pow(2).sum()).item()


Path("tmp/rules.yml").write_text(RULES)
amct.create_quant_config_fx("tmp/config.json", model, "tmp/rules.yml")
quant_model = amct.create_quant_model_fx("tmp/config.json", model)
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    quant_model(images[:64])
amct.enable_quantization(quant_model, fake_quant=True)
print(f"calibrated: {sqnr(quant_model):.1f} dB, {accuracy(quant_model):.2f} %")

# Between calibration and saving. `refine: true` in the YAML does the same without this line.
print(amct.refine(quant_model, images[:64].split(16)))
print(f"refined: {sqnr(quant_model):.1f} dB, {accuracy(quant_model):.2f} % (float {accuracy(model):.2f} %)")
amct.save_quant_model_fx(quant_model, "out/refined", images[:1])
