import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from knnlm.components.base_temperature import STATES_AT_ONCE, best_temperature, log_p_at

SEARCH = {"low": 0.01, "high": 100.0}


def model(tokens, types, sharpness=1.0, seed=0):
    """An LM, and tokens that are drawn from it at the temperature `sharpness`."""
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(tokens, 8)).astype(np.float32)
    weights = generator.normal(size=(types, 8)).astype(np.float32)
    logits = np.float64(states) @ np.float64(weights).T
    p = np.exp(log_softmax(logits / sharpness, axis=1))
    gold = (p.cumsum(axis=1) > generator.random((tokens, 1))).argmax(axis=1).astype(np.int32)
    return states, weights, gold, logits


@pytest.mark.parametrize("tokens", [1, STATES_AT_ONCE, STATES_AT_ONCE + 7])
def test_every_temperature_is_that_of_the_whole_softmax(tokens):
    states, weights, gold, logits = model(tokens, 50)
    temperatures = [0.05, 0.9, 1.0, 30.0]
    found = log_p_at(states, weights, gold, temperatures)
    assert (found.dtype, found.shape) == (np.float32, (4, tokens))
    for row, temperature in zip(found, temperatures, strict=True):
        expected = log_softmax(logits / temperature, axis=1)[np.arange(tokens), gold]
        np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 1.3, 8.0])
def test_the_temperature_at_which_the_text_was_made_is_found(sharpness):
    states, weights, gold, logits = model(4000, 40, sharpness)
    found, status = best_temperature(states, weights, gold, SEARCH)
    places = np.arange(len(gold)), gold
    exact = minimize_scalar(
        lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[places].mean(), bounds=(-4, 4), method="bounded"
    )
    assert status == "optimum"
    assert found == pytest.approx(np.exp(exact.x), rel=2e-3)
    assert found == pytest.approx(sharpness, rel=0.15)


def test_the_search_ends_at_the_end_of_its_range_and_says_so():
    states, weights, gold, _ = model(2000, 40, 8.0)
    assert best_temperature(states, weights, gold, {"low": 0.9, "high": 2.0}) == (2.0, "edge")
