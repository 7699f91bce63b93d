"""Both searches against brute force in NumPy, for every fraction of stores that are written for real."""

import functools
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm import search
from knnlm.artifacts import save_array
from knnlm.datastore import Chunk, Datastore, prefix_rows
from knnlm.index import fill_index, train_index
from knnlm.search import approximate_search, exact_search, real_similarities

FRACTIONS = [0.05, 0.3, 0.5, 1.0]
RANDOM = np.random.default_rng(5)
QUERIES = RANDOM.standard_normal((37, 12)).astype(np.float32)
KEYS = RANDOM.standard_normal((900, 12)).astype(np.float16)


def make_store(folder, keys, chunks):
    made, first = [], 0
    for number, part in enumerate(np.array_split(keys, chunks)):
        path = Path(folder) / f"chunk-{number}"
        path.mkdir(parents=True)
        save_array(path / "att.npy", part)
        made.append(Chunk(path, len(part), keys.shape[1], first))
        first += len(part)
    return Datastore(tuple(made), "abc")


def true_similarities(queries, keys, metric):
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    return queries @ keys.T if metric == "ip" else -((queries[:, None] - keys[None]) ** 2).sum(2)


def rows_of(store, fraction):
    return np.concatenate([chunk.first_position + np.arange(prefix_rows(fraction, chunk.rows)) for chunk in store.chunks])


def check(found, similarity, rows, k):
    """Check a result against the similarities, float64 (n, rows of the store), of all rows; only those in `rows` may be found."""
    ids, similarities = found
    have = min(k, len(rows))
    assert ids.dtype == np.int32
    assert similarities.dtype == np.float32
    assert ids.shape == similarities.shape == (len(similarity), k)
    assert (ids[:, have:] == -1).all()
    assert np.isneginf(similarities[:, have:]).all()
    assert np.isin(ids[:, :have], rows).all()
    assert all(len(set(row)) == have for row in ids[:, :have])
    best = -np.sort(-similarity[:, rows], axis=1)[:, :have]
    np.testing.assert_allclose(similarities[:, :have], best, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(similarity, ids[:, :have].astype(np.int64), 1), best, rtol=1e-5, atol=1e-4)
    assert (np.diff(similarities[:, :have], axis=1) <= 0).all()


def use_small_tiles(monkeypatch, queries=8, keys=32, places=20, block=100, first=25, dtype=torch.bfloat16):
    sizes = {"TILE_QUERIES": queries, "TILE_KEYS": keys, "PLACES": places, "KEYS_AT_ONCE": block, "QUERIES_AT_ONCE": queries, "FIRST_KEYS": first}
    for name, value in {**sizes, "product_dtype": lambda device: dtype}.items():
        monkeypatch.setattr(search, name, value)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("chunks", [1, 3, 7])
@pytest.mark.parametrize("k", [1, 10, 64, 400])  # 64: more than a tile; 400: more than the first three fractions or blocks
@pytest.mark.parametrize("tiles", [None, torch.bfloat16, torch.float32])
def test_exact_search_is_brute_force_at_every_fraction(metric, chunks, k, tiles, tmp_path, monkeypatch):
    if tiles:
        use_small_tiles(monkeypatch, dtype=tiles)
    store, similarity = make_store(tmp_path, KEYS, chunks), true_similarities(QUERIES, KEYS, metric)
    seen = []
    for fraction, *found in exact_search(QUERIES, store, "att", metric, k, FRACTIONS, "cpu"):
        check(found, similarity, rows_of(store, fraction), k)
        seen.append(fraction)
    assert seen == FRACTIONS


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20), rows=st.integers(1, 120), width=st.integers(1, 6), chunks=st.integers(1, 4), k=st.integers(1, 40),
    metric=st.sampled_from(["l2", "ip"]),
    tiles=st.tuples(*(st.integers(1, most) for most in (9, 33, 20, 70, 50)), st.sampled_from([torch.bfloat16, torch.float32])),
    cut=st.floats(0.01, 0.99), seed=st.integers(0, 99),
)  # fmt: skip
def test_exact_search_of_any_shape(n, rows, width, chunks, k, metric, tiles, cut, seed):
    random = np.random.default_rng(seed)
    queries = random.standard_normal((n, width)).astype(np.float32)
    keys = random.integers(-3, 4, (rows, width)).astype(np.float16)  # many ties, and rows that are equal
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        use_small_tiles(monkeypatch, *tiles)
        store, similarity = make_store(folder, keys, min(chunks, rows)), true_similarities(queries, keys, metric)
        results = exact_search(queries, store, "att", metric, k, [cut, 1.0], "cpu")
        for (fraction, *found), expected in zip(results, [cut, 1.0], strict=True):
            assert fraction == expected
            check(found, similarity, rows_of(store, fraction), k)


