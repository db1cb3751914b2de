"""onnxruntime's static quantization, set up as its documentation recommends, and runs of unoptimized ONNX files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Images = NDArray[np.float32]

METHODS = {
    "MinMax": CalibrationMethod.MinMax,
    "Percentile": CalibrationMethod.Percentile,
    "Entropy": CalibrationMethod.Entropy,
}


def quantize(float_model: Path, calibration: Images, method: str, op_types: Sequence[str], target: Path) -> Path:
    """Writes ``float_model`` quantized to W8A8 to ``target`` and returns that path.

    The file has QuantizeLinear/DequantizeLinear pairs, int8 everywhere: weights symmetric per channel, activations
    asymmetric; with the pre-processing that onnxruntime recommends.

    Args:
      float_model: The float ONNX file.
      calibration: Images ``[N, 3, H, W]``, used as one batch.
      method: A key of ``METHODS``.
      op_types: ONNX types to quantize; none for onnxruntime's own choice.
      target: File to write.
    """
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_model), str(prepared))
    quantize_static(
        str(prepared),
        str(target),
        _OneBatch(_input_name(float_model), calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(op_types),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
    )
    return target


def run(model: Path, images: Images) -> Images:
    """Returns the first output of an ONNX file, without graph optimizations: the numbers of the file itself."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


class _OneBatch(CalibrationDataReader):
    def __init__(self, input_name: str, images: Images) -> None:
        self._feeds: Iterator[dict[str, Images]] = iter([{input_name: images}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._feeds, None)


def _input_name(model: Path) -> str:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return str(session.get_inputs()[0].name)
