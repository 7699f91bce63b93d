"""Exact search against brute force in NumPy, for every fraction of stores that are written for real."""

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from stores import FRACTIONS, KEYS, QUERIES, check, check_prefixes, make_store, rows_of, true_similarities

from knnlm.retrieval import exact as module
from knnlm.retrieval import tiles as tiles_module
from knnlm.retrieval.blocks import QUERIES_AT_ONCE, TILE_QUERIES, slices
from knnlm.retrieval.exact import DEVIATIONS, exact_search, likely_rank, tile_queries


def use_small_tiles(monkeypatch, queries=8, keys=32, places=20, block=100, first=25, dtype=torch.bfloat16):
    sizes = {"TILE_QUERIES": queries, "TILE_KEYS": keys, "PLACES": places, "BLOCK_KEYS": block, "FIRST_KEYS": first}
    for name, value in {**sizes, "product_dtype": lambda device: dtype}.items():
        for room in (module, tiles_module):
            monkeypatch.setattr(room, name, value, raising=False)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("chunks", [1, 3, 7])
@pytest.mark.parametrize(
    "k", [1, 10, 64, 400]
)  # 64: more than a tile; 400: more than the first three fractions or blocks
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
    n=st.integers(1, 20), rows=st.integers(1, 120), width=st.integers(1, 6), chunks=st.integers(1, 4),
    k=st.integers(1, 40),
    metric=st.sampled_from(["l2", "ip"]),
    tiles=st.tuples(
        *(st.integers(1, most) for most in (9, 33, 20, 70, 50)), st.sampled_from([torch.bfloat16, torch.float32])
    ),
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


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("distances", [(8, 0.01), (0.01, 8)], ids=["nearer", "farther"])
def test_rows_that_come_nearer_and_nearer_or_lie_farther_and_farther(distances, metric, tmp_path, monkeypatch):
    """No key can be discarded, or the first rows promise too much: queries are searched again."""
    use_small_tiles(monkeypatch)
    keys = (np.linspace(*distances, 600)[:, None] * np.ones(12)).astype(np.float16)
    store, queries = make_store(tmp_path, keys, 1), 0.01 * QUERIES
    for fraction, *found in exact_search(queries, store, "att", metric, 50, FRACTIONS, "cpu"):
        check(found, true_similarities(queries, keys, metric), rows_of(store, fraction), 50)


@settings(max_examples=200, deadline=None)
@given(k=st.integers(1, 2048), rows=st.integers(1, 10**6), growth=st.floats(1, 1000))
def test_a_likely_rank_is_reached_by_k_rows_and_not_many_more(k, rows, growth):
    """Fewer than k reach the r-th best of the rows seen if r of the k − 1 best are among them: hypergeometric."""
    end = max(k, int(growth * rows))
    rank = likely_rank(k, rows, end)
    assert 1 <= rank <= k
    if rank < min(k, rows):
        assert hypergeom.sf(rank - 1, end, k - 1, rows) < 3e-4
        assert hypergeom.sf(int(rank - (DEVIATIONS + 2) * rank**0.5) - 1, end, k - 1, rows) > 0.5


@pytest.mark.parametrize("threads", [*range(1, 130), 10_000])
def test_the_tiles_of_a_block_of_queries_are_tiles_of_all_queries(threads):
    tile, queries = tile_queries(threads), 2 * QUERIES_AT_ONCE + 1500
    assert min(threads, 8) * tile <= QUERIES_AT_ONCE
    assert tile <= TILE_QUERIES
    whole = {(rows.start, rows.stop) for rows in slices(queries, tile)}
    for begin, end in ((0, QUERIES_AT_ONCE), (QUERIES_AT_ONCE, 2 * QUERIES_AT_ONCE), (2 * QUERIES_AT_ONCE, queries)):
        assert {(begin + rows.start, begin + rows.stop) for rows in slices(end - begin, tile)} <= whole


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_either_precision_of_products_gives_the_same_to_the_last_bit(metric, tmp_path, monkeypatch):
    """Which one is faster is timed, so it may differ from one run to the next."""
    store, found = make_store(tmp_path, KEYS, 3), []
    for dtype in (torch.bfloat16, torch.float32):
        use_small_tiles(monkeypatch, dtype=dtype)
        found.append(
            [
                (ids.tobytes(), similarities.tobytes())
                for _, ids, similarities in exact_search(QUERIES, store, "att", metric, 20, FRACTIONS, "cpu")
            ]
        )
    assert found[0] == found[1]


def test_distance_to_itself_is_not_negative(tmp_path):
    keys = (100 * KEYS).astype(np.float16)
    ((_, ids, similarities),) = exact_search(
        keys[:40].astype(np.float32), make_store(tmp_path, keys, 2), "att", "l2", 3, [1.0], "cpu"
    )
    assert np.array_equal(ids[:, 0], np.arange(40))
    assert (similarities <= 0).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_prefix_is_a_store_of_these_rows(metric, tmp_path):
    check_prefixes(
        lambda store, fractions: exact_search(QUERIES, store, "att", metric, 30, fractions, "cpu"), tmp_path, 30
    )