def test_rows_that_come_nearer_and_nearer(tmp_path, monkeypatch):
    """The order in which nothing can be turned away: every row is better than all before."""
    use_small_tiles(monkeypatch)
    keys = (np.linspace(8, 0.01, 600)[:, None] * np.ones(12)).astype(np.float16)
    store, queries = make_store(tmp_path, keys, 1), 0.01 * QUERIES
    for fraction, *found in exact_search(queries, store, "att", "l2", 50, FRACTIONS, "cpu"):
        check(found, true_similarities(queries, keys, "l2"), rows_of(store, fraction), 50)


def test_distance_to_itself_is_not_negative(tmp_path):
    keys = (100 * KEYS).astype(np.float16)
    ((_, ids, similarities),) = exact_search(keys[:40].astype(np.float32), make_store(tmp_path, keys, 2), "att", "l2", 3, [1.0], "cpu")
    assert np.array_equal(ids[:, 0], np.arange(40))
    assert (similarities <= 0).all()


@pytest.mark.parametrize("kind", ["exact", "approximate"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_prefix_is_a_store_of_these_rows(kind, metric, tmp_path):
    """What the search says of a fraction, it says of the whole of a store built from these rows alone."""
    store = make_store(tmp_path / "whole", KEYS, 3)
    trained = trained_index("IVF8,PQ4", metric)

    def snapshots(of, fractions):
        if kind == "exact":
            return exact_search(QUERIES, of, "att", metric, 30, fractions, "cpu")
        return approximate_search(QUERIES, of, trained, filled_indexes(trained, of), 2, 30, fractions, "cpu")

    for fraction, ids, similarities in snapshots(store, FRACTIONS):
        rows = rows_of(store, fraction)
        part = make_store(tmp_path / str(fraction), KEYS[rows], 1)
        ((_, alone, alone_similarities),) = snapshots(part, [1.0])
        np.testing.assert_allclose(similarities, alone_similarities, rtol=1e-5, atol=1e-5)
        assert np.mean(ids == np.where(alone >= 0, rows[alone], -1)) > 0.99  # rows whose similarities are equal may change places


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
    use_small_tiles(monkeypatch)
    store = make_store(tmp_path, KEYS, 3)
    trained = trained_index(factory, metric)
    whole = faiss.clone_index(trained)
    whole.add(KEYS.astype(np.float32))
    whole.make_direct_map()
    similarity = true_similarities(QUERIES, whole.reconstruct_n(0, len(KEYS)), metric)
    for fraction, *found in approximate_search(QUERIES, store, trained, filled_indexes(trained, store), 8, k, FRACTIONS, "cpu"):
        check(found, similarity, rows_of(store, fraction), k)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_bands_give_what_one_index_gives(metric, tmp_path):
    store = make_store(tmp_path, KEYS, 3)
    trained = trained_index("IVF8,PQ4", metric)
    whole = faiss.clone_index(trained)
    whole.add(KEYS.astype(np.float32))
    whole.nprobe = 3
    scores, ids = whole.search(QUERIES, 25)
    *_, (_, found, similarities) = approximate_search(QUERIES, store, trained, filled_indexes(trained, store), 3, 25, FRACTIONS, "cpu")
    np.testing.assert_allclose(similarities, -scores if metric == "l2" else scores, rtol=1e-5, atol=1e-5)
    assert np.mean(found == ids) > 0.99


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("small", [False, True])
def test_real_similarities_are_those_of_the_stored_keys(metric, small, tmp_path, monkeypatch):
    if small:
        use_small_tiles(monkeypatch)
    store = make_store(tmp_path, KEYS, 4)
    ids = RANDOM.integers(0, len(KEYS), (len(QUERIES), 15)).astype(np.int32)
    ids[::3, 11:] = -1
    found = real_similarities(QUERIES, ids, store, "att", metric)
    expected = np.take_along_axis(true_similarities(QUERIES, KEYS, metric), ids.astype(np.int64), 1)
    np.testing.assert_allclose(found, np.where(ids < 0, -np.inf, expected), rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32
