"""Deploy pairs written by hand: the graph as ONNX text, the parameters as protobuf text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from hotwheels.amct_pytorch.oracle.interpreter import Interpreter

FLOAT_INPUT = "input { data_type: F16 scale: 1 offset: 0 }"


def input_param(scale: float, offset: int = 0, data_type: str = "S8") -> str:
    """The text of one quantized input; ``scale`` is the step."""
    return f"input {{ data_type: {data_type} scale: {np.float32(1) / np.float32(scale):.9g} offset: {offset} }}"


def weight_param(*scales: float) -> str:
    values = " ".join(f"scale: {np.float32(1) / np.float32(scale):.9g} offset: 0" for scale in scales)
    return f"weight {{ data_type: S8 {values} }}"


def write_pair(
    folder: Path,
    graph: str,
    layers: Mapping[str, str],
    constants: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    opset: int = 13,
) -> Path:
    """Writes ``<folder>/P_deploy_model.onnx`` and ``P_quant_param_record.txt``; returns the prefix."""
    header = f'<ir_version: 8, opset_import: ["": {opset}, "custom_domain": 1]>\n'
    model = onnx.parser.parse_model(header + graph)
    for name, array in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    if metadata is not None:
        onnx.helper.set_model_props(model, {"amct.deploy.v1": json.dumps({"layers": metadata})})
    onnx.save(model, folder / "P_deploy_model.onnx")
    text = "".join(f'layer {{ name: "{name}" quant_param {{ {param} }} }}\n' for name, param in layers.items())
    (folder / "P_quant_param_record.txt").write_text(text)
    return folder / "P"


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[..., Interpreter]:
    def load(*args: Any, **kwargs: Any) -> Interpreter:
        prefix = write_pair(tmp_path, *args, **kwargs)
        return Interpreter(f"{prefix}_deploy_model.onnx", f"{prefix}_quant_param_record.txt")

    return load


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Path]:
    return lambda *args, **kwargs: write_pair(tmp_path, *args, **kwargs)


@pytest.fixture
def param() -> Any:
    """The three texts above, for test modules (which cannot import a conftest)."""

    class Texts:
        float_input = FLOAT_INPUT
        input = staticmethod(input_param)
        weight = staticmethod(weight_param)

    return Texts
