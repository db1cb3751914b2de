"""Continues the training of resnet50_retrain.py from its last checkpoint, for --epochs more epochs."""

import sys
from pathlib import Path

# Appended, not inserted: an installed `hotwheels` comes before the one of a checkout around this folder.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from sample.common.retrain_paths import DynamicPath
from sample.common.retraining import main
from sample.resnet50.dynamic.resnet50_retrain import SAMPLE, network

if __name__ == "__main__":
    main(SAMPLE, from_checkpoint=True, path=DynamicPath(network))
