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


def refuse_uneven_windows(layer: str, op: OpDesc, x: object, result: object) -> None:
    """Raises ExportError for an adaptive pooling or a resize to an ``area`` whose windows differ in size."""
    if isinstance(result, tuple):
        result = result[0]
    if not isinstance(x, Tensor) or not isinstance(result, Tensor):
        return
    rank = op.image_axes if op.name.startswith("adaptive") else x.dim() - 2
    before, after = [[int(one) for one in tensor.shape[-rank:]] for tensor in (x, result)]
    if all(after) and any(have % want for have, want in zip(before, after, strict=True)):
        msg = (
            f"Layer '{layer}': from {before} to {after} elements its windows have several sizes, which ONNX's poolings"
            " do not have. Choose sizes that divide those of the input; or, for means, call the function of"
            " torch.nn.functional in the forward: it is no layer on this path and becomes products with constants."
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
