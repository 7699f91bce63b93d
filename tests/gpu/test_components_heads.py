"""Heads on a GPU: gradients and training are those of the CPU, and the same every time."""

import numpy as np
import pytest
import torch

from knnlm.components.head_training import Rows, log_p_of, loss_alone, train_head
from knnlm.components.heads import Batch, MixtureOfSoftmaxes, OutputEmbedding, likelihood, random_weights

TYPES, WIDTH = 3000, 64
ROW_TYPES = np.repeat(np.arange(TYPES), 1 + (np.arange(TYPES) % 7 == 0) * 2)  # one or three rows a type
RECIPE = {"passes": 2, "patience": 2, "batch": 1024, "learning_rate": 1e-2, "betas": [0.9, 0.99], "warmup": 0.1}


def output_embedding(device):
    weights = random_weights(len(ROW_TYPES), WIDTH, torch.Generator().manual_seed(1))
    return OutputEmbedding(weights.to(device), ROW_TYPES, TYPES)


def mixture(device):
    generator = torch.Generator().manual_seed(1)
    layers = [
        torch.randn(shape, generator=generator) / 8 for shape in ((2, WIDTH), (2,), (2, WIDTH, WIDTH), (2, WIDTH))
    ]
    matrix = random_weights(TYPES, WIDTH, generator)
    return MixtureOfSoftmaxes(matrix.to(device), *(layer.to(device) for layer in layers))


def rows(count, seed):
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(count, WIDTH)).astype(np.float16)
    return Rows(states, np.abs(states[:, 0] * 1000).astype(np.int64) % TYPES)


def gradient(make, device):
    head, some = make(device), rows(5000, 1)
    loss = head.accumulate(some.batch(slice(None), device), likelihood)
    return loss, torch.cat([parameter.grad.reshape(-1).cpu() for parameter in head.parameters])


@pytest.mark.gpu
@pytest.mark.parametrize("make", [output_embedding, mixture])
def test_gradients_are_those_of_the_cpu_and_the_same_every_time(make):
    (loss, expected), (on_gpu, found), (_, again) = (gradient(make, device) for device in ("cpu", "cuda", "cuda"))
    assert on_gpu == pytest.approx(loss, rel=1e-5)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert torch.equal(found, again)


@pytest.mark.gpu
def test_a_trained_head_is_as_good_as_the_cpus_and_the_same_every_time():
    valid, found = rows(3000, 2), []
    for device in ("cpu", "cuda", "cuda"):
        head = output_embedding(device)
        trained = train_head(head, [rows(20_000, 1)], valid, likelihood, loss_alone, RECIPE, 1, device, "test")
        found.append((trained.valid_loss, log_p_of(head, valid, device)))
    (expected, _), (loss, log_p), (_, again) = found
    assert loss == pytest.approx(expected, rel=2e-3)  # products are rounded in training, by each device in its way
    assert np.array_equal(log_p, again)


@pytest.mark.gpu
def test_log_p_is_that_of_the_cpu():
    some = rows(4000, 3)
    expected, found = (
        output_embedding(device).log_p(some.batch(slice(None), device)).cpu() for device in ("cpu", "cuda")
    )
    assert torch.allclose(found, expected, atol=1e-4)
    assert isinstance(some.batch(slice(3), "cpu"), Batch)
