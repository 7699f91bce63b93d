"""What an epoch of a V×D output embedding costs on stored states, against its own three matrix products at this machine's best in the same precision.

    PYTHONPATH=workflow python tests/benchmarks/benchmark_heads.py [--types 8300 --width 128 --n 1 --batch 1024 --batches 8 --pairs 7]

The three are logits = h Wᵀ, dW = Gᵀ h and dh = G W of a whole batch, into buffers that are there already. Since states are frozen, ours makes no dh.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from knnlm.head_training import Rows, train_head, training_precision
from knnlm.heads import OutputEmbedding, even_rows, likelihood, random_weights


def three_products(states: torch.Tensor, weights: torch.Tensor, batches: int) -> float:
    """Return the seconds of the three products of `batches` batches, in the precision of training."""
    logits = torch.randn(len(states), len(weights))
    gradient, back = torch.empty_like(weights), torch.empty_like(states)
    with training_precision():
        begin = time.perf_counter()
        for _ in range(batches):
            torch.mm(states, weights.T, out=logits)
            torch.mm(logits.T, states, out=gradient)
            torch.mm(logits, weights, out=back)
        return time.perf_counter() - begin


def epoch(rows: Rows, weights: torch.Tensor, types: int, batch: int) -> float:
    """Return the seconds of one pass over all rows: reading, both products, softmax, gradient and Adam."""
    head = OutputEmbedding(weights.clone(), even_rows(types, len(weights) // types), types)
    recipe = {"passes": 1, "batch": batch, "learning_rate": 1e-3, "betas": [0.9, 0.999], "warmup": 0.1}
    one = Rows(rows.states[:1], rows.gold[:1])  # the loss on valid is no part of an epoch
    begin = time.perf_counter()
    train_head(head, [rows], one, likelihood, recipe, seed=1, device="cpu", label="epoch")
    return time.perf_counter() - begin


def measure(types: int, width: int, n: int, batch: int, batches: int, pairs: int) -> float:
    """Return the median of `pairs` ratios, an epoch's time over that of the three products measured just before; prints each."""
    random = np.random.default_rng(1)
    rows = Rows(random.standard_normal((batch * batches, width)).astype(np.float16), random.integers(0, types, batch * batches).astype(np.int32))
    weights = random_weights(n * types, width, torch.Generator().manual_seed(1))
    states = rows.batch(0, batch, "cpu").states
    three_products(states, weights, 1), epoch(Rows(rows.states[:batch], rows.gold[:batch]), weights, types, batch)  # warm-up
    ratios = []
    for _ in range(pairs):
        products, ours = three_products(states, weights, batches), epoch(rows, weights, types, batch)
        ratios.append(ours / products)
        speed = 6 * rows.states.size * len(weights) / products / 1e9
        print(f"three products {products:.3f} s ({speed:.0f} GFLOP/s), epoch {ours:.3f} s, ratio {ratios[-1]:.2f}", flush=True)
    return statistics.median(ratios)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"types": 8300, "width": 128, "n": 1, "batch": 1024, "batches": 8, "pairs": 7}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    print(f"median ratio {measure(**vars(options.parse_args())):.2f}")
