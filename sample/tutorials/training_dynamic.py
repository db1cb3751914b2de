"""Quantization-aware training on the dynamic path: the model calibrates itself in its first forwards, then trains.

Run: python sample/tutorials/training_dynamic.py
"""

from pathlib import Path

import torch
from digits_net import accuracy, load, train, trained

import hotwheels.amct_pytorch as amct

RULES = """
batch_num: 2
retrain_data_quant_config: { ulq_quantize: { } }
retrain_weight_quant_config: { arq_retrain: { num_bits: 8 } }
"""

model = trained()
images, _, held_out, _ = load()
print(f"float: {accuracy(model):.2f} %")
Path("tmp/retrain.cfg").write_text(RULES)
amct.create_quant_retrain_config("tmp/retrain.json", model, images[:1], "tmp/retrain.cfg")
quantized = amct.create_quant_retrain_model("tmp/retrain.json", model, "tmp/record.txt", images[:1])

torch.manual_seed(0)
train(quantized, epochs=1, lr=0.001)  # the first two batches find the ranges
torch.save(quantized.state_dict(), "tmp/retrain.pt")

# batch_num forwards in eval mode write the factors into the record.
quantized.eval()
with torch.no_grad():
    for batch in held_out.split(180):
        quantized(batch)
print(f"trained: {accuracy(quantized):.2f} %")
amct.save_quant_retrain_model("tmp/retrain.json", quantized, "tmp/record.txt", "out/digits", images[:1])

restored = amct.restore_quant_retrain_model("tmp/retrain.json", model, "tmp/again.txt", images[:1], "tmp/retrain.pt")
restored.eval()
print(f"restored: {accuracy(restored):.2f} %")
