"""A script written for HiSilicon's tool, unchanged, and behind it what this package adds without changes of the model.

Run: python sample/tutorials/migrating_a_script.py
"""

import os

import torch
from digits_net import accuracy, load, trained

import hotwheels.amct_pytorch as amct

# --- as it was: names, arguments, files and their places are those of the manual ---

TMP = os.path.join("tmp", "calibration")
os.makedirs(TMP, exist_ok=True)
config_file = os.path.join(TMP, "config.json")
record_file = os.path.join(TMP, "record.txt")
modified_onnx_file = os.path.join(TMP, "modified_model.onnx")

model = trained()
images, _, _, _ = load()
amct.create_quant_config(
    config_file=config_file, model=model, input_data=images[:1], skip_layers=None, batch_num=2, activation_offset=True
)
calibration_model = amct.quantize_model(
    config_file,
    modified_onnx_file,
    record_file,
    model,
    images[:1],
    input_names=["input"],
    output_names=["output"],
    dynamic_axes={"input": {0: "batch_size"}, "output": {0: "batch_size"}},
)
with torch.no_grad():
    for batch in images[:64].split(32):
        calibration_model(batch)
amct.save_model(modified_onnx_file, record_file, os.path.join("out", "digits"))
print(f"float: {accuracy(model):.2f} %, fake_quant: {accuracy(calibration_model):.2f} %")

# --- new: the integers of the chip in PyTorch, and better weights from the calibration images ---

amct.enable_quantization(calibration_model, real_quant=True)
print(f"real_quant: {accuracy(calibration_model):.2f} %")
amct.enable_quantization(calibration_model, calibration=True)
print(amct.refine(calibration_model, images[:64].split(32)))
amct.save_model(modified_onnx_file, record_file, os.path.join("out", "refined"))
print(f"refined: {accuracy(calibration_model):.2f} %")
