"""Searches with other settings, against Python sets, FAISS's own search, and brute force in NumPy."""

import functools

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from knnlm.datastore.index import train_index
from knnlm.datastore.store import Chunk, Datastore
from knnlm.retrieval import sweeps
from knnlm.retrieval.sweeps import (
    count_zero_rows,
    fill_in_memory,
    knn_scorer,
    nprobe_search,
    padded_neighbours,
    recall,
    recoded_index,
    scanned_similarity_to_zero,
    similarity_to_zero,
)
from knnlm.storage.files import save_array

RANDOM = np.random.default_rng(7)
KEYS = RANDOM.standard_normal((1500, 16)).astype(np.float16)
QUERIES = (0.7 * RANDOM.standard_normal((41, 16))).astype(np.float32)
METRICS = ("l2", "ip")
LISTS = 12


@pytest.fixture
def store(tmp_path):
    made, first = [], 0
    for number, part in enumerate(np.array_split(KEYS, 3)):
        folder = tmp_path / f"chunk-{number}"
        folder.mkdir()
        save_array(folder / "att.npy", part)
        made.append(Chunk(folder, len(part), KEYS.shape[1], first))
        first += len(part)
    return Datastore(tuple(made), "abc")


@functools.cache
def trained_index(metric, factory=f"IVF{LISTS},PQ4"):
    return train_index(factory, metric, KEYS.astype(np.float32), seed=1)


def filled(trained, keys=KEYS):
    index = faiss.clone_index(trained)
    index.add(keys.astype(np.float32))
    return index


def true_similarities(queries, keys, metric):
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    return queries @ keys.T if metric == "ip" else -((queries[:, None] - keys[None]) ** 2).sum(2)


def brute_force(similarity, k):
    """Ids and similarities of the k best rows, best first; of rows that tie the first."""
    ids = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(similarity, ids, 1)


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
    monkeypatch.setattr(sweeps, "QUERIES_AT_ONCE", block)
    index = filled(trained_index(metric, factory))
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
    *_, (_, ids, similarities) = nprobe_search(filled(trained_index("l2", f"IVF{LISTS},Flat")), QUERIES, 20, [3, LISTS])
    true, best = brute_force(true_similarities(QUERIES, KEYS, "l2"), 20)
    check_same(ids, similarities, true, best)
    assert recall(ids, true).mean() > 0.999


@pytest.mark.parametrize("nprobes", [[0, 2], [2, 2], [3, 1], [1, LISTS + 1]])
def test_nprobes_that_do_not_ascend_or_fit_are_refused(nprobes):
    with pytest.raises(ValueError, match="do not ascend"):
        next(nprobe_search(filled(trained_index("l2")), QUERIES, 5, nprobes))


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
        monkeypatch.setattr(sweeps, "QUERIES_AT_ONCE", block)
        np.testing.assert_allclose(recall(found, true), expected)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 8), rows=st.integers(1, 30), zero_rows=st.integers(0, 20), width=st.integers(1, 4), k=st.integers(1, 25),
    metric=st.sampled_from(METRICS), seed=st.integers(0, 999),
)  # fmt: skip
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
@pytest.mark.parametrize(("zero_rows", "k", "nprobe"), [(500, 40, 2), (15, 40, 2), (15, 40, LISTS), (500, 1500, LISTS)])
def test_approximate_padded_neighbours_are_those_of_an_index_to_which_zero_rows_were_added(
    metric, factory, zero_rows, k, nprobe
):
    trained = trained_index(metric, factory)
    index = filled(trained)
    results = []
    for _ in range(2):
        index.nprobe = nprobe
        scores, ids = index.search(QUERIES, k)
        results.append(
            (ids.astype(np.int32), np.where(ids < 0, -np.inf, -scores if metric == "l2" else scores).astype(np.float32))
        )
        index.add(np.zeros((zero_rows, KEYS.shape[1]), np.float32))
    without, expected = results
    found = padded_neighbours(*without, scanned_similarity_to_zero(trained, nprobe, QUERIES), zero_rows, len(KEYS))
    assert metric == "ip" or (expected[0] >= len(KEYS)).any()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)
    same = np.count_nonzero(found[0] >= len(KEYS), axis=1) == np.count_nonzero(expected[0] >= len(KEYS), axis=1)
    assert same.mean() > 0.95  # ties at the last place


@pytest.mark.parametrize("metric", METRICS)
def test_recoded_index_of_the_same_code_size_is_the_same_index(metric, store):
    trained = trained_index(metric)
    again = recoded_index(trained, 4, KEYS.astype(np.float32), seed=1)
    fill_in_memory(again, store, "att")
    results = []
    for index in (filled(trained), again):
        index.nprobe = 3
        results.append(index.search(QUERIES, 20))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert np.mean(results[0][1] == results[1][1]) > 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_longer_codes_find_more_true_neighbours(metric, store):
    true, _ = brute_force(true_similarities(QUERIES, KEYS, metric), 20)
    recalls = []
    for codes in (2, 8, 16):
        index = recoded_index(trained_index(metric), codes, KEYS.astype(np.float32), seed=1)
        fill_in_memory(index, store, "att")
        assert index.code_size == codes
        ((_, ids, _),) = nprobe_search(index, QUERIES, 20, [LISTS])
        recalls.append(recall(ids, true).mean())
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.9


@pytest.mark.parametrize("count", [1, 3, 10])
def test_fewer_neighbours_are_those_of_a_search_for_fewer(count):
    """The first k' columns of a search for k give the p_kNN of the formula over the k' nearest rows of all."""
    similarity, temperature = true_similarities(QUERIES, KEYS, "l2"), 2.0
    values, gold = (
        RANDOM.integers(4, 8, len(KEYS)).astype(np.int32),
        RANDOM.integers(4, 8, len(QUERIES)).astype(np.int32),
    )
    ids, similarities = brute_force(similarity, 10)
    found = {"valid": (ids[:, :count], similarities[:, :count].astype(np.float32))}
    log_p = knn_scorer(found, values, {"valid": gold})("valid", temperature)
    for row, token, result in zip(similarity, gold, log_p, strict=True):
        nearest = np.flatnonzero(row >= np.sort(row)[-count])
        hits = nearest[values[nearest] == token]
        expected = logsumexp(row[hits] / temperature) - logsumexp(row[nearest] / temperature) if len(hits) else -np.inf
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
