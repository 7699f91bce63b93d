"""Output layers against torch's autograd in float64, plain softmax regression, and cases with a known answer."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from knnlm.components import heads
from knnlm.components.heads import (
    Batch,
    MixtureOfSoftmaxes,
    OutputEmbedding,
    adaptive_rows,
    copied_weights,
    even_rows,
    extra_rows,
    helped_weights,
    interpolated_likelihood,
    likelihood,
    random_weights,
    weighted_likelihood,
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that every test divides its batches."""
    monkeypatch.setattr(heads, "TILE_BYTES", 1)
    monkeypatch.setattr(heads, "LEAST_TILE_ROWS", 5)


@st.composite
def problems(draw):
    """A batch in float64 and the type of each row: any number of rows a type."""
    n, width, types = draw(st.integers(1, 17)), draw(st.integers(1, 6)), draw(st.integers(1, 7))
    counts = draw(st.lists(st.integers(1, 4), min_size=types, max_size=types))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    states, ffn = (torch.randn(n, width, generator=generator, dtype=torch.float64) * scale for _ in range(2))
    gold = torch.randint(types, (n,), generator=generator)
    log_p_base = -torch.rand(n, generator=generator, dtype=torch.float64) * 5
    return Batch(states, gold, ffn, log_p_base), np.repeat(np.arange(types), counts), generator


