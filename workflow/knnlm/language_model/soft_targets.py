"""Soft labels: a student learns a teacher's distribution mixed with the neighbours' (docs/paper.md#soft-labels)."""

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Near = Pair | None  # tokens and weights of neighbours, if there are any
TILE_ROWS = 512  # their logits stay in the cache, and adding to the (V, width) gradient costs little


class SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy with the labels of `label_distribution`, with a gradient by hand: no array of (n, V) is kept."""

    @staticmethod
    def forward(ctx, features: Tensor, embedding: Tensor, teacher: Pair, neighbours: Near, knn_weight: float) -> Tensor:
        """Return −Σ_w label(w) log p(w) in nats, summed over the rows; float32, or float64 for float64 features.

        features (n, width) and output embedding (V, width) are the student's, and the gradient is by these two.
        teacher: the same of the teacher, which may have another width. neighbours: as in `label_distribution`. The
        logits are products in the features' dtype, all else in the loss's: float16 would underflow before a loss scale.
        """
        exact = torch.promote_types(features.dtype, torch.float32)
        ctx.dtype, shape = features.dtype, (TILE_ROWS, len(embedding))
        buffer, teacher_buffer = features.new_empty(shape), features.new_empty(shape)
        slopes = torch.empty_like(features, dtype=exact), torch.zeros_like(embedding, dtype=exact)
        rows_exact, embedding_exact = features.to(exact), embedding.to(exact)
        loss = features.new_zeros((), dtype=exact)
        for begin in range(0, len(features), TILE_ROWS):
            rows = slice(begin, min(begin + TILE_ROWS, len(features)))
            size = rows.stop - begin
            labels = torch.mm(teacher[0][rows], teacher[1].T, out=teacher_buffer[:size]).to(exact)  # (rows, V)
            near = neighbours and (neighbours[0][rows], neighbours[1][rows])  # (rows, k) each
            label_distribution(labels, near, knn_weight, out=labels)
            logits = torch.mm(features[rows], embedding.T, out=buffer[:size]).to(exact)  # (rows, V)
            best, expected = logits.amax(1), torch.linalg.vecdot(labels, logits)  # (rows,)
            p = torch.softmax(logits, 1, out=logits)
            # log Σ exp of a row is its best logit less the log of the best p.
            loss += (best - p.amax(1).log_() - expected).sum()
            p -= labels  # the slope by the logits, (rows, V)
            torch.mm(p, embedding_exact, out=slopes[0][rows])  # (rows, width)
            slopes[1].addmm_(p.T, rows_exact[rows])  # (V, width)
        ctx.save_for_backward(*slopes)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the student's features and output embedding, in their dtype."""
        return *((slope * part).to(ctx.dtype) for part in ctx.saved_tensors), *[None] * 3


def label_distribution(teacher: Tensor, neighbours: Near, knn_weight: float, out: Tensor | None = None) -> Tensor:
    """Return the labels (1−λ) p_teacher + λ p_kNN, (n, V) of the teacher's dtype, for λ = `knn_weight`.

    teacher: logits, float32 or float64 (n, V). neighbours: their tokens, int64 (n, k), and weights, float (n, k), p_kNN
    of each up to a factor. A row without neighbours has weights of 0, and p_teacher as its label; so has every row if
    `neighbours` is None. The labels are written to `out` if it is given, which may be `teacher`.
    """
    labels = torch.softmax(teacher, 1, out=out)
    if neighbours is None:
        return labels
    values, weights = neighbours[0], neighbours[1].to(labels.dtype)
    total = weights.sum(dim=1, keepdim=True)
    shares = knn_weight * weights / total.clamp_min(torch.finfo(torch.float32).tiny)
    return labels.mul_(torch.where(total > 0, 1 - knn_weight, total.new_ones(()))).scatter_add_(1, values, shares)


def sample_positions(samples: Tensor, tokens_per_sample: int, longest: int) -> Tensor:
    """Return the corpus position of every target of a batch, int64 (n, longest), in fairseq's break mode `none`.

    samples: int64 (n,), fairseq's ids; sample i begins at i·tokens_per_sample. Positions go on behind the text's end.
    """
    return samples[:, None] * tokens_per_sample + torch.arange(longest)


def neighbour_weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """Return p_kNN of similarities s, float32 (n, k), −inf for none: softmax(s/τ), float16 (docs/paper.md#knn-lm)."""
    best = np.maximum(similarities.max(axis=1, keepdims=True), np.finfo(np.float32).min)
    weights = np.exp((similarities - best) / np.float32(temperature))
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)).astype(np.float16)
