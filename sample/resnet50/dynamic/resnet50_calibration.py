"""Calibrates ResNet-50 on the dynamic path, evaluates it before, after and in onnxruntime, and writes the deploy files.

Without options: a narrow ResNet-50 trained on handwritten digits (half a minute, once), 8 bits; it is calibrated on
training digits and evaluated on the FX sample's images, which are not used in training.
With ``--config_def cali_conf/snq.cfg``: 4-bit weights, with an update of the BatchNorms.
With ``--weights FILE --eval_set LIST``: torchvision's ResNet-50, calibrated and evaluated on your own images.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

import hotwheels.amct_pytorch as amct
from sample.common import digits
from sample.common.calibration import (
    IMAGENET_SIZE,
    CalibrationSample,
    calibrate,
    load_checkpoint,
    parse_arguments,
)
from sample.common.evaluation import Batches, evaluate_onnx, evaluate_torch, print_accuracies, print_files
from sample.common.images import image_loader
from sample.common.training import trained
from sample.resnet50.dynamic.resnet50_model.resnet import resnet50

LEARNING_BATCH = 64  # training digits per batch; statistics of fewer images are too inaccurate for BatchNorms
SCRIPT = Path(__file__)
SAMPLE = CalibrationSample(
    network="resnet50",
    build=resnet50,
    classifier="fc.weight",
    script=SCRIPT,
    eval_set=SCRIPT.resolve().parents[1] / "calibration" / "images" / "image_label.txt",
    config_def=SCRIPT.parent / "cali_conf" / "quant.cfg",
)


def main(sample: CalibrationSample) -> None:
    """Runs the sample with the options of the command line."""
    started = time.perf_counter()
    args = parse_arguments(sample)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    folder = sample.script.resolve().parent
    # A folder per configuration, so that the results of several configurations can be compared.
    temporary = folder / "tmp" / args.config_def.stem
    prefix = folder / "checkpoints" / args.config_def.stem / f"{sample.network}_calibration"

    model = (load_checkpoint(sample, args.weights) if args.weights else model_of_digits()).to(device).eval()
    batches = image_loader(args.eval_set, IMAGENET_SIZE if args.weights else digits.IMAGE_SIZE, args.batch_size)
    limit = None if args.benchmark else args.eval_iter
    accuracies = {"float": evaluate_torch(model, batches, limit, "float", device)}

    learning = batches if args.weights else training_digits()
    quant_model = quantize(model, temporary, prefix, args.config_def, learning, device)

    accuracies["fake_quant"] = evaluate_torch(quant_model, batches, limit, "fake_quant", device)
    fake_quant_file = Path(f"{prefix}_fake_quant_model.onnx")
    accuracies["onnxruntime"] = evaluate_onnx(fake_quant_file, batches, limit, "onnxruntime")

    print_accuracies(accuracies)
    print_files(sorted((*temporary.iterdir(), *prefix.parent.glob(f"{prefix.name}*"))))
    print(f"\n==> AMCT run {sample.script.name} in {time.perf_counter() - started:.1f}s")


def quantize(
    model: nn.Module, temporary: Path, prefix: Path, config_definition: Path, batches: Batches, device: torch.device
) -> nn.Module:
    """Returns the quantized and calibrated model and saves it as ``<prefix>_*``; ``model`` itself is unchanged."""
    config_file, record_file = temporary / "config.json", temporary / "scale_offset_record.txt"
    modified_onnx_file = temporary / "modified_model.onnx"
    example = next(iter(batches))[0][:1].to(device)

    # 1. The configuration, which you can read and edit: one entry per layer, with its quantizers.
    amct.create_quant_config(config_file, model, example, config_defination=config_definition)
    # 2. The float model with quantizers in place, and as ONNX with nodes named after the layers.
    quant_model = amct.quantize_model(
        config_file,
        modified_onnx_file,
        record_file,
        model,
        example,
        input_names=["input"],
        output_names=["output"],
        # The first axis is named, so that the ONNX files accept any batch size.
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )
    # 3. If the configuration says so, BatchNorms get the statistics of the quantized weights.
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config["update_bn"]:
        amct.update_bn_status(quant_model, True)
        update_batch_norms(quant_model, batches, config["bn_update_config"]["bn_update_iterations"], device)
        amct.update_bn_status(quant_model, False)
    # 4. Calibration: quantizers see each layer's inputs; with the last batch they choose their ranges.
    calibrate(quant_model, batches, config["batch_num"], device)
    # 5. The fake_quant model for onnxruntime and the deploy model with its parameters.
    prefix.parent.mkdir(parents=True, exist_ok=True)
    amct.save_model(modified_onnx_file, record_file, prefix, quant_model)
    return quant_model


@torch.no_grad()
def update_batch_norms(quant_model: nn.Module, batches: Batches, iterations: int, device: torch.device) -> None:
    """Updates the BatchNorms on ``iterations`` batches; if there are fewer, begins again with the first."""
    repeated = itertools.chain.from_iterable(itertools.repeat(batches))
    for images, _ in tqdm(itertools.islice(repeated, iterations), total=iterations, desc="update_bn", unit="batch"):
        quant_model(images.to(device))


def training_digits() -> Batches:
    """Returns the training part of the digits, in a different order in each pass; each run has the same orders."""
    train, _ = digits.load()
    data, order = TensorDataset(train.normalized(), train.labels), torch.Generator().manual_seed(0)
    # The last, smaller batch is dropped, since its statistics would have the same weight as those of a full batch.
    return DataLoader(data, LEARNING_BATCH, shuffle=True, generator=order, drop_last=True)


def model_of_digits() -> nn.Module:
    """Returns the network of this sample with the weights of the FX sample's, trained now or in an earlier run."""
    state_dict = trained(SAMPLE.network).state_dict()
    model = resnet50(digits.NUM_CLASSES, width=state_dict["conv1.weight"].shape[0])
    model.load_state_dict(state_dict)
    return model


if __name__ == "__main__":
    main(SAMPLE)
