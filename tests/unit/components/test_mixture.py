import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knnlm.components.interpolation import interpolate, optimal_weight
from knnlm.components.mixture import mixture, simplex_weights

LOG_P = st.floats(-30, 0, width=32) | st.just(-np.inf)
TABLES = st.tuples(st.integers(1, 5), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=LOG_P)
)


def log_likelihood(log_p, weights):
    """The objective in probabilities, over the tokens to which some component gives mass."""
    p = np.exp(np.float64(log_p))
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(weights) @ p[:, p.max(axis=0) > 0]).sum()


def corpus(components, tokens, seed):
    """Components of about the same quality, none of them useless."""
    return -np.random.default_rng(seed).exponential(3, (components, tokens))


@given(TABLES)
@settings(max_examples=300, deadline=None)
def test_the_weights_fulfil_the_conditions_of_an_optimum(log_p):
    weights = simplex_weights(log_p)
    assert weights.shape == (len(log_p),)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    p = np.exp(np.float64(log_p))
    p = p[:, p.max(axis=0) > 0]
    shares = (p / (weights @ p)).sum(axis=1)  # the gradient: n where the weight is positive, at most n elsewhere
    n = p.shape[1]
    assert (shares <= n * (1 + 1e-6)).all()
    assert (weights * (shares - n) >= -1e-6 * max(n, 1)).all()


def test_no_point_of_a_fine_grid_of_three_components_is_better():
    for seed in range(20):
        log_p = corpus(3, 6, seed)
        best = log_likelihood(log_p, simplex_weights(log_p))
        steps = np.linspace(0, 1, 51)
        grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 1]
        assert best >= max(log_likelihood(log_p, np.clip(point, 0, 1)) for point in grid) - 1e-12


@pytest.mark.parametrize("seed", range(10))
def test_two_components_get_the_weight_of_the_interpolation(seed):
    log_p = corpus(2, 500, seed)
    log_p[1, ::7] = -np.inf
    weight = optimal_weight(*log_p)
    weights = simplex_weights(log_p)
    np.testing.assert_allclose(weights, [1 - weight, weight], atol=1e-6)
    np.testing.assert_allclose(mixture(log_p, weights), interpolate(*log_p, weights[1]), rtol=1e-12)


def test_four_components_of_which_each_owns_some_tokens_get_these_shares():
    owners = np.repeat([0, 1, 2, 3], [50, 30, 19, 1])
    log_p = np.where(owners == np.arange(4)[:, None], -1.0, -np.inf)
    np.testing.assert_allclose(simplex_weights(log_p), [0.5, 0.3, 0.19, 0.01], atol=1e-7)


def test_a_tiny_weight_is_found():
    log_p = np.zeros((3, 100_000))
    log_p[0, 5], log_p[1], log_p[1, 5], log_p[2] = -np.inf, -np.inf, 0, -2
    np.testing.assert_allclose(simplex_weights(log_p), [1 - 1e-5, 1e-5, 0], atol=1e-8)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_the_components_does_not_matter(order):
    log_p = corpus(4, 200, 3)
    np.testing.assert_allclose(simplex_weights(log_p[list(order)]), simplex_weights(log_p)[list(order)], atol=1e-6)


def test_equal_components_and_tokens_without_mass_do_no_harm():
    log_p = corpus(2, 300, 5)
    doubled = simplex_weights(np.stack([log_p[0], log_p[1], log_p[1]]))
    weights = simplex_weights(log_p)
    np.testing.assert_allclose([doubled[0], doubled[1] + doubled[2]], weights, atol=1e-6)
    nothing = np.full((2, 3), -np.inf)
    np.testing.assert_allclose(simplex_weights(np.concatenate([log_p, nothing], axis=1)), weights, atol=1e-12)
    np.testing.assert_array_equal(simplex_weights(nothing), [0.5, 0.5])
    np.testing.assert_array_equal(simplex_weights(log_p[:1]), [1.0])


@pytest.mark.parametrize("seed", range(3))
def test_mixing_in_two_stages_ends_at_the_joint_optimum(seed):
    # As the step does: the base LM stands first, the others are mixed by their shares, and that with the base LM.
    log_p = corpus(4, 400, seed)
    weights = simplex_weights(log_p)
    others = mixture(log_p[1:], weights[1:] / weights[1:].sum())
    weight = optimal_weight(log_p[0], others)
    assert weight == pytest.approx(1 - weights[0], abs=1e-6)
    np.testing.assert_allclose(interpolate(log_p[0], others, weight), mixture(log_p, weights), atol=1e-5)


def test_a_mixture_of_distributions_is_one():
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(1000, 0.1), 3)
    with np.errstate(divide="ignore"):
        assert np.exp(mixture(np.log(p), np.array([0.2, 0.0, 0.8]))).sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(mixture(np.full((2, 3), -np.inf), np.array([0.0, 1.0])), np.full(3, -np.inf))
