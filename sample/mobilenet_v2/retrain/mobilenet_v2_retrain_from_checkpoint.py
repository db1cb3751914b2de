"""Continues the training of mobilenet_v2_retrain.py from its last checkpoint, for --epochs more epochs."""

import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common.calibration import CalibrationSample
from sample.common.retraining import main
from sample.mobilenet_v2.src.mobilenet import mobilenet_v2

SCRIPT = Path(__file__).resolve()
SAMPLES = SCRIPT.parents[2]

if __name__ == "__main__":
    sample = CalibrationSample(
        network="mobilenet_v2",
        build=mobilenet_v2,
        classifier="classifier.1.weight",
        script=SCRIPT,
        eval_set=SAMPLES / "resnet50" / "calibration" / "images" / "image_label.txt",
    )
    main(sample, from_checkpoint=True)
