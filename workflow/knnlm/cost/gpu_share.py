"""How busy a run's GPUs were: samples of their use, beside the times of the jobs that had them."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from knnlm.cost.hours import Times, covered_seconds
from knnlm.errors import KnnlmError

# Writes the samples; `utilization.gpu` is the part of a moment in which any kernel ran.
SAMPLING = "nvidia-smi --query-gpu=timestamp,index,utilization.gpu --format=csv,noheader,nounits --loop-ms=200"
SHORTEST_PAUSE = 1.0  # seconds; shorter ones are not listed


@dataclass(frozen=True)
class Sample:
    """How busy a GPU was at a moment, in seconds since 1970: a share from 0 to 1."""

    moment: float
    gpu: str
    busy: float


@dataclass(frozen=True)
class Pause:
    """Seconds in which no GPU computed, and the jobs that ran meanwhile; one that still started has a `+` before it."""

    begin: float
    end: float
    jobs: tuple[str, ...]


def read_samples(path: Path) -> list[Sample]:
    """Read what SAMPLING has written, the last line perhaps cut short; KnnlmError if that is no line of it."""
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), skipinitialspace=True))
        if lines and len(lines[-1]) < 3:
            del lines[-1]
        found = [(datetime.strptime(time, "%Y/%m/%d %H:%M:%S.%f"), gpu, float(busy)) for time, gpu, busy in lines]
    except (OSError, ValueError) as error:
        raise KnnlmError(f"{path}: not samples of GPUs ({error}); make them with `{SAMPLING}`.") from None
    return [Sample(time.timestamp(), gpu, busy / 100) for time, gpu, busy in found]


def window(records: Iterable[Times]) -> tuple[float, float]:
    """Return the moments from which and until which a job had a GPU; KnnlmError where none had one."""
    jobs = [job for job in records if job.gpus]
    if not jobs:
        raise KnnlmError("no job of this run has had a GPU; set resources.gpus and resources.training_gpus, run again.")
    return min(job.started for job in jobs), max(job.ended for job in jobs)


def computing_share(records: Iterable[Times]) -> float:
    """Return the share of the window in which a job with a GPU was past its imports: no GPU computed longer."""
    begin, end = window(records)
    return covered_seconds((job.began, job.ended) for job in records if job.gpus) / (end - begin)


def busy_shares(samples: Iterable[Sample], begin: float, end: float) -> dict[str, float]:
    """Return the mean use of each GPU over the window, of those that were used in it."""
    of_gpu = defaultdict(list)
    for sample in samples:
        if begin <= sample.moment <= end:
            of_gpu[sample.gpu].append(sample.busy)
    return {gpu: sum(busy) / len(busy) for gpu, busy in of_gpu.items() if any(busy)}


def pauses(samples: list[Sample], records: list[Times]) -> Iterator[Pause]:
    """Yield the pauses within the window that are not shorter than SHORTEST_PAUSE."""
    begin, end = window(records)
    busy = sorted(sample.moment for sample in samples if sample.busy and begin <= sample.moment <= end)
    for before, after in zip([begin, *busy], [*busy, end], strict=True):
        if after - before >= SHORTEST_PAUSE:
            there = [job for job in records if job.started < after and job.ended > before]
            names = ("+" * (job.began >= after) + job.job for job in sorted(there, key=lambda job: job.started))
            yield Pause(before, after, tuple(names))
