"""Writes the result of every layer of a quantized model to files, for comparison with what the chip computes."""

import argparse
from pathlib import Path

import torch

import hotwheels.amct_pytorch as amct
from sample.common import digits
from sample.common.calibration import IMAGENET_SIZE, CalibrationSample
from sample.common.images import image_loader
from sample.common.restoring import float_model_for, read_checkpoint, state_in
from sample.common.zoo import RECIPES


@torch.no_grad()
def main(sample: CalibrationSample) -> None:
    """Runs the sample with the options of the command line."""
    args = _parse_arguments(sample)
    content = read_checkpoint(args.pt)
    state = state_in(content, args.state_dict_name, args.pt)
    model = float_model_for(sample, state)
    is_narrow = state[sample.classifier].shape == RECIPES[sample.network].build().state_dict()[sample.classifier].shape
    quant_model = amct.restore_quant_model_fx(args.config_file, model, args.pt, args.state_dict_name)
    images, _ = next(iter(image_loader(args.eval_set, digits.IMAGE_SIZE if is_narrow else IMAGENET_SIZE, 1)))
    amct.enable_quantization(quant_model, real_quant=True)
    amct.enable_dump(quant_model, args.dump_dir, args.dump_format)
    quant_model(images)
    print(f"{len(list(args.dump_dir.iterdir()))} files in {args.dump_dir}")


def _parse_arguments(sample: CalibrationSample) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config_file", type=Path, required=True, help="config.json the model was quantized with")
    parser.add_argument("--pt", type=Path, required=True, help="checkpoint of the quantized model")
    parser.add_argument("--state_dict_name", help="key of the weights in the checkpoint, if it holds more than them")
    parser.add_argument("--eval_set", type=Path, default=sample.eval_set, help="image list; its first image is run")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="default: ./dump")
    parser.add_argument("--dump_format", default=".npy", help=".npy (default), .float or .txt")
    return parser.parse_args()
