"""SNQ and LNQ against loops over weights."""

import time

import numpy as np
import pytest
import torch

from hotwheels.amct_pytorch.core import affine
from hotwheels.amct_pytorch.core.search import codebook
from hotwheels.amct_pytorch.core.search.kmeans import cluster

ALGORITHMS = ("uniform", "gaussian", "d2sampling")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kmeans_reference(values, centroids, rounds, min_distance):
    """Assign each value to the nearest centroid, move each centroid to its mean."""
    centroids = centroids.astype(np.float64)
    for _ in range(rounds):
        nearest = np.abs(values[:, None] - centroids).argmin(1)
        moved = np.array([values[nearest == i].mean() if (nearest == i).any() else c for i, c in enumerate(centroids)])
        distance = np.abs(moved - centroids).max()
        centroids = moved
        if distance < min_distance:
            break
    return centroids


@pytest.mark.parametrize("rounds", [1, 5, 1000])
def test_cluster_equals_reference(rounds):
    values = normal(2000).numpy().astype(np.float64)
    start = np.linspace(values.min(), values.max(), 16)
    expected = kmeans_reference(values, start, rounds, 1e-10)
    got = cluster(torch.from_numpy(values).float(), "uniform", rounds, 1e-10)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_clustering_is_deterministic_sorted_and_inside(algorithm):
    values = (normal(5000) / 5).clamp(-1, 1)
    first, second = (cluster(values, algorithm) for _ in range(2))
    assert torch.equal(first, second)
    assert bool((first.diff() >= 0).all())
    assert first.dtype == torch.float32
    assert first.shape == (16,)
    assert float(first.abs().max()) <= 1


@pytest.mark.parametrize("algorithm", ["uniform", "d2sampling"])
def test_sixteen_values_are_found_exactly(algorithm):
    values = torch.linspace(-1, 1, 16)
    torch.testing.assert_close(cluster(values.repeat(9), algorithm), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [-1.0, 1.0], [0.3] * 40])
def test_fewer_values_than_clusters(algorithm, values):
    centroids = cluster(torch.tensor(values), algorithm)
    assert bool(centroids.isfinite().all())
    for value in values:
        assert float((centroids - value).abs().min()) < 1e-6


def test_empty_cluster_keeps_its_centre():
    got = cluster(torch.tensor([0.0, 0.1, 1.0]), num_clusters=4, max_iteration=1)  # centres 0, 1/3, 2/3, 1
    assert got.tolist() == pytest.approx([0.05, 1 / 3, 2 / 3, 1.0])


def test_symmetric_centroids_are_mirrored():
    got = cluster(normal(3000), symmetric=True)
    torch.testing.assert_close(got, -got.flip(0), rtol=0, atol=0)
    assert bool((got[8:] > 0).all())


def test_start_from_given_centroids():
    values = normal(1000)
    done = cluster(values)
    torch.testing.assert_close(cluster(values, max_iteration=1, initial=done), done, rtol=0, atol=1e-6)
    mirrored = cluster(values, symmetric=True)
    again = cluster(values, symmetric=True, max_iteration=1, initial=mirrored)
    torch.testing.assert_close(again, mirrored, rtol=0, atol=1e-6)


def test_a_million_weights_take_no_minute():
    started = time.perf_counter()
    cluster(normal(1_000_000), "gaussian", 500)
    assert time.perf_counter() - started < 10  # measured: 0.2 s


def test_codebook_form():
    params, step = codebook.codebook_of(torch.tensor([-0.5, 0.1, 1.0]))
    assert float(step) == pytest.approx(1 / 127)
    assert params.tolist() == [-64, 13, 127]  # -63.5 and 12.7
    assert params.dtype == torch.int32


def test_codebook_of_zeros():
    params, step = codebook.codebook_of(torch.zeros(16))
    assert float(step) == 1.0
    assert not params.any()


@pytest.mark.parametrize("channel_wise", [True, False])
def test_assign_takes_the_nearest(channel_wise):
    weight = normal(4, 3, 2, 2)
    params = codebook.snq_params(weight, channel_wise)
    got = codebook.assign(weight, params.scale, params.codebook)
    scale = params.scale.reshape(-1, 1, 1, 1, 1).double()
    distance = (weight.double().unsqueeze(-1) - scale * params.codebook.double()).abs()
    chosen = (weight.double() - got.double() * scale[..., 0]).abs()
    torch.testing.assert_close(chosen, distance.amin(-1), rtol=0, atol=1e-7)
    assert got.dtype == torch.int32
    assert set(got.flatten().tolist()) <= set(params.codebook.tolist())


@pytest.mark.parametrize("channel_wise", [True, False])
def test_snq_scale_is_step_times_largest_weight(channel_wise):
    weight = normal(4, 30) * torch.tensor([[1.0], [0.01], [5.0], [0.0]])
    params = codebook.snq_params(weight, channel_wise)
    size = weight.abs().amax(1) if channel_wise else weight.abs().max()
    step = params.centroids.abs().max() / 127
    expected = (step * size).clamp(min=2.0**-23)
    torch.testing.assert_close(params.scale, expected, rtol=3e-7, atol=0)
    assert torch.equal(affine.canonical_scale(params.scale), params.scale)
    assert (params.num_bits, params.codebook.shape) == (4, (16,))
    assert float(params.centroids.abs().max()) <= 1


def test_lnq_normalise():
    weight = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0], requires_grad=True)
    sigma = np.std([-4, -1, 0, 1, 4])
    got = codebook.lnq_normalise(weight, 1.0)
    assert got.tolist() == pytest.approx([-1.0, -1 / sigma, 0.0, 1 / sigma, 1.0])
    assert not codebook.lnq_normalise(torch.full((3,), 2.0), 3.0).any()


def test_lnq_params():
    weight = normal(10, 20)
    centroids = cluster(codebook.lnq_normalise(weight, 3.0).flatten())
    params = codebook.lnq_params(weight, centroids, torch.tensor(3.0))
    expected = float(centroids.abs().max()) / 127 * 3 * float(weight.std(correction=0))
    assert float(params.scale) == pytest.approx(expected, rel=1e-6)
    assert params.clip_max == 3.0
    error = weight - codebook.assign(weight, params.scale, params.codebook) * params.scale
    assert float(error.square().mean()) < 0.02 * float(weight.square().mean())


def test_rescaled_for_folded_batch_norm():
    params = codebook.snq_params(normal(3, 8), channel_wise=False)
    scaled = codebook.rescaled(params, torch.tensor([2.0, -0.5, 0.0]))
    torch.testing.assert_close(scaled.scale[:2], params.scale * torch.tensor([2.0, 0.5]), rtol=3e-7, atol=0)
    assert float(scaled.scale[2]) >= 2.0**-23
    assert scaled.codebook is params.codebook