def random_matrix(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def log_p_by_definition(logits, row_types, gold):
    """Log of the sum of the probabilities of the gold's rows, one row of the batch after the other."""
    log_probabilities = torch.log_softmax(logits, 1)
    rows_of_type = [torch.from_numpy(np.flatnonzero(row_types == token)) for token in gold.tolist()]
    return torch.stack(
        [row[columns].logsumexp(0) for row, columns in zip(log_probabilities, rows_of_type, strict=True)]
    )


def losses_by_definition(objective, log_p, batch, types):
    """Each objective's loss, written out, and the objective itself."""
    if objective == "plain":
        return likelihood, -log_p
    if objective == "weighted":
        weights = torch.linspace(1, 2, types, dtype=torch.float64)
        return partial(weighted_likelihood, weights), -weights[batch.gold] * log_p
    return partial(interpolated_likelihood, 0.25), -torch.log(0.75 * batch.log_p_base.exp() + 0.25 * log_p.exp())


@pytest.mark.parametrize("objective", ["plain", "weighted", "interpolated"])
@pytest.mark.parametrize("fixed", [False, True])
@given(problem=problems())
@settings(max_examples=25, deadline=None)
def test_gradient_of_an_output_embedding_is_that_of_autograd(problem, objective, fixed):
    batch, row_types, generator = problem
    types, width = row_types[-1] + 1, batch.states.shape[1]
    weights = random_matrix(generator, len(row_types), width)
    W_fixed = random_matrix(generator, len(row_types), width) if fixed else None
    checked = weights.clone().requires_grad_()
    logits = batch.states @ checked.T + (batch.ffn @ W_fixed.T if fixed else 0)
    log_p = log_p_by_definition(logits, row_types, batch.gold)
    ours, losses = losses_by_definition(objective, log_p, batch, types)
    losses.mean().backward()
    head = OutputEmbedding(weights, row_types, types, W_fixed)
    total = head.accumulate(batch, ours)
    assert np.isclose(total, losses.sum().item(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(head.parameters[0].grad, checked.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.log_p(batch), log_p.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("objective", ["plain", "weighted", "interpolated"])
@given(problem=problems(), K=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_gradient_of_a_mixture_of_softmaxes_is_that_of_autograd(problem, K, objective):
    batch, row_types, generator = problem
    types, width = row_types[-1] + 1, batch.states.shape[1]
    W = random_matrix(generator, types, width)
    parameters = [random_matrix(generator, *shape) for shape in ((K, width), (K,), (K, width, width), (K, width))]
    prior, prior_bias, experts, biases = checked = [parameter.clone().requires_grad_() for parameter in parameters]
    log_prior = torch.log_softmax(batch.states @ prior.T + prior_bias, 1)
    gold_of_experts = [
        torch.log_softmax((batch.states @ experts[k].T + biases[k]) @ W.T, 1).gather(1, batch.gold[:, None])[:, 0]
        for k in range(K)
    ]
    log_p = (log_prior + torch.stack(gold_of_experts, 1)).logsumexp(1)
    ours, losses = losses_by_definition(objective, log_p, batch, types)
    losses.mean().backward()
    head = MixtureOfSoftmaxes(W, *parameters)
    assert np.isclose(head.accumulate(batch, ours), losses.sum().item(), rtol=1e-9, atol=1e-12)
    for found, expected in zip(head.parameters, checked, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.log_p(batch), log_p.detach(), rtol=1e-9, atol=1e-11)


@given(problem=problems())
@settings(max_examples=25, deadline=None)
def test_one_row_a_type_is_softmax_regression(problem):
    batch, row_types, generator = problem
    types = row_types[-1] + 1
    weights = random_matrix(generator, types, batch.states.shape[1])
    checked = weights.clone().requires_grad_()
    torch.nn.functional.cross_entropy(batch.states @ checked.T, batch.gold).backward()
    head = OutputEmbedding(weights, even_rows(types, 1), types)
    head.accumulate(batch, likelihood)
    torch.testing.assert_close(head.parameters[0].grad, checked.grad, rtol=1e-9, atol=1e-12)


@given(problem=problems(), n=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_identical_copies_give_the_original_distribution(problem, n):
    batch, row_types, generator = problem
    types = row_types[-1] + 1
    W = random_matrix(generator, types, batch.states.shape[1])
    copies = copied_weights(W.numpy(), even_rows(types, n), 0.0, generator)
    one, many = OutputEmbedding(W, even_rows(types, 1), types), OutputEmbedding(copies, even_rows(types, n), types)
    torch.testing.assert_close(many.log_p(batch), one.log_p(batch), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [1, 3])
def test_a_gradient_with_bfloat16_products_is_near_the_exact_one(n):
    """Rounding moves it by a hundredth of its length, and nothing of it is rounded for good."""
    generator, types, width = torch.Generator().manual_seed(1), 40, 16
    states, gold = torch.randn(300, width, generator=generator), torch.randint(types, (300,), generator=generator)
    mixture = [
        torch.randn(shape, generator=generator) / 4 for shape in ((n, width), (n,), (n, width, width), (n, width))
    ]
    matrix = random_weights(n * types, width, generator)
    embedding = random_weights(types, width, generator)
    makes = [
        lambda: OutputEmbedding(matrix, even_rows(types, n), types),
        lambda: MixtureOfSoftmaxes(embedding, *mixture),
    ]
    for make in makes:
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            head = make()
            head.wide = dtype
            loss = head.accumulate(Batch(states, gold), likelihood)
            log_p = head.log_p(Batch(states, gold))  # is never rounded
            found.append((loss, log_p, torch.cat([parameter.grad.view(-1) for parameter in head.parameters])))
        (loss, log_p, gradient), (rounded_loss, same, rounded) = found
        assert rounded.dtype == torch.float32
        assert torch.equal(same, log_p)
        assert rounded_loss == pytest.approx(loss, rel=2e-3)
        assert (rounded - gradient).norm() < 0.01 * gradient.norm()


@pytest.mark.parametrize("K", [1, 3])
def test_identical_experts_are_the_softmax(K):
    states, W = (
        torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, 6))) for seed, rows in ((1, 20), (2, 9))
    )
    gold = torch.arange(20) % 9
    parts = [
        torch.randn(K, 6, dtype=torch.float64),
        torch.randn(K, dtype=torch.float64),
        torch.eye(6, dtype=torch.float64).repeat(K, 1, 1),
    ]
    head = MixtureOfSoftmaxes(W, *parts, torch.zeros(K, 6, dtype=torch.float64))
    expected = log_softmax((states @ W.T).numpy(), axis=1)[np.arange(20), gold]
    assert np.allclose(head.log_p(Batch(states, gold)), expected, rtol=1e-12)


def test_probabilities_that_float32_cannot_hold():
    """The gold's rows are 400 nats away: log p is exact, and the rows' shares of the gradient sum to −1."""
    weights = torch.tensor([[0.0], [0.0], [400.0]])
    head, batch = (
        OutputEmbedding(weights, np.array([0, 0, 1]), 2),
        Batch(torch.ones(1, 1), torch.zeros(1, dtype=torch.long)),
    )
    assert head.log_p(batch).item() == pytest.approx(np.log(2) - 400)
    head.accumulate(batch, likelihood)
    assert head.parameters[0].grad.flatten().tolist() == pytest.approx([-0.5, -0.5, 1.0])


@pytest.mark.parametrize("row_types", [[0, 2], [1, 0, 2], [0, 1, 2, 3]])
def test_rows_that_do_not_fit_the_types(row_types):
    with pytest.raises(ValueError, match="row_types"):
        heads.type_columns(np.array(row_types), 3)


class TestAllocation:
    """The extra rows of four types whose amounts are 1, 3, 9, 27, and one that never occurs."""

    FREQUENCY = np.array([0, 1, 3, 9, 27])

    def test_extra_rows_are_whole_logarithms(self):
        assert extra_rows(self.FREQUENCY, 3.0).tolist() == [0, 0, 1, 2, 3]
        assert extra_rows(self.FREQUENCY, 2.0).tolist() == [0, 0, 1, 3, 4]
        assert extra_rows(self.FREQUENCY, 28.0).tolist() == [0, 0, 0, 0, 0]

    def test_frequency_to_three_rows_a_type(self):
        """With u = log 3 / log b, ⌊u⌋ + ⌊2u⌋ + ⌊3u⌋ is 9 below u = 2 (1 + 3 + 5), and 12 there; 10 are wanted."""
        assert adaptive_rows(self.FREQUENCY, 15).tolist() == np.repeat(np.arange(5), [1, 1, 2, 4, 6]).tolist()

    def test_frequency_to_five_rows_a_type(self):
        """20 extra are wanted: at 3.5 ≤ u < 3.667, 3 + 7 + 10 are exactly that."""
        assert adaptive_rows(self.FREQUENCY, 25).tolist() == np.repeat(np.arange(5), [1, 1, 4, 8, 11]).tolist()

    def test_loss_to_three_rows_a_type(self):
        """1 + loss = 1, 1, 2, 4, 16, v = log 2 / log b: ⌊v⌋ + ⌊2v⌋ + ⌊4v⌋ is 10, as wanted, at 1.5 ≤ v < 1.75."""
        loss = np.array([0, 0, 1, 3, 15])
        assert adaptive_rows(1 + loss, 15).tolist() == np.repeat(np.arange(5), [1, 1, 2, 4, 7]).tolist()

    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200), st.floats(1, 6))
    @settings(max_examples=50, deadline=None)
    def test_no_base_comes_nearer(self, frequencies, ratio):
        amounts, rows = np.array(frequencies), round(ratio * len(frequencies))
        found = adaptive_rows(amounts, rows)
        assert (np.bincount(found, minlength=len(amounts)) > 0).all()
        bases = np.exp(np.geomspace(1e-2, 14, 300))
        others = [abs(len(amounts) + extra_rows(amounts, base).sum() - rows) for base in bases]
        assert abs(len(found) - rows) <= min(others)


def test_weights_of_types_that_the_knn_helps():
    helped = helped_weights(np.array([0, 0, 0, 0, 2, 2, 3]), np.array([1, 0, 0, 0, 1, 1, 0], dtype=bool), 5)
    assert helped.tolist() == [1.25, 1, 2, 1, 1]
    assert helped.dtype == np.float32
