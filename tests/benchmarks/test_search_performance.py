from dataclasses import replace

import numpy as np
import pytest

from knnlm.performance import search
from knnlm.performance.search import faiss_search, real_similarities
from knnlm.performance.stores import Retrieval, random_queries, random_store


def brute_force(queries, keys, metric):
    """Return all similarities in float64, (queries, keys)."""
    products = queries.astype(np.float64) @ keys.astype(np.float64).T
    if metric == "ip":
        return products
    return (
        2 * products - np.square(queries.astype(np.float64)).sum(1)[:, None] - np.square(keys.astype(np.float64)).sum(1)
    )


def keys_of(store, h):
    return np.concatenate([chunk.keys_of(h) for chunk in store.chunks])


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    ("queries", "rows", "width", "k", "fractions"),
    [
        (1, 600, 16, 1, (1.0,)),
        (70, 600, 16, 600, (1.0,)),
        (600, 9000, 8, 64, (0.05, 0.5, 1.0)),
        (513, 8193, 32, 7, (0.1, 1.0)),
        (40, 20000, 4, 1000, (0.2, 1.0)),
    ],
)
def test_exact_search_is_brute_force_at_every_size_and_so_is_what_it_is_held_against(
    tmp_path, metric, queries, rows, width, k, fractions
):
    retrieval = Retrieval("att", metric, k, width, fractions, "IVF4,PQ4", 400, 2)
    store, points = random_store(tmp_path, retrieval, rows, 1, seed=1), random_queries(queries, width, seed=1)
    true = brute_force(points, keys_of(store, "att"), metric)
    best = -np.sort(-true, axis=1)[:, :k]
    ids, similarities = retrieval.exact(store, points, "cpu")
    scores, columns = faiss_search(points, keys_of(store, "att").astype(np.float32), k, metric, "cpu")
    for found, places in ((similarities, ids), (-scores if metric == "l2" else scores, columns)):
        assert np.allclose(found, best, atol=1e-3)
        assert np.allclose(np.take_along_axis(true, places.astype(np.int64), 1), best, atol=1e-3)


def test_the_product_is_done_in_pieces_where_it_is_large(monkeypatch, store, retrieval):
    queries, keys = random_queries(50, retrieval.width, 1), keys_of(store, "att").astype(np.float32)
    shapes, product = [], search.torch.mm

    def counted(left, right, out):
        begin = sum(wide for _, wide in shapes)
        shapes.append((len(left), right.shape[1]))
        assert np.allclose(product(left, right), left.numpy() @ keys[begin : begin + right.shape[1]].T, atol=1e-4)
        return product(left, right, out=out)

    monkeypatch.setattr(search.torch, "mm", counted)
    monkeypatch.setattr(search, "MOST_PRODUCTS", 50 * 256)
    search.multiplying(queries, keys, "cpu")()
    assert shapes == [(50, 240), (50, 240), (50, 120)]


def test_both_approximate_searches_find_the_same(retrieval, store, index):
    queries = random_queries(30, retrieval.width, seed=2)
    ids, similarities = retrieval.approximate(store, index, queries, "cpu", (1.0,))
    bare = search.join_indexes(index.trained, index.filled, store.chunks, 0.0, 1.0, index.folder)
    bare.nprobe = retrieval.nprobe
    scores, bare_ids = bare.search(queries, retrieval.k)
    assert np.array_equal(ids, bare_ids)
    assert np.array_equal(similarities, -scores)
    true = np.take_along_axis(brute_force(queries, keys_of(store, "att"), "l2"), ids.astype(np.int64), 1)
    assert np.allclose(real_similarities(queries, ids, store, "att", "l2"), true, atol=1e-3)


def test_searches_are_measured(retrieval, store, index, bench):
    found = search.measure(retrieval, store, index, bench)
    assert [row["goal"] for row in found.rows] == [0.5, 0.5, 1.5, 0.95, 0.3]
    assert set(found.rates) == {"exact_flops", "choosing_flops", "lookups", "real_score_bytes"}
    assert all(rate > 0 for rate in found.rates.values())


def test_a_store_has_rows_enough_for_its_neighbours_and_its_index(retrieval, bench):
    assert search.store_rows(retrieval, bench) == 400 == retrieval.sample_rows
    assert search.store_rows(replace(retrieval, k=500), bench) == 2000  # of which the smaller half must have 500
    assert search.store_rows(replace(retrieval, factory="IVF1024,PQ4", training_rows=10**6), bench) == 40 * 1024
    assert search.store_rows(retrieval, replace(bench, speed=1e15)) == bench.rows


def test_stores_of_two_chunks_differ_and_come_out_the_same_again(retrieval, store, tmp_path):
    again = random_store(tmp_path, retrieval, rows=300, chunks=2, seed=1)
    assert np.array_equal(keys_of(again, "att"), keys_of(store, "att"))
    assert not np.array_equal(store.chunks[0].keys_of("att"), store.chunks[1].keys_of("att"))
    assert [chunk.first_position for chunk in store.chunks] == [0, 300]
