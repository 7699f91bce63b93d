"""Where the time of a finished run went: each job leaves the times of its last whole run, in seconds since 1970."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from knnlm.errors import KnnlmError

# Jobs of targets of their own, no part of a run.
OF_THEMSELVES = ("plan", "redraw", "measure_performance", "plot/performance", "plot/scaling")


@dataclass(frozen=True)
class Times:
    """When a job did what."""

    job: str  # the name of its log, such as `retrieve/att-l2-exact`
    driver_started: float  # the Snakemake that ran it
    started: float  # its own process
    began: float  # to compute, after its imports
    starting_cpu_seconds: float  # of its imports
    ended: float
    threads: int
    peak_memory_bytes: int
    cpu_seconds: float = 0.0  # of the step and the processes that it started; older files do not tell
    gpus: int = 0  # of each node


def read_times(logs: str | Path) -> list[Times]:
    """Return the times of all jobs of a run, by name, from its folder of logs; KnnlmError for other JSON files."""
    logs, found = Path(logs), []
    for path in sorted(logs.rglob("*.json")):
        job = path.relative_to(logs).with_suffix("").as_posix()
        if job not in OF_THEMSELVES:
            try:
                found.append(Times(job, **json.loads(path.read_text(encoding="utf-8"))))
            except (ValueError, TypeError):
                raise KnnlmError(f"{path}: not the times of a step; delete it.") from None
    return found


def computed_and_wall_seconds(records: Iterable[Times]) -> tuple[float, float]:
    """Return the seconds in which at least one step computed, and the run's; start-ups and scheduling are the rest."""
    runs = by_driver(records)  # added, so that a night between two Snakemakes does not count
    return sum(covered_seconds((job.began, job.ended) for job in jobs) for jobs in runs), sum(map(_span, runs))


def wall_seconds(records: Iterable[Times]) -> dict[str, float]:
    """Return each job's part of the seconds in which any job ran, by name: what ran at once shares by its threads."""
    parts: dict[str, float] = defaultdict(float)
    for jobs in by_driver(records):
        for begin, end in pairwise(sorted({moment for job in jobs for moment in (job.started, job.ended)})):
            running = [job for job in jobs if job.started <= begin and end <= job.ended]
            for job in running:
                parts[job.job] += (end - begin) * job.threads / sum(other.threads for other in running)
    return dict(parts)


def idle_seconds(records: Iterable[Times]) -> float:
    """Return the seconds in which no job ran: Snakemake started, chose jobs, or looked at their files."""
    return sum(_span(jobs) - covered_seconds((job.started, job.ended) for job in jobs) for jobs in by_driver(records))


def covered_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the intervals (begin, end) lasts."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def by_driver(records: Iterable[Times]) -> list[list[Times]]:
    """Divide the jobs by the Snakemake that ran them; on Slurm each job has its own."""
    drivers: dict[float, list[Times]] = defaultdict(list)
    for job in records:
        drivers[job.driver_started].append(job)
    return list(drivers.values())


def _span(jobs: list[Times]) -> float:
    """Return the seconds from the start of Snakemake to the end of its last step."""
    return max(job.ended for job in jobs) - jobs[0].driver_started
