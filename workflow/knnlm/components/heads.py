"""Output layers on stored states: many rows a word type, a mixture of softmaxes, and their gradients by hand.

The V-wide logits are made a tile of rows at a time in one buffer, turned into probabilities in place, and multiplied
once more for the gradient. Several rows of the gold type, or weights, touch its columns and the narrow side only. In
training what is V wide may be in bfloat16 (`Head.wide`); parameters, the sums of their gradients and all that is
evaluated stay in the parameters' precision.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

TILE_BYTES = 2**26  # of logits: bounds memory, and holds most batches whole, since larger matrix products are faster
GPU_TILE = 16  # times as many bytes on a GPU, where the gradient is read and written in the time of 500 rows' product
LEAST_TILE_ROWS = 256  # below, reading and writing the V-wide gradient takes longer than its product


@dataclass(frozen=True)
class Batch:
    """Stored states on the device."""

    states: Tensor  # float (n, width)
    gold: Tensor  # int64 (n,)
    ffn: Tensor | None = None  # (n, width), for some heads
    log_p_base: Tensor | None = None  # (n,) in nats, for some objectives

    def __len__(self) -> int:
        return len(self.gold)

    def __getitem__(self, rows: slice) -> "Batch":
        parts = self.states, self.gold, self.ffn, self.log_p_base
        return Batch(*(None if part is None else part[rows] for part in parts))


# Takes log p of the gold (n,) and the batch; returns each row's loss (n,) and its weight (n,) in ∇(−log p).
Objective = Callable[[Tensor, Batch], tuple[Tensor, Tensor]]


def likelihood(log_p: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Maximise log p of the gold: the plain Objective."""
    return -log_p, torch.ones_like(log_p)


