"""Clusters made and searched on a GPU are those of the CPU."""

import numpy as np
import pytest

from knnlm.components.centroids import (
    Clusters,
    fine_tune,
    k_means,
    nearest_centroids,
    nearest_to_queries,
    word_distribution,
)

GENERATOR = np.random.default_rng(4)
TRUE = GENERATOR.normal(0, 3, (200, 32)).astype(np.float32)  # centres that stand apart
OWNERS = GENERATOR.permutation(np.repeat(np.arange(200), 50))
KEYS = (TRUE[OWNERS] + GENERATOR.normal(0, 0.3, (10_000, 32))).astype(np.float32)
VALUES = GENERATOR.integers(0, 60, len(KEYS))


@pytest.mark.gpu
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_k_means_makes_the_cpus_clusters(factory, spherical):
    made = [k_means(KEYS, 200, 8, 1, spherical, factory, 8, device) for device in ("cpu", "cuda")]
    (on_cpu, cpu_index), (on_gpu, gpu_index) = made
    squares = []
    for points, index in ((on_cpu, cpu_index), (on_gpu, gpu_index)):
        cells = nearest_centroids(index, KEYS.astype(np.float16), unit=False)
        squares.append(np.square(KEYS - points[cells]).sum(1).mean())
    assert squares[1] == pytest.approx(squares[0], rel=0.02)
    if factory == "Flat":
        apart = np.abs(on_cpu - on_gpu).max(axis=1)
        assert np.mean(apart < 1e-3) > 0.95  # a key between two centroids may go to the other


@pytest.mark.gpu
def test_the_index_on_the_gpu_assigns_as_the_cpus_with_the_same_centroids():
    points, index = k_means(KEYS, 200, 3, 1, False, "Flat", 1, "cuda")
    exact = -2 * KEYS.astype(np.float64) @ points.T.astype(np.float64) + np.square(points.astype(np.float64)).sum(1)
    assert np.mean(nearest_centroids(index, KEYS, unit=False) == exact.argmin(axis=1)) > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_nearest_centroids_are_those_of_the_cpu(metric):
    clusters = Clusters(TRUE, word_distribution(OWNERS, VALUES, 200, 60))
    (expected, ids), (found, on_gpu) = (
        nearest_to_queries(KEYS, clusters, metric, 64, device) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.mean(ids == on_gpu) > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_fine_tuning_moves_centroids_as_on_the_cpu(metric):
    clusters = Clusters(TRUE, word_distribution(OWNERS, VALUES, 200, 60))
    recipe = {"passes": 2, "batch": 500, "learning_rate": 1e-2}
    tuned = [list(fine_tune(clusters, (KEYS, VALUES), metric, 20.0, recipe, 1, device)) for device in ("cpu", "cuda")]
    for expected, found in zip(*tuned, strict=True):
        assert np.mean(np.abs(found - expected) < 2e-3) > 0.99  # Adam's step has a sign even where rounding gives it
