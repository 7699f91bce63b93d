"""Soft labels: a teacher's distribution, mixed with that of stored neighbours, as what a student learns (the paper's soft-label hypothesis)."""

import numpy as np
import torch


def label_distribution(teacher: torch.Tensor, values: torch.Tensor | None, weights: torch.Tensor | None, knn_weight: float) -> torch.Tensor:
    """Return the labels (1−λ) p_teacher + λ p_kNN, float32 (n, V), for λ = `knn_weight`.

    teacher: logits, float (n, V). values: int64 (n, k), the tokens of the neighbours; weights: float (n, k), p_kNN of each up to a factor. Where all
    weights are 0 there are no neighbours, and p_teacher is all there is; so it is everywhere if `values` is None.
    """
    labels = torch.softmax(teacher.float(), dim=1)
    if values is None or weights is None:
        return labels
    total = weights.float().sum(dim=1, keepdim=True)
    shares = knn_weight * weights.float() / total.clamp_min(torch.finfo(torch.float32).tiny)
    return labels.mul_(torch.where(total > 0, 1 - knn_weight, 1.0)).scatter_add_(1, values, shares)


def sample_positions(samples: torch.Tensor, tokens_per_sample: int, longest: int) -> torch.Tensor:
    """Return the corpus position of every target of a batch, int64 (n, longest), as fairseq cuts a text in break mode `none`.

    samples: int64 (n,), fairseq's ids; sample i begins at i·tokens_per_sample. Behind the last token of the text the positions go on.
    """
    return samples[:, None] * tokens_per_sample + torch.arange(longest)


def neighbour_weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """Return p_kNN of each neighbour, softmax(s/τ), float16 (n, k) (§4.1); 0 where there is none. similarities: float32 (n, k), −inf for none."""
    best = np.maximum(similarities.max(axis=1, keepdims=True), np.finfo(np.float32).min)
    weights = np.exp((similarities - best) / np.float32(temperature))
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)).astype(np.float16)
