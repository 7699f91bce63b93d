"""Neighbours in a padded store, against brute force in NumPy and an index to which zero rows were added."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import KEYS, QUERIES, brute_force, true_similarities

from knnlm.components.zero_rows import (
    count_zero_rows,
    padded_neighbours,
    scanned_similarity_to_zero,
    similarity_to_zero,
)
from knnlm.datastore.index import train_index

METRICS = ("l2", "ip")
LISTS = 8
NEAR = np.float32(0.7) * QUERIES  # so near to zero that zero rows are among their neighbours


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 30),
    st.integers(0, 20),
    st.integers(1, 4),
    st.integers(1, 25),
    st.sampled_from(METRICS),
    st.integers(0, 999),
)
def test_padded_neighbours_are_those_of_a_store_with_zero_rows(n, rows, zero_rows, width, k, metric, seed):
    random = np.random.default_rng(seed)
    keys, queries = (
        random.integers(-3, 4, (rows, width)),
        random.integers(-2, 3, (n, width)).astype(np.float32),
    )  # exact in float32, with ties
    stored = brute_force(true_similarities(queries, keys, metric), k)
    missing = ((0, 0), (0, max(0, k - rows)))
    ids, similarities = (
        np.pad(stored[0], missing, constant_values=-1),
        np.pad(stored[1], missing, constant_values=-np.inf).astype(np.float32),
    )

    padded = padded_neighbours(ids, similarities, similarity_to_zero(queries, metric), zero_rows, rows)

    true_ids, true = brute_force(
        true_similarities(queries, np.concatenate([keys, np.zeros((zero_rows, width))]), metric), k
    )
    have = true_ids.shape[1]
    assert padded[0].dtype == np.int32
    assert padded[1].dtype == np.float32
    assert np.array_equal(padded[1][:, :have], true)
    assert np.array_equal(padded[0][:, :have], true_ids)  # zero rows have the last ids, so they lose ties in both
    assert (padded[0][:, have:] == -1).all()
    extra = [set(row) - set(without) - {-1} for row, without in zip(padded[0].tolist(), ids.tolist(), strict=True)]
    assert all(row >= rows for some in extra for row in some)


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [(0.0, 100, 0), (0.1, 900, 100), (0.5, 7, 7), (40492301 / 153225485, 112733184, 40492301)],
)
def test_zero_rows_are_a_share_of_all_rows(share, rows, expected):
    assert count_zero_rows(share, rows) == expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", [f"IVF{LISTS},PQ4", f"IVF{LISTS},Flat", f"IVF{LISTS},SQfp16"])
@pytest.mark.parametrize(("zero_rows", "k", "nprobe"), [(500, 40, 2), (15, 40, 2), (15, 40, LISTS), (500, 900, LISTS)])
def test_approximate_padded_neighbours_are_those_of_an_index_to_which_zero_rows_were_added(
    metric, factory, zero_rows, k, nprobe
):
    trained = train_index(factory, metric, KEYS.astype(np.float32), seed=1)
    index = faiss.clone_index(trained)
    index.add(KEYS.astype(np.float32))
    results = []
    for _ in range(2):
        index.nprobe = nprobe
        scores, ids = index.search(NEAR, k)
        results.append(
            (ids.astype(np.int32), np.where(ids < 0, -np.inf, -scores if metric == "l2" else scores).astype(np.float32))
        )
        index.add(np.zeros((zero_rows, KEYS.shape[1]), np.float32))
    without, expected = results
    found = padded_neighbours(*without, scanned_similarity_to_zero(trained, nprobe, NEAR), zero_rows, len(KEYS))
    assert metric == "ip" or (expected[0] >= len(KEYS)).any()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)
    same = np.count_nonzero(found[0] >= len(KEYS), axis=1) == np.count_nonzero(expected[0] >= len(KEYS), axis=1)
    assert same.mean() > 0.95  # ties at the last place
