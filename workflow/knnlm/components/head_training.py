"""Training heads on stored states: batches read from the store as they lie there, Adam, and the pass that is best on valid (spec §5.1).

One recipe serves every head: the learning rate rises over the warm-up and falls to zero along a cosine; no dropout; the same batches for all.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from knnlm.components.heads import Batch, Head, Objective, OutputEmbedding, even_rows
from knnlm.datastore.store import Datastore, prefix_rows
from knnlm.running.progress import progress

ROWS_AT_ONCE = 16384  # of stored states on the device when they are evaluated


@dataclass(frozen=True)
class Rows:
    """Stored states that need not be in memory: `states` float (n, width), `gold` int (n,); where needed `ffn` (n, width), `log_p_base` float32 (n,)."""

    states: np.ndarray
    gold: np.ndarray
    ffn: np.ndarray | None = None
    log_p_base: np.ndarray | None = None

    def batch(self, begin: int, end: int, device: str) -> Batch:
        """Return rows `begin` to `end` on the device, states in float32."""
        parts = [
            None if part is None else np.array(part[begin:end])
            for part in (self.states, self.gold, self.ffn, self.log_p_base)
        ]
        states, gold, ffn, log_p_base = (None if part is None else torch.from_numpy(part).to(device) for part in parts)
        return Batch(states.float(), gold.long(), None if ffn is None else ffn.float(), log_p_base)

    def batches(self, device: str) -> Iterator[Batch]:
        """Yield all rows in their order."""
        for begin in range(0, len(self.gold), ROWS_AT_ONCE):
            yield self.batch(begin, begin + ROWS_AT_ONCE, device)


@dataclass(frozen=True)
class Trained:
    """What a training came to: the pass that was kept (0 is before the first) and its mean losses in nats per token, `train_loss` NaN for pass 0."""

    best_pass: int
    train_loss: float
    valid_loss: float

    def facts(self) -> dict[str, float]:
        """Return what a step reports of it."""
        found = {"best_pass": self.best_pass, "train_loss": self.train_loss, "valid_loss": self.valid_loss}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def store_rows(
    store: Datastore, h: str, rows: int | None, with_ffn: bool = False, log_p_base: list[np.ndarray] | None = None
) -> list[Rows]:
    """Return the states and gold tokens of about `rows` rows of the store (None: all), memory-mapped: the same prefix, a uniform sample, of every chunk."""
    fraction = min(1.0, (rows or store.rows) / store.rows)
    found = []
    for number, chunk in enumerate(store.chunks):
        end = prefix_rows(fraction, chunk.rows)
        ffn = chunk.keys_of("ffn")[:end] if with_ffn else None
        found.append(
            Rows(chunk.keys_of(h)[:end], chunk.values_of_rows()[:end], ffn, log_p_base[number] if log_p_base else None)
        )
    return found


def log_p_of(head: Head, rows: Rows, device: str) -> np.ndarray:
    """Return log p of the gold for every row, float32 (n,), nats."""
    parts = [head.log_p(batch).float().cpu().numpy() for batch in rows.batches(device)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def store_log_p(store: Datastore, output_embedding: np.ndarray, rows: int | None, device: str) -> list[np.ndarray]:
    """Return the base LM's log p of the gold for the rows of store_rows, a float32 array for each chunk, from `ffn` and W_sm (V, width): no LM runs."""
    types = len(output_embedding)
    base = OutputEmbedding(torch.from_numpy(output_embedding).to(device), even_rows(types, 1), types)
    return [
        log_p_of(base, part, device)
        for part in progress(store_rows(store, "ffn", rows), "log p of the base LM on the store")
    ]


def mean_loss(head: Head, rows: Rows, objective: Objective, device: str) -> float:
    """Return the objective's mean over the rows, nats per token."""
    return sum(float(objective(head.log_p(batch), batch)[0].double().sum()) for batch in rows.batches(device)) / len(
        rows.gold
    )


def learning_rates(recipe: dict, updates: int) -> np.ndarray:
    """Return the learning rate of every update, (updates,): a straight rise over the share `warmup` of them, then a cosine down to almost zero."""
    warmup = max(1, round(recipe["warmup"] * updates))
    update = np.arange(updates)
    cosine = np.cos(np.pi * np.clip((update - warmup) / max(1, updates - warmup), 0, 1))
    return recipe["learning_rate"] * np.minimum((update + 1) / warmup, (1 + cosine) / 2)


def train_head(
    head: Head, rows: list[Rows], valid: Rows, objective: Objective, recipe: dict, seed: int, device: str, label: str
) -> Trained:
    """Train a head's parameters in place and leave it as it was after the pass with the lowest loss on valid, or before the first.

    `recipe` holds `passes`, `batch` (rows an update), `learning_rate`, `betas` and `warmup` (share of all updates). Batches are neighbouring rows of a
    chunk, which stand there in random order; their order is drawn anew for every pass from `seed`. Memory: the parameters, five times, and one tile.
    """
    blocks = [block for part in rows for block in _blocks(part, recipe["batch"])]
    rates = iter(learning_rates(recipe, recipe["passes"] * len(blocks)).tolist())
    optimiser = torch.optim.Adam(head.parameters, lr=recipe["learning_rate"], betas=tuple(recipe["betas"]), fused=True)
    best, kept = (
        Trained(0, math.nan, mean_loss(head, valid, objective, device)),
        [parameter.clone() for parameter in head.parameters],
    )
    for number in progress(range(1, recipe["passes"] + 1), label):
        total = 0.0
        for place in np.random.default_rng([seed, number]).permutation(len(blocks)):
            with training_precision():
                total += head.accumulate(_batch(blocks[place], device), objective)
            optimiser.param_groups[0]["lr"] = next(rates)
            optimiser.step()
        valid_loss = mean_loss(head, valid, objective, device)
        if valid_loss < best.valid_loss:
            best, kept = (
                Trained(number, total / sum(len(part.gold) for part in rows), valid_loss),
                [parameter.clone() for parameter in head.parameters],
            )
    for parameter, value in zip(head.parameters, kept, strict=True):
        parameter.copy_(value)
        parameter.grad = None
    return best


@contextmanager
def training_precision() -> Iterator[None]:
    """Let matrix products round their factors to bfloat16 where the processor multiplies those faster; sums and all else stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _blocks(rows: Rows, batch: int) -> list[tuple[Rows, int, int]]:
    """Divide a piece into blocks of nearly the same size, at most `batch` rows."""
    length = len(rows.gold)
    count = -(-length // batch)
    return [(rows, length * number // count, length * (number + 1) // count) for number in range(count)]


def _batch(block: tuple[Rows, int, int], device: str) -> Batch:
    rows, begin, end = block
    return rows.batch(begin, end, device)
