import faiss
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import logsumexp

from knnlm.components.centroids import (
    Clusters,
    GoldCentroids,
    centroid_gradient,
    fine_tune,
    gold_shares,
    k_means,
    nearest_centroids,
    nearest_to_queries,
    occupied,
    one_word_each,
    unit_length,
    word_distribution,
)
from knnlm.components.knn import log_p_knn

SEEDS = st.integers(0, 2**31)


def similarities_of(queries, centroids, metric):
    """Every similarity in float64."""
    queries, centroids = queries.astype(np.float64), centroids.astype(np.float64)
    return queries @ centroids.T if metric == "ip" else -np.square(queries[:, None] - centroids[None]).sum(2)


def made_up(seed, rows=200, width=6, types=9, centroids=12):
    """Keys, values, and clusters with made-up assignments, every centroid used."""
    generator = np.random.default_rng(seed)
    keys = generator.standard_normal((rows, width)).astype(np.float32)
    values = generator.integers(0, types, rows)
    cells = np.concatenate([np.arange(centroids), generator.integers(0, centroids, rows - centroids)])
    points = generator.standard_normal((centroids, width)).astype(np.float32)
    return keys, values, Clusters(points, word_distribution(cells, values, centroids, types))


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_the_distribution_of_words_is_that_of_the_counts(seed):
    generator = np.random.default_rng(seed)
    cells, values = generator.integers(0, 7, 60), generator.integers(0, 5, 60)
    found = word_distribution(cells, values, 8, 5).toarray()
    expected = pd.crosstab(cells, values, normalize="index").reindex(index=range(8), columns=range(5), fill_value=0)
    assert np.allclose(found, expected, atol=1e-7)
    kept = occupied(np.arange(8, dtype=np.float32)[:, None], word_distribution(cells, values, 8, 5))
    assert kept.centroids[:, 0].tolist() == np.unique(cells).tolist()
    assert np.allclose(kept.distribution.sum(axis=1), 1)


@given(SEEDS, st.sampled_from(["l2", "ip"]), st.floats(0.3, 30))
@settings(max_examples=40, deadline=None)
def test_probabilities_are_the_formula_and_sum_to_one(seed, metric, temperature):
    queries, _, clusters = made_up(seed)
    queries = queries[:20]
    similarities, ids = nearest_to_queries(queries, clusters, metric, kept=1000)
    assert ids.shape == (20, 12)
    columns = [
        log_p_knn(similarities, gold_shares(clusters.distribution, ids, np.full(20, word)), temperature)
        for word in range(9)
    ]
    assert np.allclose(np.exp(columns).sum(axis=0), 1, atol=1e-5)
    logits = similarities_of(queries, clusters.centroids, metric) / temperature
    expected = np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) @ clusters.distribution.toarray()
    assert np.allclose(np.exp(columns).T, expected, atol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_what_is_kept_is_what_is_nearest(metric):
    queries, _, clusters = made_up(1)
    similarities, ids = nearest_to_queries(queries, clusters, metric, kept=4)
    everything = similarities_of(queries, clusters.centroids, metric)
    assert np.allclose(similarities, -np.sort(-everything, axis=1)[:, :4], atol=1e-4)
    assert np.allclose(np.take_along_axis(everything, ids, axis=1), similarities, atol=1e-4)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_vanishing_temperature_leaves_the_nearest_centroid(metric):
    queries, _, clusters = made_up(2)
    gold = np.arange(len(queries)) % 9
    similarities, ids = nearest_to_queries(queries, clusters, metric, kept=12)
    found = np.exp(log_p_knn(similarities, gold_shares(clusters.distribution, ids, gold), 1e-6))
    nearest = similarities_of(queries, clusters.centroids, metric).argmax(axis=1)
    assert np.allclose(found, clusters.distribution.toarray()[nearest, gold], atol=1e-6)


def test_shares_are_looked_up_for_more_queries_than_a_tile_holds():
    generator = np.random.default_rng(3)
    distribution = sparse.csr_array(generator.random((30, 11)) * (generator.random((30, 11)) < 0.3), dtype=np.float32)
    ids, gold = generator.integers(0, 30, (600, 5)), generator.integers(0, 11, 600)
    assert (gold_shares(distribution, ids, gold) == distribution.toarray()[ids, gold[:, None]]).all()


def blobs(seed=0, groups=5, each=40, width=4):
    generator = np.random.default_rng(seed)
    middles = generator.standard_normal((groups, width)) * 100
    keys = (middles[:, None] + generator.standard_normal((groups, each, width))).reshape(-1, width)
    return generator.permutation(keys).astype(np.float32)


def objective(keys, centroids):
    return -similarities_of(keys, centroids, "l2").max(axis=1).sum()


def test_k_means_with_every_row_a_centroid_has_no_error_left():
    keys = blobs(each=4)
    centroids, index = k_means(keys, len(keys), 3, seed=1, spherical=False, factory="Flat", nprobe=1)
    assert objective(keys, centroids) == pytest.approx(0, abs=1e-6)
    assert np.allclose(centroids[nearest_centroids(index, keys, unit=False)], keys)


def test_k_means_lowers_its_objective_and_assigns_to_the_nearest():
    keys = np.random.default_rng(4).standard_normal((600, 5)).astype(np.float32)
    found = [
        k_means(keys, 20, iterations, seed=1, spherical=False, factory="Flat", nprobe=1)
        for iterations in (1, 2, 4, 8, 16)
    ]
    objectives = [objective(keys, centroids) for centroids, _ in found]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] < 0.9 * objectives[0]
    centroids, index = found[-1]
    cells = nearest_centroids(index, keys.astype(np.float16), unit=False)
    assert (cells == similarities_of(keys.astype(np.float16), centroids, "l2").argmax(axis=1)).all()
    means = pd.DataFrame(keys).groupby(nearest_centroids(index, keys, unit=False)).mean()
    assert objective(keys, means.to_numpy()) <= objectives[-1] * 1.0001


