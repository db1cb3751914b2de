"""Settings of all tests."""

import os

import hypothesis
import torch

# A deadline would measure how busy the machine is.
hypothesis.settings.register_profile("amct", deadline=None)
hypothesis.settings.load_profile("amct")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # there is a worker for each core
