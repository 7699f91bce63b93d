"""log p_kNN on a GPU is what the CPU works out."""

import numpy as np
import pytest

from knnlm.components.knn import GoldShare, knn_scorer

GRID = [0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 10.0, 100.0]


def retrieval(queries=70_000, k=1024):
    """More pairs than a block of either device; some neighbours are missing, some queries have no gold token."""
    generator = np.random.default_rng(1)
    similarities = -40 * generator.standard_exponential((queries, k), dtype=np.float32)
    similarities[:100, 500:] = -np.inf
    similarities[100:110] = -np.inf
    matches = (generator.random((queries, k), dtype=np.float32) < 0.02) & np.isfinite(similarities)
    matches[200:300] = False
    return similarities, matches


@pytest.mark.gpu
def test_all_temperatures_are_those_of_the_cpu():
    similarities, matches = retrieval()
    on_cpu, on_gpu = (GoldShare(similarities, matches, device, GRID) for device in ("cpu", "cuda"))
    for temperature in [*GRID, 7.3]:
        expected, found = on_cpu(temperature), on_gpu(temperature)
        assert np.array_equal(np.isneginf(found), np.isneginf(expected))
        some = np.isfinite(expected)
        np.testing.assert_allclose(found[some], expected[some], rtol=2e-6, atol=2e-6)


@pytest.mark.gpu
def test_it_finds_the_same_every_time():
    similarities, matches = retrieval(5000)
    share = GoldShare(similarities, matches, "cuda")
    assert np.array_equal(share(3.0), share(3.0))
    assert np.array_equal(share(3.0), GoldShare(similarities, matches, "cuda")(3.0))


@pytest.mark.gpu
def test_a_scorer_on_the_gpu_takes_ids_and_shares():
    generator = np.random.default_rng(2)
    ids = generator.integers(-1, 500, (300, 64)).astype(np.int32)
    similarities = np.where(ids < 0, -np.inf, generator.normal(0, 4, ids.shape)).astype(np.float32)
    values, gold = generator.integers(0, 9, 500).astype(np.int32), {"valid": generator.integers(0, 9, 300)}
    found = {"valid": (ids, similarities)}
    expected, on_gpu = (knn_scorer(found, values, gold, device)("valid", 2.0) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, expected, rtol=2e-6, atol=2e-6)
    shares = generator.random(ids.shape, dtype=np.float32) * (ids >= 0)
    expected, on_gpu = (GoldShare(similarities, shares, device)(2.0) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, expected, rtol=2e-6, atol=2e-6)
