"""One-dimensional k-means on sorted values with prefix sums: a round hardly depends on the number of values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]

_SEED = 0  # spec 6.2: k-means++ with a fixed seed


def cluster(
    values: Tensor,
    init_algo: str = "uniform",
    max_iteration: int = 1000,
    min_distance: float = 1e-10,
    num_clusters: int = 16,
    symmetric: bool = False,
    initial: Tensor | None = None,
) -> Tensor:
    """Returns ``num_clusters`` sorted centroids of the 1-D ``values``, float32, on their device; deterministic.

    Args:
      values: Finite, at least one.
      init_algo: ``uniform`` (equidistant in [min, max]), ``gaussian`` (quantiles of the normal distribution with the
        same mean and deviation) or ``d2sampling`` (k-means++).
      max_iteration: Most rounds.
      min_distance: The rounds end when no centroid moves as far.
      num_clusters: Even if ``symmetric``.
      symmetric: Clusters ``|values|`` by half as many centroids and mirrors them.
      initial: Sorted centroids to start from, instead of ``init_algo``.
    """
    if symmetric:
        half = num_clusters // 2
        upper = None if initial is None else initial[half:]
        found = cluster(values.abs(), init_algo, max_iteration, min_distance, half, initial=upper)
        return torch.cat((-found.flip(0), found))
    ordered = np.sort(values.detach().to(device="cpu", dtype=torch.float32).numpy()).astype(np.float64)
    if initial is None:
        centroids = np.sort(_INITIALS[init_algo](ordered, num_clusters))
    else:
        centroids = initial.detach().cpu().double().numpy()
    centroids = _lloyd(ordered, centroids, max_iteration, min_distance)
    return torch.from_numpy(centroids.astype(np.float32)).to(values.device)


def _lloyd(ordered: Numbers, centroids: Numbers, max_iteration: int, min_distance: float) -> Numbers:
    """Rounds of k-means: a cluster of sorted values is a slice, its sum a difference of prefix sums."""
    prefix = np.concatenate(([0.0], np.cumsum(ordered)))
    for _ in range(max_iteration):
        middles = (centroids[1:] + centroids[:-1]) / 2
        ends = np.concatenate(([0], np.searchsorted(ordered, middles, side="right"), [ordered.size]))
        sizes, sums = np.diff(ends), np.diff(prefix[ends])
        # An empty cluster keeps its centre (spec 6.2).
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
        distance = np.abs(moved - centroids).max()
        centroids = moved
        if distance < min_distance:
            break
    return centroids


def _uniform(ordered: Numbers, number: int) -> Numbers:
    return np.linspace(ordered[0], ordered[-1], number)


def _gaussian(ordered: Numbers, number: int) -> Numbers:
    """The middles of ``number`` equal shares of the normal distribution."""
    from statistics import NormalDist  # here, because it loads decimal and fractions

    normal = NormalDist()
    shares = np.array([normal.inv_cdf((i + 0.5) / number) for i in range(number)])
    result: Numbers = ordered.mean() + ordered.std() * shares
    return result


def _d2sampling(ordered: Numbers, number: int) -> Numbers:
    """k-means++: each next centre is drawn with a probability proportional to its squared distance to the others."""
    random = np.random.default_rng(_SEED)
    centres = [ordered[random.integers(ordered.size)]]
    distance = np.square(ordered - centres[0])
    while len(centres) < number:
        total = np.cumsum(distance)
        drawn = min(int(np.searchsorted(total, random.random() * total[-1], side="right")), ordered.size - 1)
        centres.append(ordered[drawn])
        np.minimum(distance, np.square(ordered - centres[-1]), out=distance)
    return np.array(centres)


_INITIALS: dict[str, Callable[[Numbers, int], Numbers]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "d2sampling": _d2sampling,
}
