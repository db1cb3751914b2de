"""Post-training quantization of a classification network from float model to deploy files, as a command-line program.

`quantize` and `quantize_and_save` contain the five calls of the library, in the order of your own script.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import hotwheels.amct_pytorch as amct
from sample.common import digits
from sample.common.evaluation import Accuracy, Batches, evaluate_onnx, evaluate_torch, print_accuracies, print_files
from sample.common.images import image_loader
from sample.common.training import trained

IMAGENET_SIZE = 224
# The first axis is named, so that the ONNX files accept any batch size.
ONNX_EXPORT_SETTING = {
    "input_names": ["input"],
    "output_names": ["output"],
    "dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}},
}


@dataclasses.dataclass(frozen=True)
class CalibrationSample:
    """The differences between the calibration samples.

    Attributes:
      network: Name in the zoo, and beginning of the output files' names.
      build: Returns torchvision's full-size network for a number of classes.
      classifier: Key of the last layer's weight in a checkpoint; its first axis is the number of classes.
      script: The program; its outputs are written to its folder.
      eval_set: The default image list; None for the held-out digits.
      eval_iter: Number of batches of it to evaluate by default.
      config_def: The default simple configuration; None for the defaults of the library.
      config_help: Its text in the help of the command line.
    """

    network: str
    build: Callable[[int], nn.Module]
    classifier: str
    script: Path
    eval_set: Path | None
    eval_iter: int = 20
    config_def: Path | None = None
    config_help: str = "see sample/quantize_conf"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Paths of the files of one configuration.

    Attributes:
      config_file: The configuration; the pictures of the graph are written to the same folder.
      prefix: Folder and beginning of the names of checkpoint and ONNX files.
    """

    config_file: Path
    prefix: Path

    def written(self) -> list[Path]:
        """Returns the files that exist."""
        return sorted((*self.config_file.parent.iterdir(), *self.prefix.parent.glob(f"{self.prefix.name}*")))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The data and device for the evaluation of every stage.

    Attributes:
      batches: Labelled images.
      limit: Number of batches; None for all.
      device: The device of torch modules; ONNX files run on the CPU.
    """

    batches: Batches
    limit: int | None
    device: torch.device

    def of_model(self, model: nn.Module, name: str) -> Accuracy:
        """Evaluates a torch module in eval mode."""
        return evaluate_torch(model, self.batches, self.limit, name, self.device)

    def of_file(self, file: Path, name: str) -> Accuracy:
        """Evaluates an ONNX file in onnxruntime."""
        return evaluate_onnx(file, self.batches, self.limit, name)


def main(sample: CalibrationSample) -> None:
    """Runs the sample with the options of the command line."""
    started = time.perf_counter()
    args = parse_arguments(sample)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    folder = sample.script.resolve().parent
    prefix = folder / "checkpoints" / "calibration" / f"{sample.network}_calibration"
    outputs = Outputs(folder / "tmp" / "calibration" / "config.json", prefix)

    model = (load_checkpoint(sample, args.weights) if args.weights else trained(sample.network)).to(device).eval()
    batches = image_loader(args.eval_set, IMAGENET_SIZE if args.weights else digits.IMAGE_SIZE, args.batch_size)
    evaluation = Evaluation(batches, None if args.benchmark else args.eval_iter, device)
    accuracies = {"float": evaluation.of_model(model, "float")}
    accuracies |= quantize_and_save(model, args.config_def, outputs, batches, evaluation)

    print_accuracies(accuracies)
    print_files(outputs.written())
    print(f"\n==> AMCT run {sample.script.name} in {time.perf_counter() - started:.1f}s")


def quantize_and_save(
    model: nn.Module, config_definition: Path | None, outputs: Outputs, calibration: Batches, evaluation: Evaluation
) -> dict[str, Accuracy]:
    """Writes all files of one configuration and returns the accuracies by name; ``model`` itself is unchanged."""
    device, prefix = evaluation.device, outputs.prefix
    quant_model = quantize(model, outputs.config_file, config_definition, calibration, device)

    accuracies = {}
    amct.enable_quantization(quant_model, fake_quant=True)
    accuracies["fake_quant"] = evaluation.of_model(quant_model, "fake_quant")
    amct.enable_quantization(quant_model, real_quant=True)
    accuracies["real_quant"] = evaluation.of_model(quant_model, "real_quant")

    prefix.parent.mkdir(parents=True, exist_ok=True)
    torch.save(quant_model.state_dict(), f"{prefix}.pt")
    example = next(iter(calibration))[0][:1].to(device)
    amct.save_quant_model_fx(quant_model, prefix, example, ONNX_EXPORT_SETTING)
    accuracies["onnxruntime"] = evaluation.of_file(Path(f"{prefix}_fake_quant_model.onnx"), "onnxruntime")
    return accuracies


def quantize(
    model: nn.Module, config_file: Path, config_definition: Path | None, batches: Batches, device: torch.device
) -> nn.Module:
    """Returns the quantized and calibrated model; ``model`` itself is unchanged."""
    # 1. The configuration, which you can read and edit: one entry per layer, with its quantizers.
    amct.create_quant_config_fx(config_file, model, config_definition)
    # 2. The float graph with quantizers in place.
    quant_model = amct.create_quant_model_fx(config_file, model)
    # 3. Calibration: quantizers see each layer's inputs and choose their ranges.
    amct.enable_quantization(quant_model, calibration=True)
    calibrate(quant_model, batches, calibration_batches(config_file), device)
    return quant_model


@torch.no_grad()
def calibrate(quant_model: nn.Module, batches: Batches, batch_num: int, device: torch.device) -> None:
    """Calibrates the quantizers on the first ``batch_num`` batches."""
    quant_model.to(device).eval()
    for images, _ in tqdm(itertools.islice(batches, batch_num), total=batch_num, desc="calibration", unit="batch"):
        quant_model(images.to(device))


def calibration_batches(config_file: Path) -> int:
    """Returns the largest ``batch_num`` in a configuration; 1 is the default of every algorithm."""
    layers = json.loads(config_file.read_text(encoding="utf-8")).values()
    inputs = [params for layer in layers for params in layer.get("activation_quant_params", [])]
    return max((params["quantizer_args"].get("batch_num", 1) for params in inputs), default=1)


def load_checkpoint(sample: CalibrationSample, file: Path) -> nn.Module:
    """Returns the full-size network with a checkpoint's weights.

    The file holds torchvision's state_dict, or a dict with one under ``state_dict``, perhaps saved from a
    DistributedDataParallel model.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    state_dict: dict[str, Tensor] = content.get("state_dict", content)
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if sample.classifier not in state_dict:
        raise SystemExit(f"{file} is no checkpoint of {sample.network}: it has no '{sample.classifier}'.")
    model = sample.build(state_dict[sample.classifier].shape[0])
    model.load_state_dict(state_dict)
    return model


