"""Approximate search and true similarities against brute force in NumPy, for every fraction of stores that are written
for real; searches with other settings against Python sets and FAISS's own search.
"""

import functools
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import (
    FRACTIONS,
    KEYS,
    QUERIES,
    RANDOM,
    brute_force,
    check,
    check_prefixes,
    make_store,
    rows_of,
    true_similarities,
)

from knnlm.datastore.index import fill_index, train_index
from knnlm.retrieval import approximate
from knnlm.retrieval.approximate import approximate_search, nprobe_search, real_similarities, recall, recoded_index

METRICS = ("l2", "ip")
LISTS = 8


def use_small_blocks(monkeypatch):
    monkeypatch.setattr(approximate, "KEYS_AT_ONCE", 100)
    monkeypatch.setattr(approximate, "QUERIES_AT_ONCE", 8)


@functools.cache
def trained_index(factory, metric):
    return train_index(factory, metric, KEYS.astype(np.float32), seed=1)


def filled_indexes(trained, store):
    filled = [faiss.clone_index(trained) for _ in store.chunks]
    for index, chunk in zip(filled, store.chunks, strict=True):
        fill_index(index, [chunk], "att")
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


def whole_index(trained):
    index = faiss.clone_index(trained)
    index.add(KEYS.astype(np.float32))
    return index


def check_same(ids, similarities, other_ids, other_similarities):
    """The similarities are equal; the ids too, but for rows that tie."""
    np.testing.assert_allclose(similarities, other_similarities, rtol=1e-5, atol=1e-4)
    for row, other, score in zip(ids, other_ids, similarities, strict=True):
        clear = score > score[-1] + 1e-3
        assert set(row[clear]) <= set(other)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", [f"IVF{LISTS},PQ4", f"IVF{LISTS},Flat"])
@pytest.mark.parametrize("k", [1, 30, 400])  # 400: more than the first lists hold
@pytest.mark.parametrize("block", [8192, 10])
def test_every_nprobe_of_one_pass_is_a_search_of_its_own(metric, factory, k, block, monkeypatch):
    monkeypatch.setattr(approximate, "QUERIES_AT_ONCE", block)
    index = whole_index(trained_index(factory, metric))
    own = faiss.clone_index(index)
    seen = []
    for nprobe, ids, similarities in nprobe_search(index, QUERIES, k, [1, 2, 5, LISTS]):
        own.nprobe = nprobe
        scores, expected = own.search(QUERIES, k)
        expected_similarities = np.where(expected < 0, -np.inf, -scores if metric == "l2" else scores)
        assert ids.dtype == np.int32
        assert similarities.dtype == np.float32
        assert np.array_equal(ids < 0, expected < 0)
        check_same(ids, similarities, expected, expected_similarities)
        seen.append(nprobe)
    assert seen == [1, 2, 5, LISTS]


def test_all_lists_of_uncompressed_keys_are_exact():
    *_, (_, ids, similarities) = nprobe_search(
        whole_index(trained_index(f"IVF{LISTS},Flat", "l2")), QUERIES, 20, [3, LISTS]
    )
    true, best = brute_force(true_similarities(QUERIES, KEYS, "l2"), 20)
    check_same(ids, similarities, true, best)
    assert recall(ids, true).mean() > 0.999


@pytest.mark.parametrize("nprobes", [[0, 2], [2, 2], [3, 1], [1, LISTS + 1]])
def test_nprobes_that_do_not_ascend_or_fit_are_refused(nprobes):
    with pytest.raises(ValueError, match="do not ascend"):
        next(nprobe_search(whole_index(trained_index(f"IVF{LISTS},PQ4", "l2")), QUERIES, 5, nprobes))


@st.composite
def two_searches(draw):
    n, k, rows = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(9, 25))

    def ids():
        some = [draw(st.lists(st.integers(0, rows - 1), max_size=k, unique=True)) for _ in range(n)]
        return np.array([row + [-1] * (k - len(row)) for row in some], dtype=np.int32)

    return ids(), ids()


@settings(max_examples=150, deadline=None)
@given(two_searches(), st.integers(1, 8))
def test_recall_is_that_of_sets(searches, block):
    found, true = searches
    expected = [
        len((set(some) & set(others)) - {-1}) / true.shape[1]
        for some, others in zip(found.tolist(), true.tolist(), strict=True)
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(approximate, "QUERIES_AT_ONCE", block)
        np.testing.assert_allclose(recall(found, true), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_recoded_index_of_the_same_code_size_is_the_same_index(metric, tmp_path):
    trained = trained_index(f"IVF{LISTS},PQ4", metric)
    again = recoded_index(trained, 4, KEYS.astype(np.float32), seed=1)
    fill_index(again, make_store(tmp_path, KEYS, 3).chunks, "att")
    results = []
    for index in (whole_index(trained), again):
        index.nprobe = 3
        results.append(index.search(QUERIES, 20))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert np.mean(results[0][1] == results[1][1]) > 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_longer_codes_find_more_true_neighbours(metric, tmp_path):
    store = make_store(tmp_path, KEYS, 3)
    true, _ = brute_force(true_similarities(QUERIES, KEYS, metric), 20)
    recalls = []
    for codes in (2, 6, 12):
        index = recoded_index(trained_index(f"IVF{LISTS},PQ4", metric), codes, KEYS.astype(np.float32), seed=1)
        fill_index(index, store.chunks, "att")
        assert index.code_size == codes
        ((_, ids, _),) = nprobe_search(index, QUERIES, 20, [LISTS])
        recalls.append(recall(ids, true).mean())
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.9
