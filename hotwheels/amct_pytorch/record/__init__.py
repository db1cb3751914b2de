"""Record: the quantization parameters of every layer, and the files they are read from and written to."""

from .record import ActivationRecord, LayerRecord, Record, WeightRecord

__all__ = ["ActivationRecord", "LayerRecord", "Record", "WeightRecord"]