def parse_arguments(sample: CalibrationSample) -> argparse.Namespace:
    """Returns the options of the command line; exits with a message if options contradict each other."""
    parser = argparse.ArgumentParser(
        description=f"Quantizes {sample.network}: without --weights a narrow one, trained on handwritten digits."
    )
    images = "the digits of the samples, images/image_label.txt" if sample.eval_set else "the 360 held-out digits"
    parser.add_argument(
        "--eval_set",
        type=Path,
        default=sample.eval_set,
        help=f"list of '<image file> <label>' lines, or folder with one folder of images per class; default: {images}",
    )
    iterations = sample.eval_iter
    parser.add_argument(
        "--eval_iter", type=_positive, default=iterations, help=f"batches to evaluate; default: {iterations}"
    )
    parser.add_argument("--batch_size", type=_positive, default=16, help="images per batch; default: 16")
    parser.add_argument("--benchmark", action="store_true", help="evaluate the whole list, not --eval_iter batches")
    known = f"default: {sample.config_def.name}" if sample.config_def else sample.config_help
    parser.add_argument("--config_def", type=Path, default=sample.config_def, help=f"simple configuration, {known}")
    parser.add_argument(
        "--weights",
        type=Path,
        help="checkpoint of torchvision's network, which is then quantized on the images of --eval_set, "
        f"scaled and cropped to {IMAGENET_SIZE}x{IMAGENET_SIZE}",
    )
    args = parser.parse_args()
    if args.weights and args.eval_set == sample.eval_set:
        parser.error("--weights needs --eval_set: the images of the sample are handwritten digits.")
    for option in (args.eval_set, args.config_def, args.weights):
        if option and not (option.is_file() or (option == args.eval_set and option.is_dir())):
            parser.error(f"no such file: {option}")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
