"""How long a run will take on a machine whose rates `snakemake performance` has measured, and how long it took.

A job takes what it needs to start, and its amounts over their rates, which grow with its threads. A rule takes as long as its longest job, and no less
than its jobs take on a machine all of whose cores are busy; a stage takes the sum over its rules, and the run the sum over its stages.
"""

import csv
from collections import defaultdict
from pathlib import Path

from knnlm.cost import plan
from knnlm.cost.amounts import STAGES, TRAINED, Job, amounts, jobs, starting_seconds
from knnlm.cost.hypothesis_sizes import hypothesis
from knnlm.cost.plan import Run, Stage
from knnlm.cost.requests import BYTES_PER_TOKEN, devices_of, threads_of
from knnlm.cost.step_times import Times, idle_seconds, wall_seconds
from knnlm.errors import KnnlmError
from knnlm.figures.catalogue import FIGURES
from knnlm.hypotheses import registry

OPERATIONS = (
    "training_flops", "states_flops", "exact_flops", "choosing_flops", "lookups", "real_score_bytes", "neighbour_terms", "head_flops", "disk_bytes", "threads",
)  # fmt: skip
SNAKEMAKE = "Snakemake"  # what no job does; its rows are jobs
SNAKEMAKE_START, SNAKEMAKE_JOB = 3.0, 0.1  # seconds in which no job runs: at its start, and for each job
OF_RULE = {
    "trained_hypothesis": "hypothesis",
    "join_exact": "join_neighbours",
    "join_approximate": "join_neighbours",
}  # where the rule's name differs
FIGURE_BYTES = 100_000  # as PDF and as PNG
TEXT_FILES = 6  # as large as the text: as it was, tokenised, in pieces, twice as numbers of four bytes, and its borders


def read_rates(path: str | Path) -> dict[str, float]:
    """Return the rates by operation, each a second, and `threads`, the cores that they were measured on. Raises KnnlmError, naming the file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rates = {row["operation"]: float(row["rate"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnnlmError(
            f"{path}: not a readable table of rates ({error}); run `snakemake performance` again."
        ) from None
    missing = [name for name in OPERATIONS if not rates.get(name, 0) > 0]
    if missing:
        raise KnnlmError(f"{path}: has no rate above 0 of {', '.join(missing)}; run `snakemake performance` again.")
    return rates


def whole_plan(run: Run) -> list[Stage]:
    """Return all stages of a run from its text to its figures, and their total; beyond it the hypotheses that train another LM, if there are any."""
    *main, tables, _ = plan.plan(run.config, run.tokens, run.vocabulary)
    names = {
        trained: [name for name in registry.with_step(run.config) if registry.trains_lm(run.config, name) == trained]
        for trained in (False, True)
    }
    text, figures = BYTES_PER_TOKEN * sum(run.tokens.values()), len(FIGURES) + len(names[False])
    corpus = Stage("corpus", sum(run.tokens.values()), TEXT_FILES * text, text, 0.0)
    stages = [corpus, *main, _of_hypotheses(run, "hypotheses", names[False]), tables]
    stages += [
        Stage("figures", figures, FIGURE_BYTES * figures, 0, 0.0),
        Stage(SNAKEMAKE, len(_untrained(run)), 0, 0, 0.0),
    ]
    return [*stages, plan.total(stages), *([_of_hypotheses(run, TRAINED, names[True])] if names[True] else [])]


def _untrained(run: Run) -> list[Job]:
    """Return the jobs of a plain `snakemake`."""
    return [job for job in jobs(run) if job.rule not in STAGES[TRAINED]]


def _of_hypotheses(run: Run, stage: str, names: list[str]) -> Stage:
    """Return the stage of some hypotheses, which are its rows."""
    works = [hypothesis(run, {"hypothesis": name}) for name in names]
    flops = sum(work.flops + work.half_flops + work.operations for work in works)
    return Stage(
        stage,
        len(names),
        int(sum(work.disk_bytes for work in works)),
        int(max((work.memory_bytes for work in works), default=0)),
        float(flops),
    )


def predicted_seconds(run: Run, rates: dict[str, float]) -> dict[str, float]:
    """Return the wall time of each stage and of Snakemake beside its jobs, in seconds; `total` is without the hypotheses that train another LM."""
    longest, busy = defaultdict(float), defaultdict(float)
    for job in jobs(run):
        seconds, part = job_seconds(run, job, rates)
        longest[job.rule] = max(longest[job.rule], seconds)
        busy[job.rule] += part * seconds
    found = {stage: sum(max(longest[rule], busy[rule]) for rule in rules) for stage, rules in STAGES.items()}
    return _with_total(found | {SNAKEMAKE: SNAKEMAKE_START + SNAKEMAKE_JOB * len(_untrained(run))})


def job_seconds(run: Run, job: Job, rates: dict[str, float]) -> tuple[float, float]:
    """Return how long a job takes, and which part of the machine it keeps busy: that of its threads, or all where it has GPUs.

    A rate that was measured on one GPU is multiplied by the job's GPUs.
    """
    rule = OF_RULE.get(job.rule, job.rule)
    small = rule in ("plot", "check_size")  # rules that ask for nothing
    gpus = 0 if small else devices_of(run.config, rule, job.wildcards)[0]
    threads = 1 if small else min(rates["threads"], threads_of(run, rule, job.wildcards))
    part = threads / rates["threads"]
    speeds = {operation: rate * (gpus or part) for operation, rate in rates.items()}
    speeds |= {"core_seconds": threads, "seconds": 1.0, "disk_bytes": rates["disk_bytes"]}
    seconds = starting_seconds(job.rule) + sum(
        amount / speeds[operation] for operation, amount in amounts(run, job).items()
    )
    return seconds, 1.0 if gpus else part


def measured_seconds(run: Run, times: list[Times]) -> dict[str, float]:
    """Return the wall time that each stage took, in seconds, of the stages all of whose jobs have left their times; `total` where all have."""
    parts, found = wall_seconds(times), {}
    of_stage = {rule: stage for stage, rules in STAGES.items() for rule in rules}
    names = defaultdict(list)
    for job in jobs(run):
        names[of_stage[job.rule]].append(job.name)
    for stage, expected in names.items():
        if set(expected) <= parts.keys():
            found[stage] = sum(parts[name] for name in expected)
    whole = {stage for stage in STAGES if stage in names and stage != TRAINED}
    return _with_total(found | {SNAKEMAKE: idle_seconds(times)}) if whole <= found.keys() else found


def _with_total(seconds: dict[str, float]) -> dict[str, float]:
    return seconds | {"total": sum(part for stage, part in seconds.items() if stage != TRAINED)}


def ratios(predicted: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """Return how many times as long as it took each stage was predicted to take, where both are known."""
    return {stage: seconds / measured[stage] for stage, seconds in predicted.items() if measured.get(stage)}
