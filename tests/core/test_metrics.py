import math

import pytest
import torch

from hotwheels.amct_pytorch.core.metrics import cosine, max_lsb, sqnr_db


def test_sqnr():
    reference = torch.tensor([3.0, 4.0])
    assert sqnr_db(reference, reference + torch.tensor([0.3, 0.4])) == pytest.approx(20.0, abs=1e-5)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(torch.zeros(2), reference) == -math.inf


def test_cosine():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert (cosine(a, b), cosine(a, 5 * a), cosine(a, -a)) == (0.0, 1.0, -1.0)
    assert (cosine(0 * a, 0 * a), cosine(0 * a, a)) == (1.0, 0.0)


def test_max_lsb():
    a = torch.tensor([[1.0, 2.0]])
    assert max_lsb(a, a + torch.tensor([[0.5, -1.0]]), 0.25) == 4.0
    assert max_lsb(a, a + 1, torch.tensor([[1.0, 0.1]])) == pytest.approx(10.0)
    assert max_lsb(torch.empty(0), torch.empty(0), 1.0) == 0.0
