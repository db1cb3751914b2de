"""The inputs of a model from files: .npy, .bin, images, folders of them and lists of them; or from a shape alone."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..files.arrays import read_npy, single
from ..files.limits import check_holes

_Function = TypeVar("_Function", bound=Callable[..., Any])
RANDOM = "random"
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp"})
_ARRAYS = frozenset({".npy", ".bin"})
ENOUGH = 32  # samples for calibration and refining; also the largest batch by default
_CHANNELS = (1, 3, 4)  # of images
_CROP = 224 / 256  # torchvision evaluates on the central 224 pixels of an image whose shorter side is 256
# Mean and deviation of ImageNet's RGB channels, which torchvision's checkpoints were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_options(function: _Function) -> _Function:
    """Adds the options that say what the model is run with."""
    for decorate in reversed(
        (
            click.option(
                "-i",
                "--input",
                "sources",
                multiple=True,
                metavar="PATH",
                help="Once for each input of the model, or 'a.npy;b.npy': .npy or .bin with the batch as first axis, an"
                " image, a folder of images, a .txt with one file a line (labels behind it are passed over), or"
                f" '{RANDOM}'.",
            ),
            click.option("--input_shape", metavar="SHAPES", help='Shape of each input: "1,3,64,64;1,80,512".'),
            click.option(
                "-b",
                "--batch_size",
                type=click.IntRange(min=1),
                help=f"Samples in a batch; default: the first number of --input_shape, else all up to {ENOUGH}.",
            ),
            click.option("--mean", metavar="R,G,B", help="Subtracted from the channels of images in [0, 1]."),
            click.option("--std", metavar="R,G,B", help="Divides the channels; both default to ImageNet's."),
        )
    ):
        function = decorate(function)
    return function


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputOptions:
    """The values of the options of `input_options`.

    Attributes:
      sources: One source per input of the model; empty without ``-i``.
      shapes: One shape per input, with the batch; empty without ``--input_shape``.
      batch_size: Samples per batch; None without ``--batch_size``.
      mean: Mean of the channels of images.
      std: Deviation of the channels of images.
    """

    sources: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int | None = None
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    def batches(self) -> Batches:
        """Returns the data of the sources.

        Raises:
          ConfigError: A source does not fit its shape or the other sources, or is of no known kind.
          FileNotFoundError: There is no such file.
          UsageError: No source was given.
        """
        if not self.sources:
            raise click.UsageError(f"-i is missing: typical inputs of the model, or '{RANDOM}' to try the way.")
        if self.shapes and len(self.shapes) != len(self.sources):
            raise ConfigError(f"-i names {len(self.sources)} inputs, --input_shape {len(self.shapes)}.")
        shapes: Sequence[tuple[int, ...] | None] = self.shapes or [None] * len(self.sources)
        inputs = [_samples(one, shape, self) for one, shape in zip(self.sources, shapes, strict=True)]
        counts = {len(one) for one in inputs}
        if len(counts) > 1:
            raise ConfigError(f"The inputs have different numbers of samples: {sorted(counts)}.")
        size = self.batch_size or (self.shapes[0][0] if self.shapes else min(counts.pop(), ENOUGH))
        return Batches(inputs, size)

    def example(self) -> tuple[Tensor, ...] | None:
        """Returns one batch that a trace or an export may follow: of the sources, else noise; None without both."""
        if self.sources:
            return next(iter(self.batches()))
        return tuple(_noise(shape) for shape in self.shapes) or None

    def hints(self) -> list[str]:
        """Says what looks wrong in the inputs, for an error of the model: the layout or the type of images."""
        found = []
        for source, one in zip(self.sources, self.example() or (), strict=False):
            if one.dim() == 4 and one.shape[3] in _CHANNELS and one.shape[1] not in _CHANNELS:
                found.append(
                    f"-i: '{source}' has the shape {list(one.shape)}, which looks like NHWC: transpose it to NCHW,"
                    " array.transpose(0, 3, 1, 2)."
                )
            if one.dtype == torch.uint8:
                found.append(f"-i: '{source}' is of type uint8: convert it to float32 and normalize it as in training.")
        return found


class Batches:
    """The samples of all inputs, in batches; files are read when a batch is made."""

    def __init__(self, inputs: Sequence[_Samples], batch_size: int) -> None:
        self._inputs = inputs
        self._size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.samples / self._size)

    @property
    def samples(self) -> int:
        """The number of samples of each input."""
        return len(self._inputs[0])

    @property
    def enough(self) -> int:
        """How many batches calibration and refining take by default: all, or as many as hold up to 32 samples."""
        return min(len(self), max(1, ENOUGH // self._size))

    def samples_of(self, count: int) -> int:
        """Returns the number of samples in the first ``count`` batches."""
        return min(self.samples, count * self._size)

    def up_to(self, samples: int) -> list[tuple[Tensor, ...]]:
        """Returns the first batches, with ``samples`` samples in all or as many as there are."""
        wanted = min(samples, self.samples)
        return [
            tuple(one.batch(start, min(start + self._size, wanted)) for one in self._inputs)
            for start in range(0, wanted, self._size)
        ]

    def require(self, count: int) -> None:
        """Raises UsageError if there are fewer than ``count`` batches, as many as the configuration demands."""
        if len(self) < count:
            size = f" or a -b of at most {self.samples // count}" if self.samples >= count else ""
            raise click.UsageError(
                f"batch_num is {count}, but the {_counted(self.samples, 'sample')} of -i make only"
                f" {_counted(len(self), 'batch', 'batches')} of up to {_counted(self._size, 'sample')}. Give more"
                f" samples{size}, or a smaller --batch_num."
            )

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, self.samples, self._size):
            stop = min(start + self._size, self.samples)
            yield tuple(one.batch(start, stop) for one in self._inputs)


class _Samples:
    """The samples of one input: parts of an array, or files that hold one sample each."""

    def __init__(self, count: int, part: Callable[[int, int], NDArray[Any]]) -> None:
        """Makes ``count`` samples, of which ``part(start, stop)`` returns some as one array."""
        self._count = count
        self._part = part

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> _Samples:
        return cls(len(array), lambda start, stop: array[start:stop])

    @classmethod
    def of_files(cls, files: list[Path], read: Callable[[Path], NDArray[Any]]) -> _Samples:
        def part(start: int, stop: int) -> NDArray[Any]:
            samples = [read(path) for path in files[start:stop]]
            if len({one.shape for one in samples}) > 1:
                raise ConfigError(
                    f"Files of one batch have different shapes: {samples[0].shape} and others. Give --input_shape."
                )
            return np.stack(samples)

        return cls(len(files), part)

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> Tensor:
        part = np.ascontiguousarray(self._part(start, stop))
        return torch.from_numpy(single(part))


def parse_input_options(
    sources: Sequence[str], input_shape: str | None, batch_size: int | None, mean: str | None, std: str | None
) -> InputOptions:
    """Returns the options as values.

    Raises:
      ConfigError: One of them cannot be read.
    """
    return InputOptions(
        sources=tuple(part.strip() for one in sources for part in one.split(";") if part.strip()),
        shapes=_shapes(input_shape),
        batch_size=batch_size,
        mean=_MEAN if mean is None else _numbers("--mean", mean),
        std=_STD if std is None else _numbers("--std", std, is_divisor=True),
    )


def with_defaults_of(options: InputOptions, source: str, model: nn.Module) -> InputOptions:
    """Returns ``options`` with what timm and torchvision know of their models: the size, mean and std of images."""
    library = source.partition(":")[0]
    known = getattr(model, "pretrained_cfg", None) if library == "timm" else None
    if isinstance(known, dict):
        options = dataclasses.replace(
            options,
            mean=tuple(known.get("mean", options.mean)) if options.mean == _MEAN else options.mean,
            std=tuple(known.get("std", options.std)) if options.std == _STD else options.std,
        )
    if options.shapes or library not in ("timm", "torchvision"):
        return options
    size = tuple(known["input_size"]) if known else (3, 224, 224)
    return dataclasses.replace(options, shapes=((1, *size),), batch_size=options.batch_size or ENOUGH)


def _samples(source: str, shape: tuple[int, ...] | None, options: InputOptions) -> _Samples:
    if source == RANDOM:
        if shape is None:
            raise ConfigError(f"-i {RANDOM} needs --input_shape.")
        return _Samples.of_array(_noise((options.batch_size or shape[0], *shape[1:])).numpy())
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"-i: there is no file or folder '{path}'.")
    if path.is_dir() or path.suffix.lower() == ".txt":
        return _of_files(_listed(path), path, shape, options)
    if path.suffix.lower() in _IMAGES:
        return _of_files([path], path, shape, options)
    if path.suffix.lower() in _ARRAYS:
        return _Samples.of_array(_with_batch_axis(_array(path, shape), shape, path))
    raise ConfigError(f"-i: '{path}' is of no known kind: .npy, .bin, .txt, a folder, or an image.")


def _listed(path: Path) -> list[Path]:
    """Files of a folder, or of a list file whose names are relative to it."""
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in _IMAGES | _ARRAYS]
        if not files:
            raise ConfigError(f"-i: the folder '{path}' holds no image, .npy or .bin.")
        return files
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"-i: the list '{path}' is no UTF-8 text: {error}.") from error
    files = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        # A name may contain blanks, and labels may stand behind it.
        names = [text, *(text[: blank.start()] for blank in reversed(list(re.finditer(r"\s+", text))))]
        found = next((one for name in names if (one := path.parent / name).is_file()), None)
        if found is None:
            named = next((one for one in names if Path(one).suffix.lower() in _IMAGES | _ARRAYS), text)
            raise FileNotFoundError(f"{path}, line {number}: there is no file '{named}'.")
        files.append(found)
    if not files:
        raise ConfigError(f"-i: the list '{path}' names no file.")
    return files


def _of_files(files: list[Path], where: Path, shape: tuple[int, ...] | None, options: InputOptions) -> _Samples:
    kinds = {one.suffix.lower() for one in files}
    if kinds <= _IMAGES:
        if shape is None or len(shape) != 4:
            raise ConfigError(f"-i: the images of '{where}' need --input_shape N,C,H,W.")
        return _Samples.of_files(files, lambda path: _image(path, shape, options))
    if kinds <= _ARRAYS:
        return _Samples.of_files(files, lambda path: _one_sample(path, shape))
    raise ConfigError(f"-i: '{where}' mixes images and arrays, or names files of other kinds: {sorted(kinds)}.")


def _one_sample(path: Path, shape: tuple[int, ...] | None) -> NDArray[Any]:
    if shape is None:
        return _array(path, None)
    found = _with_batch_axis(_array(path, (1, *shape[1:])), shape, path)
    if len(found) != 1:
        raise ConfigError(f"'{path}' holds {len(found)} samples; a file of a list or folder is one.")
    sample: NDArray[Any] = found[0]
    return sample


def _array(path: Path, shape: tuple[int, ...] | None) -> NDArray[Any]:
    if path.suffix.lower() == ".npy":
        array = read_npy(path)
        if not array.size:
            raise ConfigError(f"-i: '{path}' has the shape {list(array.shape)}: it holds no sample.")
        return array
    if shape is None:
        raise ConfigError(f"'{path}' is raw float32 data: give --input_shape.")
    check_holes(path)
    values = np.fromfile(path, dtype=np.float32)
    size = math.prod(shape[1:])
    if path.stat().st_size % 4 or not values.size or values.size % size:
        raise ConfigError(
            f"'{path}' has {path.stat().st_size} bytes; a sample of shape {list(shape[1:])} in float32 has {4 * size}."
        )
    return values.reshape(-1, *shape[1:])


def _with_batch_axis(array: NDArray[Any], shape: tuple[int, ...] | None, path: Path) -> NDArray[Any]:
    if shape is None and not array.ndim:
        raise ConfigError(f"-i: '{path}' holds one number; its first axis must be the batch.")
    if shape is None or (array.ndim and array.shape[1:] == shape[1:]):
        return array
    if array.shape == shape[1:]:
        return array[None]
    raise ConfigError(f"'{path}' has the shape {list(array.shape)}; --input_shape says {list(shape)}.")


def _image(path: Path, shape: tuple[int, ...], options: InputOptions) -> NDArray[np.float32]:
    """Returns [C, H, W]: scaled, cropped at the centre and normalized; an image of that size is only normalized."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ConfigError("Reading images needs pillow: pip install pillow.") from error
    channels, height, width = shape[1:]
    if channels not in (1, 3):
        raise ConfigError(f"Images have 1 or 3 channels; --input_shape says {channels}.")
    for option, numbers in (("--mean", options.mean), ("--std", options.std)):
        if len(numbers) not in (1, 3) and len(numbers) != channels:
            raise ConfigError(f"{option} has {len(numbers)} numbers; give one, or one for each of {channels} channels.")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ConfigError(f"'{path}' is no image that can be read: {error}.") from error
    if image.size != (width, height):
        scale = max(width / image.width, height / image.height) / _CROP
        scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
        image = image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, channels) / 255
    mean, std = (np.asarray(one[:channels], np.float32) for one in (options.mean, options.std))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def _shapes(text: str | None) -> tuple[tuple[int, ...], ...]:
    if text is None:
        return ()
    if not text.strip(" ;"):
        raise ConfigError("--input_shape is empty; expected numbers as in '1,3,64,64;1,80,512'.")
    try:
        shapes = tuple(tuple(int(size) for size in part.split(",")) for part in text.split(";") if part.strip())
    except ValueError as error:
        raise ConfigError(f"--input_shape is '{text}'; expected numbers as in '1,3,64,64;1,80,512'.") from error
    if not shapes or any(size < 1 for shape in shapes for size in shape):
        raise ConfigError(f"--input_shape is '{text}'; every size must be at least 1.")
    return shapes


def _numbers(option: str, text: str, *, is_divisor: bool = False) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} is '{text}'; expected numbers with commas between them.") from error
    if not all(map(math.isfinite, numbers)) or (is_divisor and min(numbers) <= 0):
        raise ConfigError(f"{option} is '{text}'; every number must be finite{' and above 0' if is_divisor else ''}.")
    return numbers
