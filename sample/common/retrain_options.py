"""The command line of the retraining samples: the options which HiSilicon's AMCT manual lists."""

import argparse
import dataclasses
from pathlib import Path

import torch

STATE_DICT_NAME = "quant_model_weights"


@dataclasses.dataclass(frozen=True)
class Defaults:
    """The defaults of --epochs and --learning_rate.

    Attributes:
      epochs: Passes over the training data.
      learning_rate: Learning rate of SGD.
    """

    epochs: int
    learning_rate: float


OWN_DATA = Defaults(epochs=10, learning_rate=1e-5)
DIGITS = Defaults(epochs=3, learning_rate=1e-4)  # a tenth of the images' size, a thousandth of their number


def parse_options(network: str, from_checkpoint: bool) -> argparse.Namespace:
    """Returns the options, complete and checked."""
    parser = _parser(network)
    if from_checkpoint:
        parser.add_argument("--config_file", type=Path, required=True, help="the config.json of the interrupted run")
        parser.add_argument("--pt", type=Path, required=True, help="its last checkpoint")
    else:
        parser.add_argument("--config_def", type=Path, help="simple configuration, see sample/quantize_conf")
        parser.add_argument(
            "--weights",
            type=Path,
            help="checkpoint of torchvision's float network, for --train_set; default: the one in torch's hub cache",
        )
    args = parser.parse_args()
    args.from_checkpoint = from_checkpoint
    for option in ("config_file", "pt", "config_def", "weights", "train_set", "eval_set"):
        path = getattr(args, option, None)
        if path and not path.exists():
            parser.error(f"--{option}: no such file or folder: {path}")
    _check_data(parser, args)
    if not from_checkpoint and args.train_set and not args.weights:
        args.weights = _cached_weights(parser, network)
    defaults = OWN_DATA if args.train_set else DIGITS
    args.epochs = args.epochs or defaults.epochs
    args.learning_rate = args.learning_rate or defaults.learning_rate
    return args


def _parser(network: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Trains a quantized {network}: without --train_set a narrow one, on handwritten digits."
    )
    folder = "folder with one folder of images per class, or a list of '<image file> <label>' lines"
    parser.add_argument("--train_set", type=Path, help=f"training data: {folder}")
    parser.add_argument("--eval_set", type=Path, help=f"evaluation data: {folder}")
    parser.add_argument("--num_parallel_reads", type=int, default=4, help="processes that read images; default: 4")
    parser.add_argument("--epochs", type=_positive, help=f"default: {OWN_DATA.epochs}, on the digits {DIGITS.epochs}")
    parser.add_argument("--batch_size", type=_positive, default=16, help="images per step and process; default: 16")
    parser.add_argument(
        "--learning_rate", type=float, help=f"default: {OWN_DATA.learning_rate:g}, digits {DIGITS.learning_rate:g}"
    )
    parser.add_argument("--train_iter", type=_positive, default=50, help="training steps per epoch; default: 50")
    parser.add_argument("--eval_iter", type=_positive, default=50, help="batches to evaluate; default: 50")
    parser.add_argument("--print_freq", type=_positive, default=10, help="steps between two lines; default: 10")
    parser.add_argument("--dist_url", default="tcp://127.0.0.1:50011", help="where the processes of --distributed meet")
    parser.add_argument("--distributed", action="store_true", help="one process per GPU; without any, two on the CPU")
    parser.add_argument("--benchmark", action="store_true", help="use all data, not --train_iter and --eval_iter")
    parser.add_argument(
        "--state_dict_name", default=STATE_DICT_NAME, help=f"key of the weights in checkpoints; {STATE_DICT_NAME}"
    )
    return parser


def _check_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.train_set) != bool(args.eval_set):
        parser.error("--train_set and --eval_set belong together.")
    if not args.from_checkpoint and args.weights and not args.train_set:
        parser.error("--weights needs --train_set: the network of the samples knows digits only.")


def _cached_weights(parser: argparse.ArgumentParser, network: str) -> Path:
    """Returns torchvision's checkpoint where torch.hub keeps it, as HiSilicon's AMCT manual says."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(folder.glob(f"{network}-*.pth"), key=lambda file: file.stat().st_mtime)
    if not found:
        parser.error(
            f"--train_set needs torchvision's weights: there is no {folder / network}-<hash>.pth. Put the file there,"
            " or give it as --weights."
        )
    return found[-1]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
