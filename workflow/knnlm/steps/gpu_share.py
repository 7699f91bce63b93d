"""Say how busy the GPUs of a run were between its first and its last job on them, and what ran while they paused."""

from pathlib import Path

from knnlm.cost.gpu_share import busy_shares, computing_share, pauses, read_samples, window
from knnlm.cost.hours import read_times


def main(logs: Path, samples: Path | None = None) -> None:
    """Print shares and pauses; `samples` were written while the run went on (`knnlm.cost.gpu_share.SAMPLING`)."""
    records = read_times(logs)
    begin, end = window(records)
    jobs = sum(job.gpus > 0 for job in records)
    print(f"{jobs} jobs with GPUs, {end - begin:.0f} s from the start of the first to the end of the last")
    print(f"at least one of them was past its imports: {computing_share(records):.2f} of that time")
    if samples:
        found = read_samples(samples)
        for gpu, share in busy_shares(found, begin, end).items():
            print(f"GPU {gpu} computed: {share:.2f} of that time")
        for pause in pauses(found, records):
            jobs = ", ".join(pause.jobs) or "no job"
            print(f"pause of {pause.end - pause.begin:.1f} s at {pause.begin - begin:.0f} s: {jobs}")
