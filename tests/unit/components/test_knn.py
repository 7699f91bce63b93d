import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp
from stores import brute_force, known, true_similarities

from knnlm.components.catalogue import Component, missing_line
from knnlm.components.interpolation import interpolate
from knnlm.components.knn import PAIRS_AT_ONCE, GoldShare, gold_matches, halvings, knn_scorer, log_p_knn, missing_share
from knnlm.storage.arrays import load_array, save_array

TEMPERATURES = st.floats(-2, 4).map(lambda exponent: 10.0**exponent)


@st.composite
def retrievals(draw):
    """Ids, similarities, values and gold tokens as a search leaves them: −1 and −inf for no neighbour."""
    queries, k, rows, types = (draw(st.integers(1, high)) for high in (5, 12, 30, 6))
    ids = draw(arrays(np.int32, (queries, k), elements=st.integers(-1, rows - 1)))
    similarities = draw(arrays(np.float32, (queries, k), elements=st.floats(-500, 500, width=32)))
    similarities[ids < 0] = -np.inf
    values = draw(arrays(np.int32, rows, elements=st.integers(0, types - 1)))
    return ids, similarities, values, draw(arrays(np.int32, queries, elements=st.integers(0, types - 1)))


def formula(ids, similarities, values, gold, temperature):
    """The formula of p_kNN, one query and one neighbour at a time, float64."""
    result = []
    for row_ids, row, token in zip(ids.tolist(), similarities.astype(np.float64), gold.tolist(), strict=True):
        scores = [score / temperature for number, score in zip(row_ids, row, strict=True) if number >= 0]
        hits = [
            score / temperature
            for number, score in zip(row_ids, row, strict=True)
            if number >= 0 and values[number] == token
        ]
        result.append(logsumexp(hits) - logsumexp(scores) if hits else -np.inf)
    return np.array(result)


@given(retrievals(), TEMPERATURES)
@settings(max_examples=150, deadline=None)
def test_log_p_knn_is_the_formula(retrieval, temperature):
    ids, similarities, values, gold = retrieval
    found, expected = (
        log_p_knn(similarities, gold_matches(ids, values, gold), temperature),
        formula(*retrieval, temperature),
    )
    assert found.dtype == np.float32
    assert (found <= 0).all()
    representable = expected > -85
    assert np.allclose(found[representable], expected[representable], rtol=1e-5, atol=1e-5)
    assert (found[~representable] < -80).all()
    assert np.isneginf(found[np.isneginf(expected)]).all()


@given(retrievals(), TEMPERATURES)
@settings(max_examples=50, deadline=None)
def test_probabilities_of_all_values_sum_to_one(retrieval, temperature):
    ids, similarities, values, _ = retrieval
    total = sum(
        np.exp(
            log_p_knn(similarities, gold_matches(ids, values, np.full(len(ids), value)), temperature), dtype=np.float64
        )
        for value in range(6)
    )
    assert np.allclose(total[(ids >= 0).any(axis=1)], 1, atol=1e-5)
    assert (total[(ids < 0).all(axis=1)] == 0).all()


