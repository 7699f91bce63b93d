"""Approximate search and true similarities against brute force in NumPy, for every fraction of stores that are written for real."""

import functools
from pathlib import Path

import faiss
import numpy as np
import pytest
from stores import FRACTIONS, KEYS, QUERIES, RANDOM, check, check_prefixes, make_store, rows_of, true_similarities

from knnlm.datastore.index import fill_index, train_index
from knnlm.retrieval import approximate
from knnlm.retrieval.approximate import approximate_search, real_similarities


def use_small_blocks(monkeypatch):
    monkeypatch.setattr(approximate, "KEYS_AT_ONCE", 100)
    monkeypatch.setattr(approximate, "QUERIES_AT_ONCE", 8)


@functools.cache
def trained_index(factory, metric):
    return train_index(factory, metric, KEYS.astype(np.float32), seed=1)


def filled_indexes(trained, store):
    filled = [faiss.clone_index(trained) for _ in store.chunks]
    for index, chunk in zip(filled, store.chunks, strict=True):
        fill_index(index, chunk, "att")
    return filled


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("factory", "k"), [("IVF8,PQ4", 20), ("IVF8,Flat", 20), ("IVF8,PQ4", 300)])
def test_approximate_search_of_all_lists_is_exact_on_the_quantised_keys(metric, factory, k, tmp_path, monkeypatch):
    use_small_blocks(monkeypatch)
    store = make_store(tmp_path, KEYS, 3)
    trained = trained_index(factory, metric)
    whole = faiss.clone_index(trained)
    whole.add(KEYS.astype(np.float32))
    whole.make_direct_map()
    similarity = true_similarities(QUERIES, whole.reconstruct_n(0, len(KEYS)), metric)
    for fraction, *found in approximate_search(
        QUERIES, store, trained, filled_indexes(trained, store), 8, k, FRACTIONS, "cpu", tmp_path
    ):
        check(found, similarity, rows_of(store, fraction), k)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_bands_give_what_one_index_gives(metric, tmp_path):
    store = make_store(tmp_path, KEYS, 3)
    trained = trained_index("IVF8,PQ4", metric)
    whole = faiss.clone_index(trained)
    whole.add(KEYS.astype(np.float32))
    whole.nprobe = 3
    scores, ids = whole.search(QUERIES, 25)
    *_, (_, found, similarities) = approximate_search(
        QUERIES, store, trained, filled_indexes(trained, store), 3, 25, FRACTIONS, "cpu", tmp_path
    )
    np.testing.assert_allclose(similarities, -scores if metric == "l2" else scores, rtol=1e-5, atol=1e-5)
    assert np.mean(found == ids) > 0.99


def test_the_lists_of_a_band_are_gone_before_the_next_are_joined(tmp_path):
    store, trained = make_store(tmp_path, KEYS, 3), trained_index("IVF8,PQ4", "l2")
    for _ in approximate_search(
        QUERIES, store, trained, filled_indexes(trained, store), 3, 25, FRACTIONS, "cpu", tmp_path
    ):
        mapped = Path("/proc/self/maps").read_text().splitlines()
        assert not [line for line in mapped if str(tmp_path) in line and line.endswith("(deleted)")]


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("small", [False, True])
def test_real_similarities_are_those_of_the_stored_keys(metric, small, tmp_path, monkeypatch):
    if small:
        use_small_blocks(monkeypatch)
    store = make_store(tmp_path, KEYS, 4)
    ids = RANDOM.integers(0, len(KEYS), (len(QUERIES), 15)).astype(np.int32)
    ids[::3, 11:] = -1
    found = real_similarities(QUERIES, ids, store, "att", metric)
    expected = np.take_along_axis(true_similarities(QUERIES, KEYS, metric), ids.astype(np.int64), 1)
    np.testing.assert_allclose(found, np.where(ids < 0, -np.inf, expected), rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_prefix_is_a_store_of_these_rows(metric, tmp_path):
    trained = trained_index("IVF8,PQ4", metric)

    def snapshots(store, fractions):
        return approximate_search(
            QUERIES, store, trained, filled_indexes(trained, store), 2, 30, fractions, "cpu", tmp_path
        )

    check_prefixes(snapshots, tmp_path, 30)