def test_spherical_centroids_have_length_one_and_the_largest_product():
    keys = np.random.default_rng(5).standard_normal((300, 5)).astype(np.float32) * 7
    for unit in (False, True):
        used = unit_length(keys) if unit else keys
        centroids, index = k_means(used, 10, 5, seed=1, spherical=True, factory="Flat", nprobe=1)
        assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
        assert (nearest_centroids(index, keys, unit) == similarities_of(used, centroids, "ip").argmax(axis=1)).all()


def test_unit_clusters_scale_their_queries():
    queries, _, clusters = made_up(6)
    unit = Clusters(unit_length(clusters.centroids), clusters.distribution, unit=True)
    similarities, _ = nearest_to_queries(queries * 5, unit, "ip", kept=12)
    cosines = (
        similarities_of(queries, clusters.centroids, "ip")
        / np.linalg.norm(queries, axis=1)[:, None]
        / np.linalg.norm(clusters.centroids, axis=1)
    )
    assert np.allclose(similarities, -np.sort(-cosines, axis=1), atol=1e-5)
    assert (unit_length(np.zeros((1, 3))) == 0).all()


def test_an_index_that_looks_everywhere_is_exact():
    keys = np.random.default_rng(7).standard_normal((500, 8)).astype(np.float32)
    centroids, index = k_means(keys, 60, 4, seed=1, spherical=False, factory="IVF8,Flat", nprobe=8)
    assert (nearest_centroids(index, keys, unit=False) == faiss.knn(keys, centroids, 1)[1][:, 0]).all()


def test_the_same_seed_gives_the_same_centroids():
    keys = np.random.default_rng(8).standard_normal((400, 6)).astype(np.float32)
    first, second, other = (k_means(keys, 30, 4, seed, False, "IVF4,Flat", 2)[0] for seed in (1, 1, 2))
    assert (first == second).all()
    assert not np.allclose(first, other)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@given(SEEDS, st.floats(0.5, 20))
@settings(max_examples=25, deadline=None)
def test_the_gradient_is_that_of_autograd(metric, seed, temperature):
    keys, values, clusters = made_up(seed, rows=40)
    dense = torch.from_numpy(clusters.distribution.toarray()).double()
    shares = dense[:, torch.from_numpy(values)].T
    points, centroids = torch.from_numpy(keys).double(), torch.from_numpy(clusters.centroids).double().requires_grad_()
    similarities = points @ centroids.T if metric == "ip" else -(points[:, None] - centroids[None]).square().sum(2)
    probability = (torch.softmax(similarities / temperature, 1) * shares).sum(1)
    (-probability.log()).mean().backward()
    row, ids = shares.nonzero(as_tuple=True)
    gold = GoldCentroids(torch.bincount(row, minlength=len(keys)), ids, shares[row, ids].log().float())
    found = centroid_gradient(torch.from_numpy(keys), centroids.detach().float(), gold, temperature, metric)
    assert np.allclose(found, centroids.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_fine_tuning_lowers_the_loss_and_repeats_with_its_seed(metric):
    keys, values, clusters = made_up(9, rows=300, types=4)
    training = {"passes": 4, "batch": 64, "learning_rate": 0.03}

    def loss(centroids):
        similarities, ids = nearest_to_queries(keys, Clusters(centroids, clusters.distribution), metric, kept=12)
        return -log_p_knn(similarities, gold_shares(clusters.distribution, ids, values), 1.0).mean()

    before = clusters.centroids.copy()
    passes = list(fine_tune(clusters, (keys, values), metric, 1.0, training, seed=3, device="cpu"))
    assert len(passes) == 4
    assert loss(passes[0]) < loss(before)
    assert loss(passes[-1]) < loss(before) - 0.01
    assert (clusters.centroids == before).all()
    again = list(fine_tune(clusters, (keys, values), metric, 1.0, training, seed=3, device="cpu"))
    assert all((one == two).all() for one, two in zip(passes, again, strict=True))


def test_one_word_each_is_a_softmax_over_its_rows():
    generator = np.random.default_rng(10)
    centroids, owners = generator.standard_normal((8, 4)).astype(np.float32), np.array([0, 0, 1, 3, 3, 3, 4, 2])
    queries = generator.standard_normal((50, 4)).astype(np.float32)
    gold = generator.integers(0, 5, 50)
    clusters, _ = one_word_each(centroids, owners, 6)
    similarities, ids = nearest_to_queries(queries, clusters, "l2", kept=8)
    found = log_p_knn(similarities, gold_shares(clusters.distribution, ids, gold), 2.0)
    logits = similarities_of(queries, centroids, "l2") / 2
    expected = [logsumexp(row[owners == word]) - logsumexp(row) for row, word in zip(logits, gold, strict=True)]
    assert np.allclose(found, expected, atol=1e-4)
