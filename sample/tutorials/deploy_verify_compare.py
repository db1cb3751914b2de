"""The files, and how to see that they compute what was evaluated: verify, compare, onnxruntime.

Run: python sample/tutorials/deploy_verify_compare.py
"""

import subprocess
import sys

import numpy as np
import onnxruntime
import torch
from digits_net import load, trained

import hotwheels.amct_pytorch as amct


def amct_command(*words):
    """Runs the command `amct`, here by its module; exit code 0: equal, 1: a difference, 2: bad input."""
    print("$ amct", *words)
    return subprocess.run([sys.executable, "-m", "hotwheels.amct_pytorch", *words]).returncode


model = trained()
images, _, _, _ = load()
amct.create_quant_config_fx("tmp/config.json", model)
quant_model = amct.create_quant_model_fx("tmp/config.json", model)
amct.enable_quantization(quant_model, calibration=True)
with torch.no_grad():
    quant_model(images[:64])

# golden_inputs: the save also writes digests of all integers for these images.
amct.save_quant_model_fx(quant_model, "out/digits", images[:1], golden_inputs=images[:1])

# 1. Do the files still compute the integers of the save? After a copy to another machine, or a change by hand.
assert amct_command("verify", "out/digits") == 0

# 2. Which layer differs first, in steps of its grid? A side is float, fake_quant, real_quant or the folder of a dump.
np.save("tmp/image.npy", images[:1].numpy())
assert amct_command("compare", "fake_quant", "real_quant", "--prefix", "out/digits", "-i", "tmp/image.npy") == 0

# 3. The fake_quant model in a plain onnxruntime computes what the quantized model does.
session = onnxruntime.InferenceSession("out/digits_fake_quant_model.onnx")
amct.enable_quantization(quant_model, fake_quant=True)
with torch.no_grad():
    expected = quant_model(images[:1])
found = session.run(None, {session.get_inputs()[0].name: images[:1].numpy()})[0]
print("largest difference in onnxruntime:", float(np.abs(found - expected.numpy()).max()))