def weighted_likelihood(type_weights: Tensor, log_p: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Minimise −c(w) log p(w): an Objective for each c, the weights of types, (V,) (docs/paper.md#loss-weighting)."""
    weights = type_weights[batch.gold].to(log_p.dtype)
    return -weights * log_p, weights


def interpolated_likelihood(weight: float, log_p: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Minimise −log[(1−λ) p_base + λ p]: an Objective for each λ = `weight` (docs/paper.md#interpolated-loss).

    λ is in (0, 1). A row counts by the head's share of the mixture.
    """
    ours = log_p + float(np.log(weight))
    mixed = torch.logaddexp(batch.log_p_base.to(log_p.dtype) + float(np.log1p(-weight)), ours)
    return -mixed, (ours - mixed).exp_()


class Head(ABC):
    """What can be trained: its parameters, and log p of the gold. One buffer holds the logits of a tile of rows."""

    def __init__(self, parameters: list[Tensor], rows: int, matrix: Tensor):
        """Take what training changes, the number of vectors that a state is compared with, and a matrix of them."""
        self.parameters, self.rows = parameters, rows
        tile_bytes = TILE_BYTES * (GPU_TILE if matrix.is_cuda else 1)
        self.tile_rows = max(LEAST_TILE_ROWS, tile_bytes // (len(matrix) * matrix.element_size()))
        self.buffer = matrix.new_empty(0)  # made when it is first used
        self.wide = matrix.dtype  # the precision of what is V wide in training

    def tiles(self, batch: Batch) -> Iterator[tuple[slice, Batch]]:
        """Yield the rows of a batch by tiles: which they are, and themselves."""
        for rows in even_slices(len(batch), self.tile_rows):
            yield rows, batch[rows]

    def product(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return states @ weights.T, (n, R), in the buffer, which the next product overwrites."""
        entries = len(states) * len(weights)
        if len(self.buffer) < entries or self.buffer.dtype != weights.dtype:
            self.buffer = weights.new_empty(entries)
        return torch.mm(states, weights.T, out=self.buffer[:entries].view(len(states), -1))

    def log_p(self, batch: Batch) -> Tensor:
        """Return log p of the gold, (n,) in nats."""
        found = torch.empty_like(batch.gold, dtype=batch.states.dtype)
        for rows, tile in self.tiles(batch):
            found[rows] = self.log_p_of_tile(tile).clamp_(max=0)
        return found

    @abstractmethod
    def log_p_of_tile(self, tile: Batch) -> Tensor:
        """Return log p of the gold, (n,) in nats, which rounding may leave above 0."""

    @abstractmethod
    def accumulate(self, batch: Batch, objective: Objective) -> float:
        """Set every parameter's `.grad` to that of the mean loss of the batch; return the sum of the losses."""


def type_columns(row_types: np.ndarray, types: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of each word type, int64 (V, most), and which are real, bool (V, most), None where all are.

    `row_types`, int (R,), ascending, says which type each row of an output matrix belongs to. A type with fewer rows
    repeats its first one. Raises ValueError if the types do not ascend or one has no row.
    """
    counts = np.bincount(row_types, minlength=types)
    if (np.diff(row_types) < 0).any() or len(counts) != types or not counts.all():
        raise ValueError("row_types must be ascending and name every word type")
    present = np.arange(counts.max()) < counts[:, None]
    first = (np.cumsum(counts) - counts)[:, None]
    columns = torch.from_numpy(first + np.where(present, np.arange(counts.max()), 0))
    return columns, None if present.all() else torch.from_numpy(present)


class OutputEmbedding(Head):
    """p(w|h) = Σ_{rows r of w} softmax(W h)_r (docs/paper.md#softmax-capacity).

    With `fixed` it is softmax(W h + W_fixed ffn), of which only W is trained (docs/paper.md#additional-linear).
    """

    def __init__(self, weights: Tensor, row_types: np.ndarray, types: int, fixed: Tensor | None = None):
        """Take W (R, width), which training changes, each row's type, int (R,), ascending, and `fixed` (R, width)."""
        super().__init__([weights], len(weights), weights)
        columns, present = type_columns(row_types, types)
        self.columns, self.fixed = columns.to(weights.device), fixed
        self.absent = None if present is None else (~present).to(weights.device)

    def logits(self, tile: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (n, R) in the buffer, the gold's columns (n, most), and their logits, −inf where absent.

        Logits are of the precision `dtype`.
        """
        logits = self.product(tile.states.to(dtype), self.parameters[0].to(dtype))
        if self.fixed is not None:
            logits.addmm_(tile.ffn.to(dtype), self.fixed.to(dtype).T)
        columns = self.columns[tile.gold]
        gold = logits.gather(1, columns)
        if self.absent is not None:
            gold.masked_fill_(self.absent[tile.gold], -torch.inf)
        return logits, columns, gold

    def log_p_of_tile(self, tile: Batch) -> Tensor:
        logits, _, gold = self.logits(tile, self.parameters[0].dtype)
        return gold.logsumexp(1) - _log_total(logits)

    def accumulate(self, batch: Batch, objective: Objective) -> float:
        # The gradient of −log p by the logits is softmax(z)_r, less its share of p for a row of the gold: the softmax
        # over the gold's rows alone.
        weights, total = self.parameters[0], 0.0
        if weights.grad is None:
            weights.grad = torch.empty_like(weights)
        for rows, tile in self.tiles(batch):
            logits, columns, gold = self.logits(tile, self.wide)
            probabilities = torch.softmax(logits, 1, out=logits)
            loss, row_weights = objective(_log_of_gold(probabilities, columns, gold), tile)
            states = tile.states * (row_weights / len(batch))[:, None]  # (n, width): the weights, on the narrow side
            _set_or_add_product(weights.grad, probabilities.T, states, adding=rows.start > 0)
            pulled = torch.softmax(gold, 1).to(weights.dtype)[..., None] * states[:, None]  # (n, most, width)
            # Unlike index_add_, this is the same each time on a GPU.
            weights.grad.index_put_((columns,), -pulled, accumulate=True)
            total += float(loss.sum())
        return total


class MixtureOfSoftmaxes(Head):
    """p = Σ_k π_k(h) softmax(W_sm g_k(h)), where W_sm (V, width) stays as it is (docs/paper.md#mixture-of-softmaxes).

    π is a softmax of a linear layer, g_k is linear; both have a bias, and there is no tanh.
    """

    def __init__(self, output_embedding: Tensor, *layers: Tensor):
        """Take π's layer, (K, width) and (K,), and g's, (K, width, width) and (K, width), which training changes."""
        super().__init__(list(layers), len(layers[0]) * len(output_embedding), output_embedding)
        self.output_embedding = output_embedding

    def log_prior(self, states: Tensor) -> Tensor:
        """Return log π(h), (n, K)."""
        return torch.log_softmax(torch.addmm(self.parameters[1], states, self.parameters[0].T), 1)

    def logits(self, states: Tensor, matrix: Tensor) -> Iterator[Tensor]:
        """Yield each expert's W_sm g_k(h), (n, V), in the buffer, in the precision of `matrix`, which is W_sm."""
        for expert, bias in zip(*self.parameters[2:], strict=True):
            yield self.product(torch.addmm(bias, states, expert.T).to(matrix.dtype), matrix)

    def log_p_of_tile(self, tile: Batch) -> Tensor:
        terms = self.log_prior(tile.states)
        for k, logits in enumerate(self.logits(tile.states, self.output_embedding)):
            terms[:, k] += logits.gather(1, tile.gold[:, None])[:, 0] - _log_total(logits)
        return terms.logsumexp(1)

    def accumulate(self, batch: Batch, objective: Objective) -> float:
        # With ρ_k = π_k p_k(w) / p(w), the gradient of −log p is π − ρ by the logits of π, and by g_k(h) it is
        # ρ_k (W_smᵀ p_k − W_sm[w]).
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        of_prior, of_prior_bias, of_experts, of_biases = (parameter.grad for parameter in self.parameters)
        total, matrix = 0.0, self.output_embedding.to(self.wide)
        for _, tile in self.tiles(batch):
            states, gold = tile.states, tile.gold[:, None]
            log_prior = self.log_prior(states)
            terms, expected = log_prior.clone(), []
            for k, logits in enumerate(self.logits(states, matrix)):
                chosen = logits.gather(1, gold)
                probabilities = torch.softmax(logits, 1, out=logits)
                terms[:, k] += _log_of_gold(probabilities, gold, chosen)
                expected.append((probabilities @ matrix).to(states.dtype))
            log_p = terms.logsumexp(1)
            loss, row_weights = objective(log_p, tile)
            row_weights = (row_weights / len(batch))[:, None]
            shares = (terms - log_p[:, None]).exp_()  # ρ, (n, K)
            slopes = (log_prior.exp() - shares) * row_weights
            of_prior.addmm_(slopes.T, states)
            of_prior_bias += slopes.sum(0)
            for k, mean in enumerate(expected):
                slopes = (mean - self.output_embedding[tile.gold]) * (shares[:, k : k + 1] * row_weights)
                of_experts[k].addmm_(slopes.T, states)
                of_biases[k] += slopes.sum(0)
            total += float(loss.sum())
        return total


def even_slices(length: int, most: int) -> list[slice]:
    """Divide `length` rows into slices of nearly the same size, of at most `most` rows."""
    count = -(-length // most)
    return [slice(length * number // count, length * (number + 1) // count) for number in range(count)]


def _set_or_add_product(total: Tensor, left: Tensor, right: Tensor, adding: bool) -> None:
    """Make a float32 matrix left @ right, or add this to it; `left` may be in bfloat16, and `right` is rounded so."""
    if left.dtype == total.dtype:
        torch.addmm(total, left, right, beta=float(adding), out=total)
    elif adding:
        total.add_(left @ right.to(left.dtype))
    else:
        total.copy_(left @ right.to(left.dtype))


def _log_total(logits: Tensor) -> Tensor:
    """Return log Σ exp of each row, (n,), and overwrite the logits: faster in place than by torch.logsumexp."""
    best = logits.amax(1)
    return best - torch.softmax(logits, 1, out=logits).amax(1).log_()


def _log_of_gold(probabilities: Tensor, columns: Tensor, gold: Tensor) -> Tensor:
    """Return log Σ p over the gold's columns whose logit is not −inf, (n,), at least the log of the smallest number."""
    found = probabilities.gather(1, columns).masked_fill_(gold.isneginf(), 0)
    found = found.sum(1, dtype=torch.promote_types(found.dtype, torch.float32))
    return found.clamp_(torch.finfo(found.dtype).tiny, 1).log_()


def even_rows(types: int, n: int) -> np.ndarray:
    """Return the type of each row where every type has n rows, int64 (n V,)."""
    return np.repeat(np.arange(types), n)


def extra_rows(amounts: np.ndarray, base: float) -> np.ndarray:
    """Return e_i = ⌊log_b(amount_i)⌋, int64 (V,), 0 for amounts below 1: the rows a type gets besides its first.

    `amounts`, (V,), are the frequencies, or 1 + the total loss of each type in training, in nats; `base` is above 1
    (docs/paper.md#adaptive-capacity).
    """
    logs = np.log(np.maximum(amounts, 1)) / np.log(base)
    return np.floor(logs * (1 + 1e-12)).astype(np.int64)  # a power of the base counts as whole


def adaptive_rows(amounts: np.ndarray, rows: int) -> np.ndarray:
    """Return the type of each row, ascending, int64 (about `rows`,): extra_rows at the base nearest to that many."""
    # log b: too many rows at the steep end, no extra row at the flat one
    steep, flat = 1e-6, float(np.log(np.maximum(amounts, 1)).max()) + 1.0
    for _ in range(40):
        middle = (steep + flat) / 2
        too_many = len(amounts) + extra_rows(amounts, np.exp(middle)).sum() > rows
        steep, flat = (middle, flat) if too_many else (steep, middle)
    choices = [extra_rows(amounts, np.exp(end)) for end in (flat, steep)]
    extras = min(choices, key=lambda extra: abs(len(amounts) + extra.sum() - rows))
    return np.repeat(np.arange(len(amounts)), 1 + extras)


def random_weights(rows: int, width: int, generator: Generator) -> Tensor:
    """Return a new output matrix, float32 (rows, width), from N(0, width^-0.5), as in the paper's code."""
    return torch.randn(rows, width, generator=generator) * width**-0.5


def copied_weights(output_embedding: np.ndarray, row_types: np.ndarray, noise: float, generator: Generator) -> Tensor:
    """Return W_sm's row of each row's type, float32 (R, width), plus N(0, noise), so that copies can part."""
    copies = torch.from_numpy(output_embedding[row_types])
    return copies + torch.randn(copies.shape, generator=generator) * noise


def helped_weights(gold: np.ndarray, helped: np.ndarray, types: int) -> np.ndarray:
    """Return each type's weight in the loss, float32 (V,): 1 + the share of its tokens that the kNN helps.

    gold: int (n,), some training tokens; helped: bool (n,), whether p_kNN > p_LM there. A type without token weighs 1.
    """
    tokens = np.bincount(gold, minlength=types)
    return (1 + np.bincount(gold, weights=helped, minlength=types) / np.maximum(tokens, 1)).astype(np.float32)
