"""What a job asks the scheduler for: memory and time, twice as much with each further attempt, disk, threads and GPUs.

Rates are on the slow side: a job that asks for too much time starts later, one that asks for too little is killed.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from knnlm.cost.rules import RULES, TEXT_RULES
from knnlm.cost.sizes import Run, run_of, tokens_of
from knnlm.cost.stages import BESIDE_A_GPU, OPERATIONS_OF, PRODUCTS, TRAINING, Work
from knnlm.datastore.factory import parse_factory
from knnlm.hypotheses import registry

CORE_FLOPS = 1e10  # matrix products on one CPU core: a quarter of what the demo's training and exact search do
# Of one GPU. At the paper's sizes an H200 does 29e12 in states, 114e12 in heads, 117e12 in training.
GPU_FLOPS = 5e12  # float32: a third of the peak of NVIDIA's V100 by its data sheet, 15.7e12
GPU_HALF_FLOPS = 15e12  # float16 in training: an eighth of the peak of the same GPU's tensor cores, 125e12
GPU_LOOKUPS = 2e10  # of codes in a block's tables; an H200 did as many in lists of 128 rows, too short to keep it busy
CORE_OPERATIONS = 5e8  # all else, such as look-ups of codes and terms of a softmax, on one core

# Amounts a second by kind: of one GPU, of each core that a job has, of one core alone, of a shared file system. Kinds
# that are in none of these tables take no time.
ON_GPU = dict.fromkeys((*TRAINING, *PRODUCTS), GPU_FLOPS) | {"training_half_flops": GPU_HALF_FLOPS}
ON_GPU |= {"real_score_bytes": GPU_FLOPS / OPERATIONS_OF["real_score_bytes"], "lookups": GPU_LOOKUPS}
ON_CORES = dict.fromkeys((*TRAINING, *PRODUCTS), CORE_FLOPS) | {f"{rule}_bytes": 1e5 for rule in TEXT_RULES}
ON_CORES |= {"lookups": CORE_OPERATIONS, "real_score_bytes": CORE_FLOPS / OPERATIONS_OF["real_score_bytes"]}
ON_CORES |= {beside: ON_CORES[kind] for kind, beside in BESIDE_A_GPU.items()}
ON_CORES |= dict.fromkeys(("neighbour_terms", "merged_neighbours"), CORE_OPERATIONS / OPERATIONS_OF["neighbour_terms"])
ON_ONE_CORE = {"table_operations": CORE_OPERATIONS, "counted_tokens": CORE_OPERATIONS / 20, "measuring_seconds": 1.0}
ON_DISK = {"disk_bytes": 1e8}

STARTING_SECONDS = 600  # of the least that any job asks for: interpreter, libraries, a slow file system
LIBRARY_BYTES = 1.5e9  # of a process that has loaded Python, torch, FAISS and fairseq
GPU_PROCESS_BYTES = 3e9  # of the host's memory for each GPU: CUDA's context and pinned buffers
MEMORY_FACTOR = 1.5  # a stage's memory is meant to be right within a factor of two
# Seconds of one core that are worth a thread: of a job that the whole run waits for, and of any other. Others run side
# by side: two jobs with one thread each are done sooner than one after the other with two threads.
SECONDS_WORTH_A_THREAD, SECONDS_BESIDE_OTHERS = 15, 600
WAITED_FOR = (*TEXT_RULES, "train_lm")
THREADS_OF_A_GPU = 4  # for what it leaves to the CPU, and for reading and writing
INDEX_RULES = ("train_index", "fill_index", "retrieve_approximate", "training_neighbours")
GPU_RULES = (*INDEX_RULES, "evaluation_states", "datastore_chunk", "retrieve_exact", "measure_performance")


@dataclass(frozen=True)
class Request:
    """What a job asks for: GPUs, megabytes (10⁶ bytes), minutes, CPU threads; memory and threads are of each node."""

    gpu: int  # on one node; several nodes have `gres`
    gres: str  # of each of several nodes: a number alone could be spread unevenly
    nodes: int
    mem_mb: int
    disk_mb: int
    runtime: int
    threads: int
    mpi: str | None  # starts a process of the step on each of several nodes
    tasks: int | None  # one for each of several nodes
    tasks_per_gpu: int | None  # none, which the executor would make of `tasks`


def asked(config: dict, manifest: str | Path, rule: str, wildcards: dict, attempt: int) -> Request:
    """Return what a job of a rule asks for at this attempt; `manifest` is that of the corpus's tokens, there or not."""
    run, (gpus, nodes) = run_of(config, *tokens_of(config, manifest)), devices_of(config, rule, wildcards)
    return request(RULES[rule](run, wildcards), gpus, nodes, threads_of(run, rule, wildcards), attempt)


