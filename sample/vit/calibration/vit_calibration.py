"""Rewrites a ViT with amct.nn, loads the plain ViT's checkpoint, quantizes it and writes the files for deployment.

Without options: a narrow ViT trained on handwritten digits (a minute, once), calibrated with 16 of the training digits,
evaluated on the 360 held-out digits, with 8 and with 12 bits for the data of the CUBE operations.
With ``--weights FILE --eval_set LIST``: torchvision's ViT-B/16 on your own images.
sample/vit/src/conv_vit.py has the rewritten network and the code that loads the weights.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common import digits
from sample.common.calibration import (
    IMAGENET_SIZE,
    CalibrationSample,
    Evaluation,
    Outputs,
    load_checkpoint,
    parse_arguments,
    quantize_and_save,
)
from sample.common.evaluation import Batches, print_accuracies, print_files
from sample.common.images import image_loader
from sample.common.training import trained
from sample.vit.src.conv_vit import ConvVisionTransformer
from sample.vit.src.vit import VisionTransformer, vit_b_16

SCRIPT = Path(__file__)
CONFIGURATIONS = SCRIPT.resolve().parents[2] / "quantize_conf"
CUBE_ONLY = (CONFIGURATIONS / "cube_only_8bit.yaml", CONFIGURATIONS / "cube_only_12bit.yaml")
# Relative to the largest logit: each layer sums some hundred float32 products in another order.
TOLERANCE = 1e-5
SAMPLE = CalibrationSample(
    network="vit_b_16",
    build=vit_b_16,
    classifier="heads.head.weight",
    script=SCRIPT,
    eval_set=None,
    eval_iter=23,  # all of the digits
    config_help="default: cube_only_8bit.yaml, then cube_only_12bit.yaml",
)


def main(sample: CalibrationSample) -> None:
    """Runs the sample with the options of the command line."""
    started = time.perf_counter()
    args = parse_arguments(sample)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    results = sample.script.resolve().parent / "checkpoints"
    image_size = IMAGENET_SIZE if args.weights else digits.IMAGE_SIZE
    calibration, batches = load_batches(args.eval_set, image_size, args.batch_size)

    plain: VisionTransformer = load_checkpoint(sample, args.weights) if args.weights else trained(sample.network)
    checkpoint = results / f"{sample.network}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save(plain.state_dict(), checkpoint)
    model = rewrite(plain, checkpoint)
    check_equal(plain.to(device).eval(), model.to(device).eval(), next(iter(batches))[0].to(device))

    evaluation = Evaluation(batches, None if args.benchmark else args.eval_iter, device)
    before = {name: evaluation.of_model(network, name) for name, network in (("plain", plain), ("float", model))}
    for config_def in (args.config_def,) if args.config_def else CUBE_ONLY:
        # A folder per configuration, so that the results of several configurations can be compared.
        temporary = sample.script.resolve().parent / "tmp" / config_def.stem
        outputs = Outputs(temporary / "config.json", results / config_def.stem / f"{sample.network}_calibration")
        accuracies = before | quantize_and_save(model, config_def, outputs, calibration, evaluation)
        print(f"\n{config_def.name}", end="")
        print_accuracies(accuracies)
        print_files([checkpoint, *outputs.written()])
    print(f"\n==> AMCT run {sample.script.name} in {time.perf_counter() - started:.1f}s")


def rewrite(plain: VisionTransformer, checkpoint: Path) -> ConvVisionTransformer:
    """Returns the network for the chip with the saved weights of ``plain``."""
    model = ConvVisionTransformer(plain.heads.head.out_features, plain.size)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True), strict=True)
    return model


@torch.no_grad()
def check_equal(plain: nn.Module, model: nn.Module, images: torch.Tensor) -> None:
    """Ends the program if the two networks do not compute the same for ``images``."""
    expected, found = plain(images), model(images)
    difference, largest = (expected - found).abs().max().item(), expected.abs().max().item()
    print(f"plain and rewritten ViT: the logits differ by at most {difference:.2g}, the largest is {largest:.3g}")
    if difference > TOLERANCE * largest:
        raise SystemExit(f"The rewritten ViT's logits differ by more than {TOLERANCE} of the largest logit.")


def load_batches(eval_set: Path | None, image_size: int, batch_size: int) -> tuple[Batches, Batches]:
    """Returns the batches for calibration and for evaluation; both are the same if ``eval_set`` is given."""
    if eval_set:
        return (image_loader(eval_set, image_size, batch_size),) * 2
    train, held_out = (TensorDataset(part.normalized(), part.labels) for part in digits.load())
    return DataLoader(train, batch_size), DataLoader(held_out, batch_size)


if __name__ == "__main__":
    main(SAMPLE)
