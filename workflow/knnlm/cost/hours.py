"""How long a run will take on a machine whose rates `snakemake performance` has measured, and how long it took.

A job takes what it needs to start, and its amounts over their rates, which grow with its threads. A rule takes as long
as its longest job, and no less than its jobs take on a machine all of whose cores are busy; a stage takes the sum over
its rules, and the run the sum over its stages. Each job leaves the times of its last whole run, in seconds since 1970.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from knnlm.cost.hypotheses import TRAINING_SECONDS
from knnlm.cost.requests import devices_of, threads_of
from knnlm.cost.rules import RULES, SNAKEMAKE, TRAINED, Job, jobs
from knnlm.cost.sizes import Run
from knnlm.errors import KnnlmError

UNITS = dict.fromkeys(("training_flops", "states_flops", "exact_flops", "choosing_flops"), "FLOP/s")  # of rates
UNITS |= {"lookups": "look-ups/s", "real_score_bytes": "bytes/s", "neighbour_terms": "terms/s", "head_flops": "FLOP/s"}
UNITS |= {"disk_bytes": "bytes/s", "threads": "threads"}
OPERATIONS = tuple(UNITS)
# Rates that nobody measures, a second of one core. Set them, and the starts below, by the times that the demo's jobs
# have left: `snakemake plan` shows these beside the predicted ones.
CONSTANT = {"corpus_text_bytes": 2e6, "bpe_bytes": 5e5, "binarise_bytes": 2e6}
CONSTANT |= {"table_operations": 1e9, "counted_tokens": 5e6, "seconds": 1.0}
# Of each core. Where a machine's rates are those of its GPUs, nobody measures the last two.
OF_A_CORE = {"tokenise_bytes": 2e5, "exact_flops_on_cpu": 4e10, "lookups_on_cpu": 5e8}
FAISS_OR_PANDAS, TORCH = 0.7, 2.0  # seconds from a job's start to its step's first own line, by the heaviest import
FAIRSEQ, FIGURE = 2.5, 1.0  # seconds to import fairseq, where a step does so later; to draw a figure and write it
STARTS = {"binarise": FAISS_OR_PANDAS + FAIRSEQ, "train_lm": FAISS_OR_PANDAS + TRAINING_SECONDS}
STARTS |= {"plot": FAISS_OR_PANDAS + FIGURE}  # of rules that are not here FAISS_OR_PANDAS
STARTS |= dict.fromkeys(("evaluation_states", "datastore_chunk"), TORCH + FAIRSEQ)
STARTS |= dict.fromkeys(("retrieve_exact", "retrieve_approximate", "training_neighbours"), TORCH)
STARTS |= dict.fromkeys(("knn_components", "hypothesis"), TORCH)
SNAKEMAKE_START, SNAKEMAKE_JOB = 3.0, 0.1  # seconds in which no job runs: at its start, and for each job
# Jobs of targets of their own, no part of a run.
OF_THEMSELVES = ("plan", "redraw", "measure_performance", "plot/performance", "plot/scaling", "main_result/tables")
OF_THEMSELVES += ("main_result/plot",)


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
    return sum(covered_seconds((job.began, job.ended) for job in run) for run in runs), sum(map(_span, runs))


def wall_seconds(records: Iterable[Times]) -> dict[str, float]:
    """Return each job's share of the seconds in which any job ran, by name; jobs that ran at once share by threads."""
    parts: dict[str, float] = defaultdict(float)
    for run in by_driver(records):
        for begin, end in pairwise(sorted({moment for job in run for moment in (job.started, job.ended)})):
            running = [job for job in run if job.started <= begin and end <= job.ended]
            for job in running:
                parts[job.job] += (end - begin) * job.threads / sum(other.threads for other in running)
    return dict(parts)


def idle_seconds(records: Iterable[Times]) -> float:
    """Return the seconds in which no job ran: Snakemake started, chose jobs, or looked at their files."""
    return sum(_span(run) - covered_seconds((job.started, job.ended) for job in run) for run in by_driver(records))


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


def _span(run: list[Times]) -> float:
    """Return the seconds from the start of Snakemake to the end of its last step."""
    return max(job.ended for job in run) - run[0].driver_started


def read_rates(path: str | Path) -> dict[str, float]:
    """Return the rates a second by operation, and `threads`, their cores; KnnlmError unless the file has them all."""
    again = "run `snakemake performance` again"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rates = {row["operation"]: float(row["rate"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnnlmError(f"{path}: not a readable table of rates ({error}); {again}.") from None
    missing = [name for name in OPERATIONS if not rates.get(name, 0) > 0]
    if missing:
        raise KnnlmError(f"{path}: has no rate above 0 of {', '.join(missing)}; {again}.")
    return rates


def predicted_seconds(run: Run, rates: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each stage and of Snakemake; `total` is without TRAINED, as a plain `snakemake` runs."""
    longest, busy, untrained = defaultdict(float), defaultdict(float), 0
    for job in jobs(run):
        seconds, part = job_seconds(run, job, rates)
        place = job.stage, job.rule
        longest[place] = max(longest[place], seconds)
        busy[place] += part * seconds
        untrained += job.stage != TRAINED
    found = defaultdict(float, {"hypotheses": 0.0, TRAINED: 0.0})  # which may have no jobs
    for stage, rule in longest:
        found[stage] += max(longest[stage, rule], busy[stage, rule])
    return _with_total(found | {SNAKEMAKE: SNAKEMAKE_START + SNAKEMAKE_JOB * untrained})


def job_seconds(run: Run, job: Job, rates: dict[str, float]) -> tuple[float, float]:
    """Return the seconds that a job takes, and the share of the machine that it keeps busy: of its GPUs, if it has any.

    The machine has as many GPUs as the largest of the config's jobs asks for.
    """
    gpus, threads = devices_of(run.config, job.rule, job.wildcards)[0], threads_of(run, job.rule, job.wildcards)
    most_gpus = max(run.config["resources"][key] for key in ("training_gpus", "gpus"))
    threads = min(rates["threads"], threads)
    part = threads / rates["threads"]
    speeds = {operation: rate * (gpus or part) for operation, rate in rates.items()} | CONSTANT  # rates are of one GPU
    speeds |= {operation: rate * threads for operation, rate in OF_A_CORE.items()} | {"disk_bytes": rates["disk_bytes"]}
    speeds["training_half_flops"] = speeds["training_flops"]  # measured in the precision that the config asks for
    amounts = RULES[job.rule](run, job.wildcards).likely
    seconds = sum(amount / speeds[operation] for operation, amount in amounts.items())
    return STARTS.get(job.rule, FAISS_OR_PANDAS) + seconds, gpus / most_gpus if gpus else part


def measured_seconds(run: Run, times: list[Times]) -> dict[str, float]:
    """Return the seconds that each stage took, if all its jobs have left their times; `total` if all have."""
    parts, names = wall_seconds(times), defaultdict(list)
    for job in jobs(run):
        names[job.stage].append(job.name)
    left = {stage: expected for stage, expected in names.items() if set(expected) <= parts.keys()}
    found = {stage: sum(parts[name] for name in expected) for stage, expected in left.items()}
    return _with_total(found | {SNAKEMAKE: idle_seconds(times)}) if names.keys() - {TRAINED} <= found.keys() else found


def _with_total(seconds: dict[str, float]) -> dict[str, float]:
    return seconds | {"total": sum(part for stage, part in seconds.items() if stage != TRAINED)}
