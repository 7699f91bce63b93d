"""How a stage is measured: how large, and side by side with what it is held against."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

COLUMNS = ["stage", "ours", "reference", "unit", "ratio", "ratio_low", "ratio_high", "goal", "reached"]
Job = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """What has been measured: rows of the table (COLUMNS), and rates by name, each in something a second."""

    rows: list[dict]
    rates: dict[str, float]

    def __add__(self, other: "Measured") -> "Measured":
        return Measured(self.rows + other.rows, self.rates | other.rates)


@dataclass(frozen=True)
class Bench:
    """How thoroughly to measure, and where."""

    pairs: int  # rounds
    seconds: float  # that one should take at the machine's best
    rows: int  # of the smallest store of the scaling
    seed: int
    device: str
    folder: Path  # for what is written on the way
    speed: float  # float32 FLOP/s of this machine, by which sizes are chosen

    def fitting(self, flops: float, least: int = 1, most: int = 2**62) -> int:
        """Return how many items of so many operations take `seconds`: a power of two, seldom another, or a limit."""
        return max(least, min(2 ** int(np.log2(max(1.0, self.seconds * self.speed / flops))), most))

    def speeds(self, **work: tuple[float, Job]) -> dict[str, np.ndarray]:
        """Do several pieces of work in turn, of which each does so much; return what each does a second, (pairs,)."""
        taken = interleaved({name: job for name, (_, job) in work.items()}, self.pairs, self.device)
        return {name: amount / taken[name] for name, (amount, _) in work.items()}


def seconds_of(job: Job, device: str) -> float:
    """Return the seconds that a piece of work takes, that of the GPU included."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - begin


def interleaved(work: dict[str, Job], pairs: int, device: str) -> dict[str, np.ndarray]:
    """Return the seconds of several pieces of work, float64 (pairs,) each, done in turn, forwards and backwards."""
    names, found = list(work), {name: [] for name in work}
    with redirect_stderr(io.StringIO()):  # progress of what is done many times over
        for number in range(pairs + 1):  # the first round warms up
            for name in names if number % 2 else reversed(names):  # what else the machine does meets all alike
                taken = seconds_of(work[name], device)
                if number:
                    found[name].append(taken)
    return {name: np.array(seconds) for name, seconds in found.items()}


def row(
    stage: str, unit: str, ours: np.ndarray, reference: np.ndarray,
    goal: float | None = None, ratios: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """Return a row of the table, of speeds, (pairs,) in `unit`, more is better, and `ratios`, if not of the pairs."""
    ratios = ours / reference if ratios is None else ratios
    ratio = median(ratios)
    reached = "" if goal is None else str(ratio >= goal).lower()
    speeds = median(ours), median(reference)
    return dict(zip(COLUMNS, [stage, *speeds, unit, ratio, ratios.min(), ratios.max(), goal, reached], strict=True))
