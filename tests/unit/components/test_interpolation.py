import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr

from knnlm.components.interpolation import (
    agreement,
    correlation,
    count_words,
    interpolate,
    optimal_weight,
    oracle,
    perplexity,
)

LOG_P = st.floats(-30, 0, width=32)
PAIRS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(arrays(np.float32, n, elements=LOG_P), arrays(np.float32, n, elements=LOG_P | st.just(-np.inf)))
)


def log_likelihood(log_p_base, log_p_component, weight):
    """The objective in probabilities, as the paper writes it."""
    p_base, p_component = np.exp(np.float64(log_p_base)), np.exp(np.float64(log_p_component))
    return np.sum(np.log((1 - weight) * p_base + weight * p_component))


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_no_grid_point_beats_the_optimal_weight(pair):
    weight = optimal_weight(*pair)
    best = log_likelihood(*pair, weight)
    with np.errstate(divide="ignore"):
        grid = [log_likelihood(*pair, point) for point in np.linspace(0, 1, 501)]
    assert 0 <= weight <= 1
    assert best >= max(grid) - 1e-9 * max(1, abs(best))


@pytest.mark.parametrize("seed", range(5))
def test_optimal_weight_is_the_maximum_of_a_fine_grid_to_1e_6(seed):
    generator = np.random.default_rng(seed)
    log_p_base, log_p_component = -generator.exponential(3, (2, 500))
    weight, step = optimal_weight(log_p_base, log_p_component), 1e-6
    assert 0.01 < weight < 0.99
    # Concave: the maximum lies within one step of any point that beats both its neighbours.
    values = [log_likelihood(log_p_base, log_p_component, weight + offset) for offset in (-step, 0, step)]
    assert values[1] > values[0]
    assert values[1] > values[2]


def test_optimal_weight_of_two_tokens_by_hand():
    # r = 3 and r = 1/2: 2/(1+2λ) = (1/2)/(1-λ/2), so λ = 3/4.
    assert optimal_weight(np.log([0.2, 0.4]), np.log([0.6, 0.2])) == pytest.approx(0.75, abs=1e-8)


def test_optimal_weight_is_the_share_of_tokens_won_when_each_side_has_all_the_mass():
    # p_component is 0 at 3 of 4 tokens, p_base is 0 at the other: 3 log(1-λ) + log λ has its maximum at 1/4.
    log_p_base, log_p_component = np.array([0, 0, 0, -np.inf]), np.array([-np.inf, -np.inf, -np.inf, 0])
    assert optimal_weight(log_p_base, log_p_component) == pytest.approx(0.25, abs=1e-8)


def test_optimal_weight_survives_ratios_that_overflow():
    log_p_base, log_p_component = np.array([-5000.0, -1.0]), np.array([-1.0, -5000.0])
    assert optimal_weight(log_p_base, log_p_component) == pytest.approx(0.5, abs=1e-8)


def test_optimal_weight_at_the_ends():
    log_p = -np.arange(1.0, 6.0)
    assert optimal_weight(log_p, log_p - 0.1) == 0
    assert optimal_weight(log_p, log_p) == 0
    assert optimal_weight(log_p, log_p + 0.1) == 1
    assert optimal_weight(log_p[:0], log_p[:0]) == 0
    # better at one token, but r - 1 sums to less than 0 over all of them
    assert optimal_weight(np.log([0.5, 0.5]), np.log([0.6, 0.3])) == 0
    # one token without any mass on either side changes nothing
    nothing = np.array([-np.inf])
    with_nothing = optimal_weight(np.append(np.log([0.2, 0.4]), nothing), np.append(np.log([0.6, 0.2]), nothing))
    assert with_nothing == pytest.approx(0.75, abs=1e-8)


def test_tiny_optimal_weight_is_found():
    # One token in a million is won with all its mass, the others lose all: λ = 1e-6, beyond 20 steps of bisection.
    log_p_base, log_p_component = np.zeros(1_000_000), np.full(1_000_000, -np.inf)
    log_p_base[7], log_p_component[7] = -np.inf, 0
    assert optimal_weight(log_p_base, log_p_component) == pytest.approx(1e-6, rel=1e-3)


