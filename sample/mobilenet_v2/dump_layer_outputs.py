"""Writes what every layer of a calibrated or trained MobileNetV2 computes in real_quant to files in ./dump."""

import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from sample.common.calibration import CalibrationSample
from sample.common.dumping import main
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2

SCRIPT = Path(__file__).resolve()
SAMPLES = SCRIPT.parents[1]

if __name__ == "__main__":
    sample = CalibrationSample(
        network="mobilenet_v2",
        build=mobilenet_v2,
        classifier="classifier.1.weight",
        script=SCRIPT,
        eval_set=SAMPLES / "resnet50" / "calibration" / "images" / "image_label.txt",
    )
    main(sample)
