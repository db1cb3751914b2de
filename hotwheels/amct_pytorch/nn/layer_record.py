"""QuantParams (tensors) -> the plain values of a Record."""

from __future__ import annotations

from ..core.params import QuantParams
from ..record import ActivationRecord, WeightRecord


def activation_record(index: int, params: QuantParams) -> ActivationRecord:
    """Returns the grid of quantizable input ``index``."""
    return ActivationRecord(index=index, scale=float(params.scale), offset=int(params.offset), num_bits=params.num_bits)


def weight_record(params: QuantParams) -> WeightRecord:
    """Returns the grid of a weight."""
    return WeightRecord(
        scale=tuple(params.scale.reshape(-1).tolist()),
        num_bits=params.num_bits,
        codebook=() if params.codebook is None else tuple(int(value) for value in params.codebook.tolist()),
        centroids=() if params.centroids is None else tuple(params.centroids.tolist()),
        clip_max=params.clip_max,
    )
