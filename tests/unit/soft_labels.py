"""Soft labels worked out token by token, for the tests of their loss and of the trainings on them."""

import numpy as np

TYPES, K = 24, 5  # four specials and 20 pieces; neighbours


def dense_labels(teacher, values, weights, knn_weight):
    """(1−λ) p_teacher + λ p_kNN, token by token, in float64."""
    p = np.exp(teacher.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    for row, tokens, shares in zip(p, values, weights.astype(np.float64), strict=True):
        if shares.sum():
            row *= 1 - knn_weight
            for token, share in zip(tokens, shares / shares.sum(), strict=True):
                row[token] += knn_weight * share
    return p


def random_neighbours(rows, seed=5):
    generator = np.random.default_rng(seed)
    weights = generator.random((rows, K)).astype(np.float16)
    weights[3] = 0  # one without neighbours
    return generator.integers(4, TYPES, (rows, K)).astype(np.int32), weights
