"""Post-training quantization on the dynamic path: for models whose forward torch.fx cannot trace.

Run: python sample/tutorials/post_training_dynamic.py
"""

import torch
from digits_net import DigitsNet, accuracy, load, trained

import hotwheels.amct_pytorch as amct


class Choosing(DigitsNet):
    """Takes dark images as they are and brightens others: a branch on values."""

    def forward(self, x):
        if x.mean() > 0.5:
            x = x - 0.5
        return super().forward(x)


model = Choosing().eval()
model.load_state_dict(trained().state_dict())
images, _, _, _ = load()
print(f"float: {accuracy(model):.2f} %")

amct.create_quant_config("tmp/config.json", model, images[:1], batch_num=2)
quantized = amct.quantize_model("tmp/config.json", "tmp/modified.onnx", "tmp/record.txt", model, images[:1])
with torch.no_grad():
    for batch in images[:64].split(32):
        quantized(batch)  # the second batch, of batch_num=2, completes the calibration and writes the record
print(f"fake_quant: {accuracy(quantized):.2f} %")
amct.enable_quantization(quantized, real_quant=True)
print(f"real_quant: {accuracy(quantized):.2f} %")

# A WARNING names the line of the branch: the files hold the side that the example has taken.
amct.save_model("tmp/modified.onnx", "tmp/record.txt", "out/digits")
