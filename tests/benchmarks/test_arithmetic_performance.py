import numpy as np
import pytest
import torch
from configs import VOCABULARY
from scipy.optimize import minimize_scalar

from knnlm.analysis.intervals import log_perplexities, standard_error
from knnlm.components.head_training import Rows
from knnlm.performance import arithmetic


def test_the_loop_and_the_library_find_the_same_standard_errors():
    generator = np.random.default_rng(0)
    words = generator.integers(100, 1000, 12)
    sums = -words * generator.uniform(3, 6, (4, 12))
    assert arithmetic.looped_error(sums, words) == pytest.approx(standard_error(log_perplexities(sums, words)))


def test_the_weights_are_the_best_at_each_temperature():
    generator = np.random.default_rng(0)
    similarities, matches = -100 * generator.random((50, 6)).astype(np.float32), generator.random((50, 6)) < 0.4
    base = np.log(generator.random(50)).astype(np.float32)
    for temperature, weight in zip(
        (1.0, 30.0), arithmetic.best_weights(similarities, matches, base, [1.0, 30.0]), strict=True
    ):
        votes = np.exp(similarities.astype(np.float64) / temperature)
        p = (votes * matches).sum(1) / votes.sum(1)
        best = minimize_scalar(
            lambda share, p=p: -np.log((1 - share) * np.exp(base) + share * p).sum(), bounds=(0, 1), method="bounded"
        ).x
        assert weight == pytest.approx(best, abs=1e-3)


def test_arithmetic_is_measured(config, retrieval, store, bench):
    found = arithmetic.measure(config, retrieval, store, bench)
    assert [row["goal"] for row in found.rows] == [100, 50, None]
    assert found.rates["neighbour_terms"] > 0


def test_an_epoch_of_one_batch_is_one_step_of_adam():
    generator = torch.Generator().manual_seed(1)
    weights, states = torch.randn(11, 6, generator=generator), torch.randn(40, 6, generator=generator)
    gold = torch.randint(0, 11, (40,), generator=generator)
    rows = Rows(states.numpy(), gold.numpy().astype(np.int32))
    found = arithmetic.epoch(rows, weights, 11, batch=40, device="cpu")
    expected = weights.clone().requires_grad_()
    torch.nn.functional.cross_entropy(states @ expected.T, gold).backward()
    torch.optim.Adam([expected], lr=1e-3, betas=(0.9, 0.999)).step()
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.equal(found, weights)


def test_an_epoch_is_measured(config, model, bench):
    found = arithmetic.output_embedding(config, VOCABULARY, model, bench)
    assert [row["goal"] for row in found.rows] == [0.4, None]
    assert found.rates["head_flops"] > 0
