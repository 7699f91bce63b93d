import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knnlm.components.sparse_softmax import STATES_AT_ONCE, log_p_sparsified


def model(tokens, types, seed=0):
    generator = np.random.default_rng(seed)
    states, weights = (
        generator.normal(size=(tokens, 8)).astype(np.float32),
        generator.normal(size=(types, 8)).astype(np.float32),
    )
    return states, weights, generator.integers(types, size=tokens).astype(np.int32)


@pytest.mark.parametrize("size", [50, 51, 10**6])
def test_all_types_are_the_identity(size):
    states, weights, gold = model(STATES_AT_ONCE + 7, 50)
    expected = torch.log_softmax(torch.from_numpy(states).double() @ torch.from_numpy(weights).double().T, dim=1)[
        range(len(gold)), gold
    ]
    np.testing.assert_allclose(log_p_sparsified(states, weights, gold, [size])[0], expected, atol=1e-5)


@given(st.integers(2, 20), st.lists(st.integers(1, 25), min_size=1, max_size=5), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_each_size_is_what_sorting_the_whole_distribution_gives(types, sizes, seed):
    states, weights, gold = model(9, types, seed)
    result = log_p_sparsified(states, weights, gold, sizes)
    assert result.dtype == np.float32
    p = np.exp(np.float64(states) @ np.float64(weights).T)
    for row, size in zip(result, sizes, strict=True):
        for token in range(len(gold)):
            top = np.argsort(-p[token])[:size]
            expected = np.log(p[token, gold[token]] / p[token, top].sum()) if gold[token] in top else -np.inf
            np.testing.assert_allclose(row[token], expected, atol=1e-5)


@given(arrays(np.int8, (5, 6), elements=st.integers(-2, 2)), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_what_is_kept_sums_to_one_and_ties_for_the_last_place_are_all_inside(logits, size):
    weights, states = logits.T.astype(np.float32), np.eye(5, dtype=np.float32)
    p = np.stack([np.exp(log_p_sparsified(states, weights, np.full(5, gold), [size])[0]) for gold in range(6)], axis=1)
    ordered = -np.sort(-logits, axis=1)
    untied = ordered[:, size - 1] > ordered[:, size]
    np.testing.assert_allclose(p[untied].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(p > 0, logits >= ordered[:, [size - 1]])


def test_one_type_has_all_the_mass_and_the_rest_none():
    weights, states = np.array([[0.0], [1.0], [2.0]], np.float32), np.array([[1.0], [1.0], [-1.0]], np.float32)
    np.testing.assert_array_equal(log_p_sparsified(states, weights, np.array([2, 1, 0]), [1])[0], [0, -np.inf, 0])
