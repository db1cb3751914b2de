"""Modules that all samples share: images, digits, training, evaluation and the calibration program itself."""
