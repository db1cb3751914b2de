"""Calibrates ResNet-50, evaluates it as float, fake_quant and real_quant model and writes the files for deployment.

Without options: a narrow ResNet-50 trained on handwritten digits (half a minute, once) and the 160 images in ./images.
With ``--weights FILE --eval_set LIST``: torchvision's ResNet-50 on your own images.
The flow itself is in sample/common/calibration.py.
"""

import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common.calibration import CalibrationSample, main
from sample.resnet50.src.resnet import resnet50

SCRIPT = Path(__file__)

if __name__ == "__main__":
    main(
        CalibrationSample(
            network="resnet50",
            build=resnet50,
            classifier="fc.weight",
            script=SCRIPT,
            eval_set=SCRIPT.parent / "images" / "image_label.txt",
        )
    )
