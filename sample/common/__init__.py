"""What all samples share: images, digits, training, evaluation and the calibration program itself."""
