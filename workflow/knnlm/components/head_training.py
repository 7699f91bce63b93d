"""Training heads on stored states: batches read from the store as they lie there, Adam, the pass that is best on valid.

One recipe serves every head (docs/paper.md#trained-heads): no dropout, the same batches for all, passes at one rate
until valid stops improving, then passes at half the rate of the last until it stops again.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from knnlm.components.adam import Adam
from knnlm.components.heads import Batch, Head, Objective, OutputEmbedding, even_rows, even_slices
from knnlm.components.recipes import Watch
from knnlm.datastore.shuffle import prefix_rows
from knnlm.datastore.store import Datastore
from knnlm.retrieval.blocks import slices
from knnlm.running.progress import progress

CPU_FACTS = Path("/proc/cpuinfo")
ROWS_AT_ONCE = 16384  # of stored states on the device when they are evaluated
Loss = Callable[[np.ndarray], float]  # takes log p of the gold tokens, float32 (n,) in nats; returns nats a token
DTYPES = {"states": torch.float32, "gold": torch.int64, "ffn": torch.float32, "log_p_base": torch.float32}


@dataclass(frozen=True)
class Rows:
    """Stored states that need not be in memory; shapes as in Batch."""

    states: np.ndarray
    gold: np.ndarray
    ffn: np.ndarray | None = None
    log_p_base: np.ndarray | None = None

    def batch(self, rows: slice, device: str) -> Batch:
        """Return some rows on the device, in the dtypes of Batch."""
        given = {name: torch.from_numpy(np.array(part[rows])) for name, part in vars(self).items() if part is not None}
        return Batch(**{name: part.to(device).to(DTYPES[name]) for name, part in given.items()})

    def batches(self, device: str) -> Iterator[Batch]:
        """Yield all rows in their order."""
        for rows in slices(len(self.gold), ROWS_AT_ONCE):
            yield self.batch(rows, device)


@dataclass(frozen=True)
class Trained:
    """The pass that a training kept (0: before the first, no `train_loss`: NaN) and its mean losses, nats per token.

    `train_loss` is that of the objective, `valid_loss` that by which passes are judged. `cut_off_at` is the end of its
    passes at which valid was still improving, None where it had stopped.
    """

    best_pass: int
    train_loss: float
    valid_loss: float
    log_p_valid: np.ndarray  # of the gold, float32 (n,), nats
    passes: int = 0  # that were made
    cut_off_at: str | None = None

    def facts(self) -> dict[str, float]:
        """Return what a step reports of it."""
        facts = {"best_pass": self.best_pass, "passes": self.passes}
        facts |= {"train_loss": self.train_loss, "valid_loss": self.valid_loss}
        return {name: value for name, value in facts.items() if not math.isnan(value)}


def store_rows(
    store: Datastore, h: str, rows: int | None, with_ffn: bool = False, log_p_base: list[np.ndarray] | None = None
) -> list[Rows]:
    """Return states `h` and gold tokens of about `rows` rows of the store (None: all) by chunk, memory-mapped.

    They are the same prefix of every chunk, so a uniform sample. `log_p_base` goes with them, float32 (rows,) by chunk.
    """
    fraction = min(1.0, (rows or store.rows) / store.rows)
    found = []
    for chunk, base in zip(store.chunks, log_p_base or [None] * len(store.chunks), strict=True):
        end = prefix_rows(fraction, chunk.rows)
        ffn = chunk.keys_of("ffn")[:end] if with_ffn else None
        found.append(Rows(chunk.keys_of(h)[:end], chunk.values_of_rows()[:end], ffn, base))
    return found


def log_p_of(head: Head, rows: Rows, device: str) -> np.ndarray:
    """Return log p of the gold for every row, float32 (n,), nats."""
    parts = (head.log_p(batch).float().cpu().numpy() for batch in rows.batches(device))
    return np.concatenate([np.empty(0, np.float32), *parts])


def store_log_p(store: Datastore, output_embedding: np.ndarray, rows: int | None, device: str) -> list[np.ndarray]:
    """Return the base LM's log p of the gold for the rows of store_rows, float32 (rows,) by chunk, in nats.

    It is computed from `ffn` and the output embedding W_sm, float32 (V, width): no LM runs.
    """
    types = len(output_embedding)
    base = OutputEmbedding(torch.from_numpy(output_embedding).to(device), even_rows(types, 1), types)
    parts = progress(store_rows(store, "ffn", rows), "log p of the base LM on the store")
    return [log_p_of(base, part, device) for part in parts]


def loss_alone(log_p: np.ndarray) -> float:
    """Return the nats a token of a head by itself, from log p of the gold tokens, float32 (n,): a Loss."""
    return -float(log_p.mean(dtype=np.float64))


def learning_rates(recipe: dict, updates: int, is_first: bool = True, is_last: bool = True) -> np.ndarray:
    """Return the learning rate of every update of a pass, (updates,).

    It rises in a straight line over the share `warmup` of the first pass, and falls to zero along a cosine in the last
    that is allowed.
    """
    update = np.arange(updates)
    warmup = max(1, round(recipe["warmup"] * updates)) if is_first else 0
    rise = (update + 1) / warmup if is_first else np.ones(updates)
    cosine = np.cos(np.pi * np.clip((update - warmup) / max(1, updates - warmup), 0, 1))
    return recipe["learning_rate"] * np.minimum(rise, (1 + cosine) / 2 if is_last else 1)


def train_head(
    head: Head, rows: list[Rows], valid: Rows, objective: Objective, loss_of: Loss, recipe: dict,
    seed: int, device: str, label: str,
) -> Trained:  # fmt: skip
    """Train a head's parameters in place; leave it as it was after the best pass on valid, or before the first.

    `loss_of` gives the loss by which passes are judged from log p of valid's gold tokens.
    `recipe` holds `passes` (at most), `patience`, `batch` (rows an update), `learning_rate`, `betas` and `warmup`
    (share of a pass). Passes at the full rate go on until valid has not improved for `patience` of them. From then on
    each starts from the best and has half the rate of the last, until one does not improve valid. Batches are
    neighbouring rows of a chunk, which stand there in random order; `seed` draws the order of the batches anew for
    every pass. Memory: the parameters, five times, and one tile.
    """
    blocks = [(part, some) for part in rows for some in even_slices(len(part.gold), recipe["batch"])]
    head.wide = wide_dtype(head.wide, device)
    optimiser, limit, share, is_slowing = Adam(head.parameters, tuple(recipe["betas"])), recipe["passes"], 1.0, False
    log_p = log_p_of(head, valid, device)  # (n,)
    best = Trained(0, math.nan, loss_of(log_p), log_p)
    kept, watch = [parameter.clone() for parameter in head.parameters], Watch(recipe["patience"], best.valid_loss)
    for number in progress(range(1, limit + 1), label):
        total, order = 0.0, np.random.default_rng([seed, number]).permutation(len(blocks))
        rates = share * learning_rates(recipe, len(blocks), number == 1, number == limit)
        for place, rate in zip(order, rates.tolist(), strict=True):
            part, some = blocks[place]
            with training_precision():
                total += head.accumulate(part.batch(some, device), objective)
            optimiser.step(rate)
        log_p = log_p_of(head, valid, device)
        if watch.improves(valid_loss := loss_of(log_p)):
            best = Trained(number, total / sum(len(part.gold) for part in rows), valid_loss, log_p)
            kept = [parameter.clone() for parameter in head.parameters]
        if is_slowing and not watch.is_falling:
            break
        if is_slowing := is_slowing or watch.has_stopped:
            share /= 2
            restore(head, kept)
    restore(head, kept)
    for parameter in head.parameters:
        parameter.grad = None
    is_cut_off = best.best_pass == number == limit and watch.is_falling
    return replace(best, passes=number, cut_off_at="the last pass" if is_cut_off else None)


def restore(head: Head, parameters: list[torch.Tensor]) -> None:
    """Give a head its earlier parameters back."""
    for parameter, value in zip(head.parameters, parameters, strict=True):
        parameter.copy_(value)


def wide_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the precision of what is V wide in training, for a head of `dtype`.

    Instead of float32 it is bfloat16 on a processor that multiplies faster in it. Its kind decides, not a timing, so
    that a machine always trains alike.
    """
    faster = device == "cpu" and CPU_FACTS.exists() and faster_in_bfloat16(CPU_FACTS.read_text(encoding="utf-8"))
    return torch.bfloat16 if dtype == torch.float32 and faster else dtype


def faster_in_bfloat16(cpu_facts: str) -> bool:
    """Return whether the processor that Linux describes so multiplies twice as fast in bfloat16 as in float32.

    AMD's with AVX512-BF16 do, and Intel's with AMX; Intel's with AVX512-BF16 alone are half as fast in it.
    """
    of_first = cpu_facts.partition("\n\n")[0]
    flags = set(of_first.split())
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in flags)


@contextmanager
def training_precision() -> Iterator[None]:
    """Let matrix products round their factors to bfloat16 where the processor is faster so; all else stays float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
