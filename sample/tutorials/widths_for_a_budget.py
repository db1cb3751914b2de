"""A solver chooses the widths of all layers: the least cost for a quality, or the best quality for a cost.

Run: python sample/tutorials/widths_for_a_budget.py
"""

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

model = trained()
images, _, _, _ = load()
batches = list(images[:64].split(32))

# The best SQNR for at most 1.2 times the cost of 8 bits everywhere. The yaml is a simple configuration like any other.
chosen = amct.auto_quantize(model, batches, budget=1.2, config_file="tmp/auto.yml", progress=False)
print(chosen)

# Or the least cost for a quality: here your own metric, larger is better.
chosen = amct.auto_quantize(
    model, batches, accuracy, target=accuracy(model) - 1.0, config_file="tmp/one_percent.yml", progress=False
)
print(chosen)

amct.create_quant_config_fx("tmp/config.json", model, "tmp/one_percent.yml")
quant_model = amct.create_quant_model_fx("tmp/config.json", model)
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    for batch in batches:
        quant_model(batch)
amct.enable_quantization(quant_model, fake_quant=True)
print(f"float: {accuracy(model):.2f} %, chosen: {accuracy(quant_model):.2f} %")
amct.save_quant_model_fx(quant_model, "out/chosen", images[:1])
