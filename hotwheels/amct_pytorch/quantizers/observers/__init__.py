"""Observers: they collect statistics of a tensor in calibration and choose its grid."""