@given(PAIRS, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_interpolate_mixes_probabilities(pair, weight):
    p_base, p_component = (np.exp(np.float64(log_p)) for log_p in pair)
    np.testing.assert_allclose(
        np.exp(interpolate(*pair, weight)), (1 - weight) * p_base + weight * p_component, rtol=1e-12
    )


def test_interpolated_probabilities_sum_to_one_over_the_vocabulary():
    generator = np.random.default_rng(0)
    p_base, p_component = generator.dirichlet(np.full(1000, 0.1), 2)
    with np.errstate(divide="ignore"):
        assert np.exp(interpolate(np.log(p_base), np.log(p_component), 0.3)).sum() == pytest.approx(1, abs=1e-12)


def test_interpolate_at_the_ends_gives_the_parts_back():
    log_p_base, log_p_component = np.array([-1.0, -2.0, -np.inf]), np.array([-np.inf, -0.5, -np.inf])
    np.testing.assert_array_equal(interpolate(log_p_base, log_p_component, 0.0), log_p_base)
    np.testing.assert_array_equal(interpolate(log_p_base, log_p_component, 1.0), log_p_component)


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_no_mixture_beats_the_oracle(pair):
    best = oracle(*pair)
    assert all((best >= part).all() for part in pair)
    assert (interpolate(*pair, optimal_weight(*pair)) <= best + 1e-9).all()


def test_word_perplexity_by_hand():
    # "un@@ believ@@ able </s>" and "yes </s>": 6 pieces, 4 words (unbelievable, </s>, yes, </s>).
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "un@@", "believ@@", "able", "yes"]
    continuation = np.array([piece.endswith("@@") for piece in vocabulary])
    tokens = np.array([4, 5, 6, 2, 7, 2], dtype=np.int32)
    assert count_words(tokens, continuation) == 4
    # p = 1/2, 1/4, 1/2, 1, 1/4, 1/4: the product is 2^-8, so the word perplexity is 2^(8/4) = 4
    log_p = np.log(np.array([1 / 2, 1 / 4, 1 / 2, 1, 1 / 4, 1 / 4], dtype=np.float32))
    assert perplexity(log_p, 4) == pytest.approx(4, rel=1e-6)


def test_perplexity_is_infinite_where_a_token_has_no_mass():
    assert perplexity(np.array([-1.0, -np.inf]), 2) == np.inf


def test_perplexity_sums_float32_in_float64():
    log_p = np.full(3_000_000, -0.1, dtype=np.float32)
    assert perplexity(log_p, log_p.size) == pytest.approx(np.exp(np.float64(np.float32(0.1))), rel=1e-12)


THREE = arrays(
    np.float32, st.tuples(st.just(3), st.integers(3, 30)), elements=st.floats(-20, 0, width=32) | st.just(-np.inf)
)


def test_agreement_by_hand():
    base = np.log([0.5, 0.5, 0.5, 0.5])
    assert (
        agreement(base, np.log([0.6, 0.4, 0.6, 0.5]), np.log([0.9, 0.1, 0.2, 0.6])) == 0.5
    )  # both better, both worse; not, not: equal is not better


@given(THREE)
def test_agreement_with_itself_is_whole(columns):
    assert agreement(columns[0], columns[1], columns[1]) == 1


@given(THREE)
def test_correlation_is_pearsons(columns):
    base, one, other = np.exp(columns.astype(np.float64))
    found = correlation(*columns)
    if min(np.ptp(one - base), np.ptp(other - base)) < 1e-9:
        return
    assert found == pytest.approx(pearsonr(one - base, other - base).statistic, abs=1e-6)


def test_correlation_with_what_never_changes():
    assert np.isnan(correlation(np.zeros(4), np.zeros(4), np.log([0.1, 0.2, 0.3, 0.4])))