def request(work: Work, gpus: int, nodes: int, threads: int, attempt: int) -> Request:
    """Return what a job on `gpus` GPUs, those of all its nodes, asks for at this attempt."""
    seconds = seconds_of(work.asked_for, gpus, threads)
    memory = LIBRARY_BYTES + GPU_PROCESS_BYTES * gpus // nodes + MEMORY_FACTOR * work.memory_bytes
    minutes, more = math.ceil((STARTING_SECONDS + seconds) / 60), 2 ** (attempt - 1)
    disk = math.ceil((work.disk_bytes + work.passing_bytes) / 1e6)
    of_several = (0, f"gpu:{gpus // nodes}", "srun", nodes, 0)
    gpu, gres, *of_tasks = (gpus, "", None, None, None) if nodes == 1 else of_several
    return Request(gpu, gres, nodes, math.ceil(memory / 1e6) * more, disk, minutes * more, threads, *of_tasks)


def seconds_of(amounts: Counter, gpus: int, threads: int) -> float:
    """Return the seconds that a job with so many GPUs and threads takes at most for these amounts."""
    on_gpus = ON_GPU if gpus else {}
    on_cores = {kind: rate for kind, rate in ON_CORES.items() if kind not in on_gpus}
    alone = _seconds(amounts, ON_ONE_CORE) + _seconds(amounts, ON_DISK)
    return _seconds(amounts, on_gpus) / max(1, gpus) + _seconds(amounts, on_cores) / threads + alone


def threads_for(work: Work, gpus: int, most: int, worth: float = SECONDS_WORTH_A_THREAD) -> int:
    """Return the CPU threads that pay for a job with so many GPUs on each node: one for each `worth` seconds."""
    if gpus:
        return min(most, THREADS_OF_A_GPU * gpus)
    return max(1, min(most, math.ceil(_seconds(work.likely, ON_CORES) / worth)))


def threads_beside_others(rule: str, threads: int, cores: int) -> int:
    """Return how many of a job's threads it takes on one machine: half of its cores, where others can run beside it."""
    return threads if rule in WAITED_FOR else min(threads, max(1, cores // 2))


def threads_of(run: Run, rule: str, wildcards: dict) -> int:
    """Return the CPU threads that a job asks for; a block of a search has those of the undivided search."""
    gpus, nodes = devices_of(run.config, rule, wildcards)  # with other threads a matrix product may round otherwise
    undivided = RULES[rule](run.with_config("resources", query_blocks=1), wildcards)
    worth = SECONDS_WORTH_A_THREAD if rule in WAITED_FOR else SECONDS_BESIDE_OTHERS
    return threads_for(undivided, gpus // nodes, run.config["resources"]["threads"], worth)


def devices_of(config: dict, rule: str, wildcards: dict) -> tuple[int, int]:
    """Return the GPUs that a job asks for, 0 for one that could not use any, and its nodes."""
    resources, name = config["resources"], wildcards["hypothesis"] if rule == "hypothesis" else None
    if rule == "train_lm" or (name and "training" in registry.needs(config, name)):
        return resources["training_gpus"], resources["training_nodes"]
    uses_one = rule in GPU_RULES or (name and registry.uses_device(config, name))
    return resources["gpus"] if uses_one and not index_on_cpu(config, rule, wildcards) else 0, 1


def index_on_cpu(config: dict, rule: str, wildcards: dict) -> str | None:
    """Say why FAISS cannot do the job of a rule on a GPU; None where it can, or the rule has no index."""
    if rule not in INDEX_RULES:
        return None
    k, nprobe = config["retrieval"]["k"], config["index"]["nprobe"]
    if rule == "training_neighbours":
        settings = config["hypotheses"][wildcards["hypothesis"]]["settings"]
        k, nprobe = settings["k"] + 1, settings["nprobe"]
    chosen = (k, nprobe) if rule in ("retrieve_approximate", "training_neighbours") else ()
    return parse_factory(config["index"]["factory"], config["lm"]["architecture"]["width"]).not_on_gpu(*chosen)


def _seconds(amounts: Counter, rates: dict[str, float]) -> float:
    """Return the seconds of those amounts that have a rate."""
    return sum(amount / rates[kind] for kind, amount in amounts.items() if kind in rates)
