"""Small networks of different families through the whole SDK; ``make zoo`` takes all of them."""

from __future__ import annotations

import pytest

from benchmarks.zoo import conformance
from benchmarks.zoo.architectures import ARCHITECTURES
from benchmarks.zoo.outcome import STATIC
from tests.support.fixtures import one_thread

__all__ = ["one_thread"]

NETWORKS = {
    "squeezenet1_1": STATIC,  # concatenation, no BatchNorm
    "mobilenet_v3_small": STATIC,  # squeeze and excitation, Hardswish
    "ghostnet_050": STATIC,  # features out of features, sliced
    "starnet_s050": STATIC,  # element-wise products
    "ssdlite_mobilenetv3": STATIC,  # a detection head on three maps
    "vision_transformer": STATIC,  # nn.MultiheadAttention
    "swin": STATIC,  # shifted windows, relative positions
    "convit_tiny": STATIC,  # control flow that depends on sizes
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_conforms(name: str) -> None:
    outcome = conformance.run(ARCHITECTURES[name])
    assert outcome.error == "", outcome.stage
    assert outcome.path == NETWORKS[name]
    assert outcome.fake_sqnr is not None
    assert outcome.fake_sqnr > 5.0
    if outcome.path == STATIC:
        assert outcome.edges
        assert outcome.runtime_layers
