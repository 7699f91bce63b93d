"""What tests ask of the times of jobs."""

from knnlm.cost.hours import Times


def slowdown(records: list[Times]) -> float:
    """Return how many times their CPU time the start-ups of jobs took: about 1 on a quiet machine."""
    return sum(job.began - job.started for job in records) / sum(job.starting_cpu_seconds for job in records)


def ratios(predicted: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """Return how many times as long as it took each stage was predicted to take, where both are known."""
    return {stage: seconds / measured[stage] for stage, seconds in predicted.items() if measured.get(stage)}
