"""YOLO networks of ultralytics in their export mode, which returns one tensor and picks no boxes."""

from __future__ import annotations

import os
import tempfile
from functools import partial

from torch import nn

from .architecture import Architecture

_TASKS = {"": "DetectionModel", "-seg": "SegmentationModel", "-pose": "PoseModel"}


def _build(name: str, task: str) -> nn.Module:
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # it writes settings there
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.nn import tasks

    model: nn.Module = getattr(tasks, task)(f"{name}.yaml", verbose=False)
    for module in model.modules():
        if hasattr(module, "export"):
            module.export, module.format = True, "onnx"
    return model


ULTRALYTICS = tuple(
    Architecture(f"{version}{suffix}", "ultralytics", partial(_build, f"{version}{suffix}", task))
    for version in ("yolov8n", "yolo11n", "yolo26n")
    for suffix, task in _TASKS.items()
)