@given(retrievals(), st.lists(TEMPERATURES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_temperatures_worked_out_together_are_those_of_the_formula(retrieval, temperatures):
    """Halves and quarters too, whose terms are squares of others, far below where float32 ends."""
    ids, similarities, values, gold = retrieval
    temperatures = sorted({part for whole in temperatures for part in (whole, whole / 2, whole / 4, whole / 8)})
    share = GoldShare(similarities, gold_matches(ids, values, gold), ahead=[temperatures[::2], temperatures])
    for temperature in temperatures:
        found, expected = share(temperature), formula(*retrieval, temperature)
        assert np.array_equal(np.isneginf(found), np.isneginf(expected))
        some = np.isfinite(expected)
        np.testing.assert_allclose(found[some], expected[some], rtol=2e-6, atol=2e-6)


def test_the_terms_of_a_large_block_are_right_to_a_millionth():
    generator = np.random.default_rng(3)
    similarities = -generator.gamma(2, 20, (700, 1024)).astype(np.float32)  # more than one block
    assert similarities.size > PAIRS_AT_ONCE["cpu"]
    matches, grid = generator.random((700, 1024)) < 0.05, [0.1, 0.2, 0.4, 1.0, 2.0, 3.0, 4.0, 8.0, 50.0]
    together, alone = GoldShare(similarities, matches, ahead=[grid]), GoldShare(similarities, matches)
    exact = similarities.astype(np.float64)
    for temperature in grid:
        expected = logsumexp(exact / temperature, axis=1, b=matches) - logsumexp(exact / temperature, axis=1)
        for share in (together, alone):
            np.testing.assert_allclose(share(temperature), expected, rtol=1e-6, atol=1e-6)


def test_shares_of_a_neighbour_count_like_matches():
    generator = np.random.default_rng(5)
    similarities = generator.normal(0, 5, (50, 20)).astype(np.float32)
    shares = (generator.random((50, 20)) * (generator.random((50, 20)) < 0.3)).astype(np.float32)
    exact = similarities.astype(np.float64) / 1.7
    with np.errstate(divide="ignore"):
        expected = logsumexp(exact, axis=1, b=shares) - logsumexp(exact, axis=1)
    np.testing.assert_allclose(log_p_knn(similarities, shares, 1.7), expected, rtol=1e-6, atol=1e-6)


def test_chains_halve_and_name_every_temperature_once():
    grid = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.6, 3.2, 7.0]
    chains = [[grid[place] for place in chain] for chain in halvings(grid)]
    assert chains == [[7.0], [3.2, 1.6, 0.8], [0.6, 0.3], [0.4, 0.2, 0.1]]
    assert list(halvings([])) == []


def test_log_p_knn_by_hand():
    # τ = 2: weights 1, 1/2, 1/4 and a missing neighbour; the gold token has the first and the third.
    similarities = np.array([[5, 5 - 2 * np.log(2), 5 - 2 * np.log(4), -np.inf]], dtype=np.float32)
    matches = np.array([[True, False, True, False]])
    assert np.exp(log_p_knn(similarities, matches, 2.0)) == pytest.approx(1.25 / 1.75, rel=1e-6)


def test_log_p_knn_of_more_queries_than_a_block():
    generator = np.random.default_rng(0)
    similarities, matches = -generator.gamma(20, 2, (1000, 32)).astype(np.float32), generator.random((1000, 32)) < 0.1
    expected = logsumexp(similarities / 3.0, axis=1, b=matches.astype(float)) - logsumexp(similarities / 3.0, axis=1)
    assert np.allclose(log_p_knn(similarities, matches, 3.0), expected, atol=1e-5)


def test_large_similarities_keep_their_differences_at_a_low_temperature():
    # 4000 and 4000.25 at τ = 0.01 are 25 nats apart; the float32 quotients 400000 and 400025 would be rounded to 1/32.
    similarities = np.array([[4000.25, 4000.0]], dtype=np.float32)
    assert log_p_knn(similarities, np.array([[False, True]]), 0.01)[0] == pytest.approx(-25, abs=1e-5)


def test_read_only_files_are_read_without_a_warning(tmp_path):
    save_array(tmp_path / "similarities.npy", np.zeros((3, 4), dtype=np.float32))
    known(tmp_path / "similarities.npy")
    similarities = load_array(tmp_path / "similarities.npy")
    torch.from_numpy(np.zeros(1))  # what torch says at its first use is not meant
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_p_knn(similarities, np.eye(3, 4, dtype=bool), 1.0)
    assert np.allclose(found, np.log(0.25))


def test_a_missing_neighbour_never_matches():
    # id −1 would be the last row, whose value is the gold token.
    assert gold_matches(np.array([[0, -1, 1]]), np.array([7, 8, 9]), np.array([9])).tolist() == [[False, False, False]]
    assert gold_matches(np.array([[2, -1, 1]]), np.array([7, 8, 9]), np.array([9])).tolist() == [[True, False, False]]


def test_the_mixture_sums_to_one_over_the_vocabulary():
    generator = np.random.default_rng(1)
    types, queries, k = 50, 20, 16
    base = torch.log_softmax(
        torch.from_numpy(generator.normal(size=(queries, types)).astype(np.float32)), dim=1
    ).numpy()
    values, ids = generator.integers(0, types, 400), generator.integers(0, 400, (queries, k))
    similarities = generator.normal(size=(queries, k)).astype(np.float32)
    total = np.zeros(queries)
    for token in range(types):
        log_p = log_p_knn(similarities, gold_matches(ids, values, np.full(queries, token)), 0.7)
        total += np.exp(interpolate(base[:, token], log_p, 0.25))
    assert np.allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_fewer_neighbours_are_those_of_a_search_for_fewer(count):
    """The first k' columns of a search for k give the p_kNN of the formula over the k' nearest rows of all."""
    generator = np.random.default_rng(7)
    keys, queries, temperature = generator.standard_normal((900, 12)), generator.standard_normal((37, 12)), 2.0
    similarity = true_similarities(queries, keys, "l2")
    values, gold = (
        generator.integers(4, 8, len(keys)).astype(np.int32),
        generator.integers(4, 8, len(queries)).astype(np.int32),
    )
    ids, similarities = brute_force(similarity, 10)
    found = {"valid": (ids[:, :count], similarities[:, :count].astype(np.float32))}
    log_p = knn_scorer(found, values, {"valid": gold})("valid", temperature)
    for row, token, result in zip(similarity, gold, log_p, strict=True):
        nearest = np.flatnonzero(row >= np.sort(row)[-count])
        hits = nearest[values[nearest] == token]
        expected = logsumexp(row[hits] / temperature) - logsumexp(row[nearest] / temperature) if len(hits) else -np.inf
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_a_search_that_finds_too_few_says_so():
    ids = np.arange(200).reshape(2, 100)
    found = {"valid": (ids, ids), "test": (np.where(ids < 196, ids, -1), ids)}
    assert missing_share(found) == 4 / 400
    known = {share: missing_line(Component("knn", "knn", missing=share)) for share in (None, 0.01, 0.954)}
    assert known[None] is known[0.01] is None
    assert known[0.954].startswith("knn: 95.4% of the neighbours are missing")
    assert known[0.954].endswith("raise index.nprobe or lower retrieval.k")


def test_temperatures_known_ahead_keep_the_digits_of_their_group():
    """What tunes with one group and what has a second one behind it must come to the same τ, to the last digit."""
    generator = np.random.default_rng(4)
    similarities, matches = generator.normal(0, 5, (50, 20)).astype(np.float32), generator.random((50, 20)) < 0.3
    few, all_of_them = [1.0, 8.0, 30.0], [1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]
    alone, before = (GoldShare(similarities, matches, ahead=groups) for groups in ([few], [few, all_of_them]))
    assert all(np.array_equal(alone(temperature), before(temperature)) for temperature in few)
