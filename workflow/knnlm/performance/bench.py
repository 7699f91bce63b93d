"""How a stage is measured: how large, and side by side with what it is held against."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

COLUMNS = ["stage", "ours", "reference", "unit", "ratio", "ratio_low", "ratio_high", "goal", "reached"]


@dataclass(frozen=True)
class Bench:
    """How thoroughly to measure, and where.

    `pairs` rounds; `seconds` that one of them should take at the machine's best; `rows` of the smallest store of the scaling; `folder` for what is
    written on the way; `speed`, float32 FLOP/s of this machine, by which sizes are chosen.
    """

    pairs: int
    seconds: float
    rows: int
    seed: int
    device: str
    folder: Path
    speed: float

    def fitting(self, flops: float, least: int = 1, most: int = 2**62) -> int:
        """Return how many items of so many operations take `seconds` at best: a power of two, so that sizes seldom change from run to run, within limits."""
        items = max(1.0, self.seconds * self.speed / flops)
        return max(least, min(2 ** int(np.log2(items)), most))


@dataclass(frozen=True)
class Measured:
    """What a module has measured: rows of the table (COLUMNS), and rates by name, each in something a second."""

    rows: list[dict]
    rates: dict[str, float]


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Return the seconds that a piece of work takes, that of the GPU included."""
    _wait(device)
    begin = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begin


def interleaved(work: dict[str, Callable[[], object]], pairs: int, device: str) -> dict[str, np.ndarray]:
    """Return the seconds of several pieces of work, float64 (pairs,) each.

    Each round does all of them, one round forwards and the next backwards, so that what else the machine does meets all alike. A first round warms up.
    """
    names, found = list(work), {name: [] for name in work}
    with redirect_stderr(io.StringIO()):  # progress of what is done many times over
        for number in range(pairs + 1):
            for name in names if number % 2 else reversed(names):
                taken = seconds_of(work[name], device)
                if number:
                    found[name].append(taken)
    return {name: np.array(seconds) for name, seconds in found.items()}


def row(
    stage: str,
    unit: str,
    ours: np.ndarray,
    reference: np.ndarray,
    goal: float | None = None,
    ratios: np.ndarray | None = None,
) -> dict:
    """Return a row of the table: medians of both speeds, (pairs,) in `unit`, and of their ratios, with the lowest and highest of these.

    A speed may be any number of which more is better. `ratios`, (any number,), are given where they are not those of the pairs.
    """
    ratios = ours / reference if ratios is None else ratios
    ratio = float(np.median(ratios))
    reached = "" if goal is None else str(ratio >= goal).lower()
    return dict(
        zip(
            COLUMNS,
            [stage, np.median(ours), np.median(reference), unit, ratio, ratios.min(), ratios.max(), goal, reached],
            strict=True,
        )
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
