"""How long a run will take on a machine whose rates `snakemake performance` has measured, and how long it took.

A job takes what it needs to start, and its amounts over their rates, which grow with its threads. A rule takes as long
as its longest job, and no less than its jobs take on a machine all of whose cores are busy; a stage takes the sum over
its rules, and the run the sum over its stages.
"""

import csv
from collections import defaultdict
from pathlib import Path

from knnlm.cost.hypotheses import TRAINING_SECONDS
from knnlm.cost.plan import SNAKEMAKE
from knnlm.cost.requests import devices_of, threads_of
from knnlm.cost.rules import RULES, TRAINED, Job, jobs
from knnlm.cost.sizes import Run
from knnlm.cost.step_times import Times, idle_seconds, wall_seconds
from knnlm.errors import KnnlmError

UNITS = dict.fromkeys(("training_flops", "states_flops", "exact_flops", "choosing_flops"), "FLOP/s")  # of rates
UNITS |= {"lookups": "look-ups/s", "real_score_bytes": "bytes/s", "neighbour_terms": "terms/s", "head_flops": "FLOP/s"}
UNITS |= {"disk_bytes": "bytes/s", "threads": "threads"}
OPERATIONS = tuple(UNITS)
# Rates that nobody measures, a second of one core. Set them, and the starts below, by the times that the demo's jobs
# have left: `snakemake plan` shows these beside the predicted ones.
CONSTANT = {"corpus_text_bytes": 2e6, "bpe_bytes": 5e5, "binarise_bytes": 2e6}
CONSTANT |= {"table_operations": 1e9, "counted_tokens": 5e6, "seconds": 1.0}
TOKENISED_BYTES = 2e5  # a second, of each core
FAISS_OR_PANDAS, TORCH = 0.7, 2.0  # seconds from a job's start to its step's first own line, by the heaviest import
FAIRSEQ, FIGURE = 2.5, 1.0  # seconds to import fairseq, where a step does so later; to draw a figure and write it
STARTS = {"binarise": FAISS_OR_PANDAS + FAIRSEQ, "train_lm": FAISS_OR_PANDAS + TRAINING_SECONDS}
STARTS |= {"plot": FAISS_OR_PANDAS + FIGURE}  # of rules that are not here FAISS_OR_PANDAS
STARTS |= dict.fromkeys(("evaluation_states", "datastore_chunk"), TORCH + FAIRSEQ)
STARTS |= dict.fromkeys(("retrieve_exact", "retrieve_approximate", "training_neighbours"), TORCH)
STARTS |= dict.fromkeys(("knn_components", "hypothesis"), TORCH)
SNAKEMAKE_START, SNAKEMAKE_JOB = 3.0, 0.1  # seconds in which no job runs: at its start, and for each job


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
    """Return the seconds that a job takes, and the share of the machine that it keeps busy: all, if it has GPUs."""
    gpus, threads = devices_of(run.config, job.rule, job.wildcards)[0], threads_of(run, job.rule, job.wildcards)
    threads = min(rates["threads"], threads)
    part = threads / rates["threads"]
    speeds = {operation: rate * (gpus or part) for operation, rate in rates.items()} | CONSTANT  # rates are of one GPU
    speeds |= {"tokenise_bytes": TOKENISED_BYTES * threads, "disk_bytes": rates["disk_bytes"]}
    speeds["training_half_flops"] = speeds["training_flops"]  # measured in the precision that the config asks for
    amounts = RULES[job.rule](run, job.wildcards).likely
    seconds = sum(amount / speeds[operation] for operation, amount in amounts.items())
    return STARTS.get(job.rule, FAISS_OR_PANDAS) + seconds, 1.0 if gpus else part


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
