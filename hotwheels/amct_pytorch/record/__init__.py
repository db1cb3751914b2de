"""Record: the quantization parameters of every layer, and the files that hold them."""

from .record import ActivationRecord, LayerRecord, Record, WeightRecord

__all__ = ["ActivationRecord", "LayerRecord", "Record", "WeightRecord"]
