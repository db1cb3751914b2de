"""Trains a quantized ResNet-50 on the dynamic path, on handwritten digits or on your images, and writes the files.

The flow is in sample/common/retraining.py, the calls of the library are in `DynamicPath` of retrain_paths.py.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common.calibration import CalibrationSample
from sample.common.retrain_paths import DynamicPath
from sample.common.retraining import main
from sample.resnet50.dynamic.resnet50_model.resnet import resnet50

SCRIPT = Path(__file__).resolve()
SAMPLE = CalibrationSample(
    network="resnet50",
    build=resnet50,
    classifier="fc.weight",
    script=SCRIPT,
    eval_set=SCRIPT.parents[1] / "calibration" / "images" / "image_label.txt",
    config_def=SCRIPT.parent / "retrain_conf" / "retrain.cfg",
)


def network(state: Mapping[str, Tensor]) -> nn.Module:
    """Returns an untrained network with the shapes of ``state``."""
    return resnet50(state["fc.weight"].shape[0], width=state["conv1.weight"].shape[0])


if __name__ == "__main__":
    main(SAMPLE, path=DynamicPath(network))
