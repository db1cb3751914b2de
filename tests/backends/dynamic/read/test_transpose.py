"""A Transpose that the exporter writes for a layer is named ``<layer>_transpose`` (spec 9.1)."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct


class TransposedMatMul(amct.MatMul):
    """``a @ b^T``, as for the scores of an attention."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, b.transpose(-2, -1))


class Scores(nn.Module):
    """Two projections, their product and a softmax over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 4), nn.Linear(6, 4)
        self.scores, self.softmax = TransposedMatMul(), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.scores(self.query(x), self.key(x)))


def with_forward_of_rows(model: Scores) -> Scores:
    """Sets a forward on the softmax which moves the axis there and back."""
    original = model.softmax.forward
    model.softmax.forward = lambda x: original(x.transpose(1, 2)).transpose(1, 2)
    return model


X = torch.linspace(-1, 1, 2 * 5 * 6).reshape(2, 5, 6)


def quantized_nodes(model: nn.Module, folder: Path) -> list[tuple[str, str]]:
    """The (name, type) of the nodes in modfied_onnx_file, after a calibration that quantizes all layers."""
    config, onnx_file, record = folder / "config.json", folder / "modified.onnx", folder / "record.txt"
    amct.create_quant_config(config, model.eval(), X)
    quantized = amct.quantize_model(config, onnx_file, record, model, X)
    with torch.no_grad():
        quantized(X)
    amct.save_model(onnx_file, record, f"{folder}/saved", quantized)
    return [(node.name, node.op_type) for node in onnx.load(onnx_file).graph.node]


def test_transpose_of_a_layer_has_its_name(tmp_path: Path) -> None:
    nodes = quantized_nodes(Scores(), tmp_path)
    assert ("scores_transpose", "Transpose") in nodes
    assert ("scores", "MatMul") in nodes


def test_transpose_in_a_forward_set_on_the_layer_has_its_name(tmp_path: Path) -> None:
    assert ("softmax_transpose", "Transpose") in quantized_nodes(with_forward_of_rows(Scores()), tmp_path)


def test_operation_in_front_of_a_transpose_has_the_name_of_the_layer(tmp_path: Path) -> None:
    nodes = quantized_nodes(with_forward_of_rows(Scores()), tmp_path)
    expected = [("softmax_transpose", "Transpose"), ("softmax", "Softmax"), ("softmax_transpose_1", "Transpose")]
    assert nodes[-3:] == expected


@pytest.mark.parametrize("end", ["fake_quant_model.onnx", "deploy_model.onnx"])
def test_saved_models_keep_the_name(end: str, tmp_path: Path) -> None:
    quantized_nodes(Scores(), tmp_path)
    (path,) = tmp_path.glob(f"saved*{end}")
    names = {node.name: node.op_type for node in onnx.load(path).graph.node}
    assert names["scores_transpose"] == "Transpose"
