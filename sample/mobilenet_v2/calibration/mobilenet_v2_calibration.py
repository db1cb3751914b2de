"""Calibrates MobileNetV2, evaluates it as float, fake_quant and real_quant model and writes the files for deployment.

Options, flow and images are the same as in sample/resnet50/calibration/resnet50_calibration.py.
"""

import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common.calibration import CalibrationSample, main
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2

SCRIPT = Path(__file__)
SAMPLES = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    main(
        CalibrationSample(
            network="mobilenet_v2",
            build=mobilenet_v2,
            classifier="classifier.1.weight",
            script=SCRIPT,
            eval_set=SAMPLES / "resnet50" / "calibration" / "images" / "image_label.txt",
        )
    )
