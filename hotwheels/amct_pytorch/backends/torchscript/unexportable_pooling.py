"""Refuses poolings that torch's TorchScript-based exporter would silently write as another computation.

A separate module, because torch_exporter loads torch.onnx and onnx, which ``import hotwheels.amct_pytorch`` must not.
"""

from __future__ import annotations

from torch import Tensor

from ...errors import ExportError
from ...ops.desc import OpDesc


def refuse_divisor(layer: str, divisor: object) -> None:
    """Raises ExportError for an average pooling with a ``divisor_override``, which the exporter silently drops."""
    if divisor is not None:
        msg = (
            f"Layer '{layer}': an average pooling with divisor_override={divisor} cannot be exported to ONNX, whose"
            " AveragePool has none. Leave it out and multiply the result."
        )
        raise ExportError(msg)


def refuse_unbatched_pooling(layer: str, op: OpDesc, x: object) -> None:
    """Raises ExportError for an adaptive pooling of an image without a batch axis.

    The exporter writes GlobalAveragePool or GlobalMaxPool, which would treat axis 0 as the batch.
    """
    if op.name.startswith("adaptive") and isinstance(x, Tensor) and x.dim() == 1 + op.image_axes:
        msg = (
            f"Layer '{layer}': an adaptive pooling of an image without a batch axis, {list(x.shape)}, cannot be"
            " exported to ONNX, which would take its channels for images. Give the input a batch axis."
        )
        raise ExportError(msg)
