"""Values that ``-i``, ``--input_shape`` and MODEL accept, and the messages for bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.cli.inputs import InputOptions, parse_input_options
from tests.cli.conftest import Amct


def options(*sources: object, shape: str | None = None, batch: int | None = None) -> InputOptions:
    return parse_input_options([str(one) for one in sources], shape, batch, None, None)


def batches(*sources: object, shape: str | None = None, batch: int | None = None) -> list[tuple[torch.Tensor, ...]]:
    return list(options(*sources, shape=shape, batch=batch).batches())


def write_image(path: Path, size: tuple[int, int], color: int | tuple[int, ...], mode: str = "RGB") -> None:
    image = pytest.importorskip("PIL.Image")
    image.new(mode, size, color).save(path)


def test_npy_in_batches(tmp_path: Path) -> None:
    array = np.arange(2 * 5 * 3, dtype=np.float64).reshape(5, 2, 3)
    np.save(tmp_path / "a.npy", array)
    found = batches(tmp_path / "a.npy", batch=2)
    assert [one.shape[0] for (one,) in found] == [2, 2, 1]
    assert torch.cat([one for (one,) in found]).equal(torch.from_numpy(array.astype(np.float32)))


def test_integers_stay_integers(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(4).reshape(2, 2))
    ((ids,),) = batches(tmp_path / "ids.npy")
    assert ids.dtype == torch.int64


def test_the_first_number_of_the_shape_is_the_batch_size(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2, 3), np.float32))
    assert [one.shape[0] for (one,) in batches(tmp_path / "a.npy", shape="2,2,3")] == [2, 2]


def test_a_sample_without_batch_axis_gets_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    ((one,),) = batches(tmp_path / "a.npy", shape="1,2,3")
    assert one.shape == (1, 2, 3)


def test_bin_is_raw_float32(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    values.tofile(tmp_path / "a.bin")
    ((one,),) = batches(tmp_path / "a.bin", shape="2,2,3")
    assert one.equal(torch.from_numpy(values.reshape(2, 2, 3)))


@pytest.mark.parametrize("joined", [True, False])
def test_several_inputs(tmp_path: Path, joined: bool) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.ones((2, 5), np.float32))
    sources = [tmp_path / "a.npy", tmp_path / "b.npy"]
    ((a, b),) = batches(*([";".join(map(str, sources))] if joined else sources), shape="2,3;2,5")
    assert (a.shape, b.shape) == ((2, 3), (2, 5))


def test_images_are_scaled_cropped_and_normalized(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (40, 20), (255, 0, 0))
    write_image(tmp_path / "b.png", (8, 8), (0, 255, 0))
    ((one,),) = batches(tmp_path, shape="2,3,8,8")
    assert one.shape == (2, 3, 8, 8)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    assert torch.allclose(one[0, :, 3, 3], (torch.tensor([1.0, 0, 0]) - mean) / std)
    assert torch.allclose(one[1, :, 0, 0], (torch.tensor([0, 1.0, 0]) - mean) / std)


def test_gray_images_for_one_channel(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (8, 8), 255, "L")
    ((one,),) = list(parse_input_options([str(tmp_path)], "1,1,8,8", None, "0", "1").batches())
    assert one.equal(torch.ones(1, 1, 8, 8))


def test_a_list_names_files_beside_itself_and_may_have_labels(tmp_path: Path) -> None:
    for number, name in enumerate(("a.npy", "b c.npy")):
        np.save(tmp_path / name, np.full((1, 2), number, np.float32))
    (tmp_path / "list.txt").write_text("a.npy 3 0.5\n\nb c.npy\t7\n")
    ((one,),) = batches(tmp_path / "list.txt", shape="2,2")
    assert one[:, 0].tolist() == [0, 1]


def test_noise_on_demand_only() -> None:
    ((one,),) = batches("random", shape="2,3", batch=4)
    assert one.shape == (4, 3)


BAD = {
    "no file": (("nothing.npy",), None, "there is no file or folder 'nothing.npy'"),
    "other kind": (("net.py",), None, "is of no known kind"),
    "empty npy": (("empty.npy",), None, "is no .npy file of numbers"),
    "damaged npy": (("damaged.npy",), None, "is no .npy file of numbers"),
    "objects": (("objects.npy",), None, "is no .npy file of numbers"),
    "other shape": (("images.npy",), "1,3,8,8", "has the shape [4, 3, 16, 16]; --input_shape says [1, 3, 8, 8]"),
    "bin without shape": (("raw.bin",), None, "is raw float32 data: give --input_shape"),
    "bin of other size": (("raw.bin",), "1,3", "has 20 bytes; a sample of shape [3] in float32 has 12"),
    "empty folder": (("empty",), None, "holds no image"),
    "list of nothing": (("empty.txt",), None, "names no file"),
    "list of what is not there": (("list.txt",), None, "list.txt, line 2: there is no file 'gone.npy'"),
    "label behind what is not there": (("label.txt",), None, "label.txt, line 1: there is no file 'gone away.npy'."),
    "empty shape": (("images.npy",), "", "--input_shape is empty; expected numbers as in '1,3,64,64;1,80,512'"),
    "image that is none": (("fake.png",), "1,3,8,8", "is no image that can be read"),
    "image without shape": (("fake.png",), None, "need --input_shape N,C,H,W"),
    "shape": (("images.npy",), "1,x", "--input_shape is '1,x'"),
    "zero": (("images.npy",), "0,3", "every size must be at least 1"),
    "counts": (("images.npy", "image.npy"), None, "different numbers of samples: [1, 4]"),
    "number of shapes": (("images.npy",), "1,3,16,16;1,2", "-i names 1 inputs, --input_shape 2"),
    "none": ((), "1,3,16,16", "-i is missing"),
    "no sample": (("nothing_in.npy",), None, "has the shape [0, 3, 16, 16]: it holds no sample"),
    "one number": (("number.npy",), None, "its first axis must be the batch"),
    "NHWC": (("nhwc.npy",), None, "looks like NHWC: transpose it to NCHW"),
    "bytes": (("bytes.npy",), None, "is of type uint8: convert it to float32"),
}


@pytest.mark.parametrize(("sources", "shape", "text"), BAD.values(), ids=BAD)
def test_bad_inputs(amct: Amct, folder: Path, sources: tuple[str, ...], shape: str | None, text: str) -> None:
    (folder / "empty").mkdir()
    for name in ("empty.npy", "empty.txt"):
        (folder / name).touch()
    (folder / "damaged.npy").write_bytes((folder / "image.npy").read_bytes()[:60])
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    np.save(folder / "nothing_in.npy", np.zeros((0, 3, 16, 16), np.float32))
    np.save(folder / "number.npy", np.float32(1))
    np.save(folder / "nhwc.npy", np.zeros((4, 16, 16, 3), np.float32))
    np.save(folder / "bytes.npy", np.zeros((4, 3, 16, 16), np.uint8))
    np.arange(5, dtype=np.float32).tofile(folder / "raw.bin")
    (folder / "list.txt").write_text("image.npy\ngone.npy\n")
    (folder / "label.txt").write_text("gone away.npy 3 4\n")
    (folder / "fake.png").write_bytes(b"no image")
    line = [part for one in sources for part in ("-i", one)] + (["--input_shape", shape] if shape is not None else [])
    ran = amct("quantize", "net.build", *line)
    assert ran.code == 2
    assert text in ran.error
    assert "Traceback" not in ran.err


BAD_MODELS = {
    "no module": (("nowhere.build",), "there is no module 'nowhere'"),
    "no callable": (("net.biuld",), "Did you mean 'build'?"),
    "a word": (("net",), "names no callable"),
    "no model": (("net.no_model",), "returned an object of type dict"),
    "a file": (("net.py",), "net.py:NAME. It has Net, Two, Fails, NoOutput, build, no_model."),
    "a number": (("net.SIZE",), "is an object of type int"),
    "no file": (("nowhere.py:build",), "there is no file 'nowhere.py'"),
    "timm": (("timm:nothing_of_the_kind",), "timm"),
    "arguments": (("net.Net", "--model_args", "[1]"), "must be a JSON object"),
    "no JSON": (("net.Net", "--model_args", "{"), "is no JSON"),
    "none": ((), "MODEL is missing"),
    "two": (("net.Net", "-m", "net.build"), "Give MODEL once"),
    "no weights": (("net.Net", "-w", "gone.pt"), "there is no file 'gone.pt'"),
    "weights of another": (("net.Net", "-w", "other.pt"), "do not fit the model"),
    "no checkpoint": (("net.Net", "-w", "net.py"), "is not a checkpoint of tensors"),
    "no key": (("net.Net", "-w", "other.pt", "--state_dict_name", "x"), "Its keys: fc.weight"),
    "configuration": (("net.Net", "--quant_config", "net.py"), "must end in .yml, .yaml or .json"),
    "no configuration": (("net.Net", "--quant_config", "gone.yml"), "there is no file 'gone.yml'"),
}


@pytest.mark.parametrize(("arguments", "text"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models(amct: Amct, folder: Path, arguments: tuple[str, ...], text: str) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, folder / "other.pt")
    ran = amct("config", *arguments)
    assert ran.code == 2
    assert text in ran.error


@pytest.mark.parametrize("source", ["net.build", "net:build", "net.py:build", "net.Net"])
def test_spellings_of_a_model(amct: Amct, folder: Path, source: str) -> None:
    assert amct("config", source).code == 0
    assert (folder / "config.json").is_file()


def test_arguments_of_a_callable(amct: Amct, folder: Path) -> None:
    torch.save({}, folder / "empty.pt")
    ran = amct("config", "net.Net", "--model_args", '{"classes": 7}', "-w", "empty.pt")
    assert "'fc'" in ran.error


def test_a_model_of_two_inputs(amct: Amct, folder: Path) -> None:
    np.save(folder / "ids.npy", np.arange(8).reshape(4, 2))
    line = ("-i", "images.npy;ids.npy", "--input_shape", "1,3,16,16;1,2", "--no-report", "--no-dump")
    ran = amct("quantize", "net.Two", *line)
    assert ran.code == 0, ran.err
