"""Backend: what the api asks of a way to put quantized layers into a model."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ..graph import OpGraph
from ..plan.quant_plan import QuantPlan

NO_DATA_PARALLEL = (
    "Quantized models cannot run in DataParallel: its replicas throw away what quantizers learn in a forward. Use"
    " DistributedDataParallel, one process per device."
)


class Backend(Protocol):
    """One model on its way to its quantized form. Works on a copy; the caller's model is never changed."""

    def graph(self) -> OpGraph:
        """Returns the operations of the model."""

    def place(self, plan: QuantPlan) -> nn.Module:
        """Returns the model with a QuantizedLayer in place of every planned layer."""
