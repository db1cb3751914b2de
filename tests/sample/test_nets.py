"""The samples' networks have torchvision's keys; the shipped images fit the loader and the training."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits

from sample.common import digits
from sample.common.images import image_loader, normalize, read_list
from sample.common.zoo import RECIPES
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2
from sample.resnet50.src.resnet import resnet50

IMAGE_LIST = Path(digits.__file__).parents[1] / "resnet50" / "calibration" / "images" / "image_label.txt"


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def batch_norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{name}": (channels,) for name in vectors} | {f"{prefix}.num_batches_tracked": ()}


def test_resnet50_of_width_64_has_the_state_dict_of_torchvision():
    expected = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    in_channels = 64
    for stage, channels, blocks in (("layer1", 64, 3), ("layer2", 128, 4), ("layer3", 256, 6), ("layer4", 512, 3)):
        for block in range(blocks):
            name = f"{stage}.{block}"
            expected |= {f"{name}.conv1.weight": (channels, in_channels, 1, 1), **batch_norm(f"{name}.bn1", channels)}
            expected |= {f"{name}.conv2.weight": (channels, channels, 3, 3), **batch_norm(f"{name}.bn2", channels)}
            expected |= {f"{name}.conv3.weight": (4 * channels, channels, 1, 1)}
            expected |= batch_norm(f"{name}.bn3", 4 * channels)
            if block == 0:
                expected |= {f"{name}.downsample.0.weight": (4 * channels, in_channels, 1, 1)}
                expected |= batch_norm(f"{name}.downsample.1", 4 * channels)
            in_channels = 4 * channels
    expected |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}

    model = resnet50()

    assert shapes(model) == expected
    assert sum(p.numel() for p in model.parameters()) == 25_557_032  # the count torchvision documents


def test_mobilenet_v2_of_full_width_has_the_state_dict_of_torchvision():
    keys = shapes(mobilenet_v2())

    # One block without and one with the expanding convolution, the stem, the last layers: written out by hand.
    block_1 = {"features.1.conv.0.0.weight": (32, 1, 3, 3), **batch_norm("features.1.conv.0.1", 32)}
    block_1 |= {"features.1.conv.1.weight": (16, 32, 1, 1), **batch_norm("features.1.conv.2", 16)}
    block_17 = {"features.17.conv.0.0.weight": (960, 160, 1, 1), **batch_norm("features.17.conv.0.1", 960)}
    block_17 |= {"features.17.conv.1.0.weight": (960, 1, 3, 3), **batch_norm("features.17.conv.1.1", 960)}
    block_17 |= {"features.17.conv.2.weight": (320, 960, 1, 1), **batch_norm("features.17.conv.3", 320)}
    assert {k: v for k, v in keys.items() if k.startswith("features.0.")} == {
        "features.0.0.weight": (32, 3, 3, 3),
        **batch_norm("features.0.1", 32),
    }
    assert {k: v for k, v in keys.items() if k.startswith("features.1.")} == block_1
    assert {k: v for k, v in keys.items() if k.startswith("features.17.")} == block_17
    assert {k: v for k, v in keys.items() if k.startswith("features.18.")} == {
        "features.18.0.weight": (1280, 320, 1, 1),
        **batch_norm("features.18.1", 1280),
    }
    assert keys["classifier.1.weight"] == (1000, 1280) and keys["classifier.1.bias"] == (1000,)
    assert len(keys) == 314
    assert sum(p.numel() for p in mobilenet_v2().parameters()) == 3_504_872  # the count torchvision documents


@pytest.mark.parametrize("name", RECIPES)
def test_network_maps_digits_to_ten_logits_and_traces(name: str):
    model = RECIPES[name].build().eval()
    x = torch.randn(2, 3, digits.IMAGE_SIZE, digits.IMAGE_SIZE)
    assert model(x).shape == (2, digits.NUM_CLASSES)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_shipped_images_are_the_first_held_out_digits():
    _, held_out = digits.load()
    images, labels = next(iter(image_loader(IMAGE_LIST, digits.IMAGE_SIZE, batch_size=160)))
    assert torch.equal(labels, held_out.labels[:160])
    assert torch.equal(images, digits.to_input(held_out.images[:160]))


def test_image_list_names_exactly_the_shipped_files():
    named = [path.name for path, _ in read_list(IMAGE_LIST)]
    assert len(named) == 160
    assert sorted(named) == sorted(path.name for path in IMAGE_LIST.parent.glob("*.png"))


def test_training_and_held_out_part_share_no_digit():
    train_set, held_out = digits.load()
    assert (len(train_set), len(held_out)) == (1437, 360)
    seen = {image.numpy().tobytes() for image in train_set.images}
    assert not any(image.numpy().tobytes() in seen for image in held_out.images)


def test_cross_validation_holds_out_every_digit_once():
    source = load_digits()
    parts = [digits.load(fold) for fold in range(digits.FOLDS)]
    assert [len(held_out) for _, held_out in parts] == [360, 360, 360, 360, 357]
    assert all(len(train_set) + len(held_out) == len(source.target) for train_set, held_out in parts)
    held_out = torch.cat([held_out.labels for _, held_out in parts])
    assert held_out.tolist() == source.target[np.random.RandomState(0).permutation(len(source.target))].tolist()


def test_other_image_sizes_are_scaled_and_cropped_at_the_centre(tmp_path: Path):
    from PIL import Image

    picture = Image.new("RGB", (512, 256), (255, 0, 0))
    picture.paste((0, 0, 255), (128, 0, 384, 256))  # the central square is blue
    picture.save(tmp_path / "a picture.png")
    (tmp_path / "list.txt").write_text("a picture.png 3\n\n", encoding="utf-8")
    images, labels = next(iter(image_loader(tmp_path / "list.txt", 224, batch_size=1)))
    assert labels.tolist() == [3]
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 224, 224)
    torch.testing.assert_close(images[0], normalize(blue))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a.png 1\nb.png\n", r"list\.txt:2: expected '<image file> <label>', found 'b\.png'", id="no-label"
        ),
        pytest.param("a.png one\n", r"list\.txt:1: .*found 'a\.png one'", id="label-is-no-number"),
        pytest.param("\n", "names no image", id="empty"),
    ],
)
def test_malformed_image_list_is_refused_with_its_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt")
