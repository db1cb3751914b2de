"""Post-training quantization on the FX path: five calls from a trained network to the files for the converter.

Run: python sample/tutorials/post_training_fx.py
"""

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

model = trained()
images, _, _, _ = load()
print(f"float: {accuracy(model):.2f} %")

# 1. The configuration: one entry for each layer that can be quantized. 2. The quantized model; `model` does not change.
amct.create_quant_config_fx("tmp/config.json", model)
quant_model = amct.create_quant_model_fx("tmp/config.json", model)

# 3. Calibration: a few typical batches, prepared as in training.
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    quant_model(images[:64])

# 4. Evaluate. fake_quant rounds in float, real_quant computes with integers, as the chip does.
amct.enable_quantization(quant_model, fake_quant=True)
print(f"fake_quant: {accuracy(quant_model):.2f} %")
amct.enable_quantization(quant_model, real_quant=True)
print(f"real_quant: {accuracy(quant_model):.2f} %")

# 5. The files: out/digits_deploy_model.onnx and out/digits_quant_param_record.txt go to the converter.
amct.save_quant_model_fx(quant_model, "out/digits", images[:1])
