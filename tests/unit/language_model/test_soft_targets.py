import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from soft_labels import TYPES, K, dense_labels, random_neighbours

from knnlm.language_model.soft_targets import SoftCrossEntropy, label_distribution, neighbour_weights, sample_positions

WIDTH = 16


@pytest.mark.parametrize("knn_weight", [0.0, 0.25, 1.0])
def test_labels_are_the_mixture(knn_weight):
    teacher = np.random.default_rng(1).normal(size=(9, TYPES)).astype(np.float32) * 3
    values, weights = random_neighbours(9)
    neighbours = torch.from_numpy(values).long(), torch.from_numpy(weights)
    found = label_distribution(torch.from_numpy(teacher), neighbours, knn_weight)
    assert np.allclose(found, dense_labels(teacher, values, weights, knn_weight), atol=1e-6)
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_the_teachers_own_distribution_is_the_optimum():
    teacher = torch.randn(7, TYPES, generator=torch.Generator().manual_seed(2)) * 2
    student = teacher.clone().requires_grad_()
    labels = label_distribution(teacher, None, 0.0)
    loss = torch.nn.functional.cross_entropy(student, labels, reduction="sum")
    loss.backward()
    entropy = torch.distributions.Categorical(logits=teacher.double()).entropy().sum()
    assert float(loss) == pytest.approx(float(entropy), rel=1e-5)
    assert float(student.grad.abs().max()) < 1e-6
    elsewhere = torch.nn.functional.cross_entropy(teacher + torch.randn(7, TYPES), labels, reduction="sum")
    assert float(elsewhere) > float(entropy)


@pytest.mark.parametrize("knn_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tile_rows", [1, 4, 9, 100])
def test_tiles_have_the_loss_and_the_gradient_of_all_rows_at_once(tile_rows, knn_weight, monkeypatch):
    monkeypatch.setattr("knnlm.language_model.soft_targets.TILE_ROWS", tile_rows)
    generator = torch.Generator().manual_seed(6)
    features, output_embedding, *teacher = (
        torch.randn(rows, width, generator=generator, dtype=torch.float64)
        for rows, width in ((9, WIDTH), (TYPES, WIDTH), (9, 6), (TYPES, 6))
    )
    student = features.requires_grad_(), output_embedding.requires_grad_()
    values, weights = random_neighbours(9)
    labels = torch.from_numpy(dense_labels((teacher[0] @ teacher[1].T).numpy(), values, weights, knn_weight))
    expected = -(labels * torch.log_softmax(features @ output_embedding.T, 1)).sum()
    neighbours = (torch.from_numpy(values).long(), torch.from_numpy(weights)) if knn_weight else None
    found = SoftCrossEntropy.apply(*student, teacher, neighbours, knn_weight)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    for slope, exact in zip(
        torch.autograd.grad(3 * found, student), torch.autograd.grad(3 * expected, student), strict=True
    ):
        assert torch.allclose(slope, exact, rtol=1e-10, atol=1e-12)


def test_half_precision_keeps_what_a_loss_scale_lifts():
    """Rare types have a gradient below the least float16 number; scaled, it is there, as with torch's float32."""
    scale, width = 2.0**12, 8
    features, output_embedding = torch.ones(5, width).half().requires_grad_(), torch.zeros(TYPES, width).half()
    output_embedding[4] = 2.25  # p of every other type is e^-18
    output_embedding.requires_grad_()
    teacher = torch.zeros(5, width).half(), torch.zeros(TYPES, width).half()
    teacher[0][:] = 1
    teacher[1][4] = 4
    loss = SoftCrossEntropy.apply(features, output_embedding, teacher, None, 0.0)
    assert loss.dtype == torch.float32
    slopes = torch.autograd.grad(scale * loss, (features, output_embedding))
    assert [slope.dtype for slope in slopes] == [torch.float16] * 2
    assert np.allclose(slopes[1][5:].numpy(), scale * 5 * np.exp(-18), rtol=1e-2)


@given(
    npst.arrays(np.float32, (3, K), elements=st.floats(-1e4, 1e4, width=32) | st.just(-np.inf)), st.floats(0.01, 1e3)
)
def test_weights_are_a_softmax(similarities, temperature):
    found = neighbour_weights(similarities, temperature)
    assert found.dtype == np.float16
    for row, weights in zip(similarities.astype(np.float64), found, strict=True):
        if np.isneginf(row).all():
            assert not weights.any()
        else:
            p = np.exp((row - row.max()) / temperature)
            assert np.allclose(weights, p / p.sum(), atol=1e-3)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_positions_of_samples(tokens, size, data):
    samples = data.draw(st.permutations(range(-(-tokens // size))))
    found = sample_positions(torch.tensor(samples), size, size)
    assert found.tolist() == [list(range(sample * size, (sample + 1) * size)) for sample in samples]
