"""What each job takes, from the same estimates as the plan, and what it asks for: memory, time, disk and threads, doubled with each further attempt.

Rates are on the slow side of what is usual: a job that asks for too much time starts later, one that asks for too little is killed.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from knnlm.config.checks import most_training_tokens
from knnlm.cost import plan
from knnlm.cost.hypothesis_sizes import Work, hypothesis, training, training_neighbours
from knnlm.cost.plan import HALF, SINGLE, Run
from knnlm.hypotheses import registry
from knnlm.retrieval.query_blocks import block_edges

CORE_FLOPS = 1e10  # matrix products on one CPU core; the demo's training and exact search, 4 minutes each on two cores, do four times as many
GPU_FLOPS = 5e12  # float32 on one GPU: a third of the peak of NVIDIA's V100 by its data sheet, 15.7e12
GPU_HALF_FLOPS = 15e12  # float16 in training: an eighth of the peak of the same GPU's tensor cores, 125e12
CORE_OPERATIONS = 5e8  # all else, such as look-ups of codes and terms of a softmax, on one core
DISK_BYTES = 1e8  # a second, of a file system that many share
TEXT_BYTES = 1e5  # a second, of one core that tokenises
STARTING_SECONDS = 600  # of the least that any job asks for: interpreter, libraries, a slow file system
LIBRARY_BYTES = 1.5e9  # of a process that has loaded Python, torch, FAISS and fairseq
GPU_PROCESS_BYTES = 3e9  # of the host's memory for each GPU: CUDA's context and pinned buffers
MEMORY_FACTOR = 1.5  # the plan's memory is meant to be right within a factor of two
SECONDS_WORTH_A_THREAD = 15  # of one core: smaller jobs run side by side instead
THREADS_OF_A_GPU = 8
BYTES_PER_TOKEN = 6  # of text; WikiText-103 has 4.8
GPU_JOBS = ("evaluation_states", "datastore_chunk", "retrieve_exact", "retrieve_approximate", "measure_performance")
WIKITEXT103 = {
    "train": 112735284,
    "valid": 237669,
    "test": 268161,
}  # tokens of 32,000 merges, where the config does not tell and the text is not there


def tokens_of(config: dict, manifest: str | Path) -> tuple[dict[str, int], int | None]:
    """Return tokens of each split and types: those of the corpus if its manifest is there, else the config's, else no fewer than there can be.

    The types are None where nobody has counted them.
    """
    try:
        facts = json.loads(Path(manifest).read_text(encoding="utf-8"))
        return facts["tokens"], facts["vocabulary_size"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # the steps that trust the manifest will say what is wrong with it
        if config["corpus"]["token_counts"] is not None:
            return config["corpus"]["token_counts"], None
    most = most_training_tokens(config)
    return (dict.fromkeys(WIKITEXT103, most) if most else WIKITEXT103), None


def run_of(config: dict, tokens: dict[str, int], vocabulary: int | None) -> Run:
    """Return the sizes that all jobs are computed from."""
    return Run(config, tokens, vocabulary or plan.estimated_vocabulary(config["corpus"]["bpe_merges"]))


@dataclass(frozen=True)
class Request:
    """What a job asks for: GPUs; megabytes (10⁶ bytes) of memory and disk; minutes; CPU threads; memory and threads of each of its nodes.

    A job on one node counts its GPUs in `gpu`; one on several names those of each node in `gres`, since a number alone could be spread unevenly.
    """

    gpu: int
    gres: str
    nodes: int
    mem_mb: int
    disk_mb: int
    runtime: int
    threads: int

    @property
    def mpi(self) -> str | None:
        """How the step starts a process on each of several nodes, which makes the executor leave that to it."""
        return "srun" if self.nodes > 1 else None

    @property
    def tasks(self) -> int | None:
        """One task for each of several nodes."""
        return self.nodes if self.nodes > 1 else None

    @property
    def tasks_per_gpu(self) -> int | None:
        """None for each GPU, which the executor would make of `tasks`."""
        return 0 if self.nodes > 1 else None


def threads_for(work: Work, gpus: int, most: int) -> int:
    """Return the CPU threads that pay for a job with so many GPUs on each node."""
    if gpus:
        return min(most, THREADS_OF_A_GPU * gpus)
    seconds = (work.flops + work.half_flops) / CORE_FLOPS + work.operations / CORE_OPERATIONS
    return max(1, min(most, math.ceil(seconds / SECONDS_WORTH_A_THREAD)))


def request(work: Work, gpus: int, nodes: int, threads: int, attempt: int) -> Request:
    """Return what a job on `gpus` GPUs, those of all its nodes, asks for at this attempt."""
    on_cores, on_gpus = (
        (work.flops + work.half_flops) / CORE_FLOPS,
        work.flops / GPU_FLOPS + work.half_flops / GPU_HALF_FLOPS,
    )
    seconds = on_gpus / gpus if gpus else on_cores / threads
    seconds += work.operations / (CORE_OPERATIONS * threads) + work.moved_bytes / DISK_BYTES + work.serial_seconds
    memory = LIBRARY_BYTES + GPU_PROCESS_BYTES * gpus // nodes + MEMORY_FACTOR * work.memory_bytes
    minutes, more = math.ceil((STARTING_SECONDS + seconds) / 60), 2 ** (attempt - 1)
    gpu, gres = (gpus, "") if nodes == 1 else (0, f"gpu:{gpus // nodes}")
    disk = math.ceil((work.disk_bytes + work.passing_bytes) / 1e6)
    return Request(gpu, gres, nodes, math.ceil(memory / 1e6) * more, disk, minutes * more, threads)


def devices_of(config: dict, job: str, wildcards: dict) -> tuple[int, int]:
    """Return the GPUs that a job asks for, 0 for one that could not use any, and its nodes."""
    resources, name = config["resources"], wildcards["hypothesis"] if job == "hypothesis" else None
    if job == "train_lm" or (name and "training" in registry.needs(config, name)):
        return resources["training_gpus"], resources["training_nodes"]
    return resources["gpus"] if job in GPU_JOBS or (name and registry.uses_device(config, name)) else 0, 1


def asked(config: dict, manifest: str | Path, job: str, wildcards: dict, attempt: int) -> Request:
    """Return what a job asks for at this attempt; `job` is a rule's name, `manifest` that of the corpus's tokens, there or not."""
    run, (gpus, nodes) = run_of(config, *tokens_of(config, manifest)), devices_of(config, job, wildcards)
    return request(WORK[job](run, wildcards), gpus, nodes, threads_of(run, job, wildcards), attempt)


def threads_of(run: Run, job: str, wildcards: dict) -> int:
    """Return the CPU threads that a job asks for: those of an undivided search, as with another number of them a matrix product may round otherwise."""
    resources, (gpus, nodes) = run.config["resources"], devices_of(run.config, job, wildcards)
    undivided = replace(run, config={**run.config, "resources": resources | {"query_blocks": 1}})
    return threads_for(WORK[job](undivided, wildcards), gpus // nodes, resources["threads"])


def of_pair(run: Run, wildcards: dict) -> Run:
    """Return the run as if it retrieved with one hidden state and metric alone."""
    retrieval = run.config["retrieval"] | {"h": [wildcards["h"]], "metrics": [wildcards["metric"]]}
    return replace(run, config={**run.config, "retrieval": retrieval})


def of_block(run: Run, wildcards: dict) -> Run:
    """Return the run of one hidden state and metric as if there were no more queries than in the largest block of them."""
    edges = block_edges(run.evaluated, run.config["resources"]["query_blocks"])
    largest = max(end - begin for begin, end in pairwise(edges))
    return of_pair(replace(run, tokens=run.tokens | {"valid": largest, "test": 0}), wildcards)


def text(run: Run, wildcards: dict) -> Work:
    """Work of a step that reads the text and writes it in another form: as a stream, but for the distinct words and the line borders."""
    size = BYTES_PER_TOKEN * sum(run.tokens.values())
    return Work(
        memory_bytes=size, disk_bytes=2 * size, moved_bytes=4 * size, operations=size / TEXT_BYTES * CORE_OPERATIONS
    )


def train_lm(run: Run, wildcards: dict) -> Work:
    """Work of the base LM's training."""
    return training(run)


def evaluation_states(run: Run, wildcards: dict) -> Work:
    """Work of running the LM over valid and test."""
    stage = plan.states(run)
    return Work(stage.memory_bytes, stage.disk_bytes, stage.flops, moved_bytes=stage.disk_bytes)


def datastore_chunk(run: Run, wildcards: dict) -> Work:
    """Work of one chunk: its share of all rows."""
    stage, share = plan.datastore(run), run.chunk_rows / run.tokens["train"]
    return Work(
        stage.memory_bytes, share * stage.disk_bytes, share * stage.flops, moved_bytes=2 * share * stage.disk_bytes
    )


def train_index(run: Run, wildcards: dict) -> Work:
    """Work of training one index."""
    stage = plan.index_training(run)
    return Work(stage.memory_bytes, stage.disk_bytes, stage.flops, moved_bytes=HALF * stage.rows * run.width)


def fill_index(run: Run, wildcards: dict) -> Work:
    """Work of adding one chunk to an index."""
    stage, share = plan.index_filling(run), run.chunk_rows / run.tokens["train"]
    return Work(
        stage.memory_bytes,
        share * stage.disk_bytes,
        share * stage.flops,
        moved_bytes=share * HALF * run.tokens["train"] * run.width,
    )


def retrieve_exact(run: Run, wildcards: dict) -> Work:
    """Work of one block of queries with one hidden state and metric; all keys of the store are read."""
    run = of_block(run, wildcards)
    stage = plan.exact_retrieval(run)
    merging = run.evaluated * run.k * plan.OPERATIONS_PER_NEIGHBOUR * run.tokens["train"] / plan.BLOCK_KEYS
    return Work(
        stage.memory_bytes,
        stage.disk_bytes,
        stage.flops,
        operations=merging,
        moved_bytes=HALF * run.tokens["train"] * run.width + stage.disk_bytes,
    )


def retrieve_approximate(run: Run, wildcards: dict) -> Work:
    """Work of one block of queries with one hidden state and metric: the lists, at every fraction, and the keys of the store for real scores."""
    run = of_block(run, wildcards)
    search, scores = plan.approximate_retrieval(run), plan.real_scores(run)
    scanned = plan.scanned(run)
    written = search.disk_bytes + scores.disk_bytes
    read = 2 * HALF * run.tokens["train"] * run.width + plan.list_bytes(run, run.factory.code_bytes)
    flops, joined = scores.flops + search.flops - scanned, plan.joined_bytes(run)
    return Work(
        scores.memory_bytes, written, flops, operations=scanned, moved_bytes=read + written, passing_bytes=joined
    )


def join_neighbours(run: Run, wildcards: dict) -> Work:
    """Work of writing the blocks of one retrieval behind one another."""
    stage = plan.exact_retrieval(of_pair(run, wildcards))
    return Work(run.largest_split * run.k * SINGLE, 1.5 * stage.disk_bytes, moved_bytes=3 * stage.disk_bytes)


def knn_components(run: Run, wildcards: dict) -> Work:
    """Work of the components of one retrieval."""
    stage = plan.components(of_pair(run, wildcards))
    return Work(stage.memory_bytes, stage.disk_bytes, operations=stage.flops)


def tables(run: Run, wildcards: dict) -> Work:
    """Work of all tables; as many components again as the main result's for each hypothesis."""
    stage, times = plan.tables(run), 1 + len(run.config["hypotheses"])
    return Work(
        times * stage.memory_bytes, times * stage.disk_bytes, serial_seconds=times * stage.flops / CORE_OPERATIONS
    )


def helped_tokens(run: Run, wildcards: dict) -> Work:
    """Work of the tables of tokens: the counts of the training text, and several columns of both splits."""
    return Work(
        3 * SINGLE * run.tokens["train"] + 20 * 8 * run.evaluated,
        disk_bytes=1e6,
        serial_seconds=20 * run.tokens["train"] / CORE_OPERATIONS,
    )


def measure_performance(run: Run, wildcards: dict) -> Work:
    """Work of measuring every stage: a training of few updates, and searches of synthetic stores whose largest has eight times the rows of the smallest."""
    wanted, keys = run.config["performance"], run.config["performance"]["rows"] * run.width
    memory = max(plan.training(run).memory_bytes, 4 * SINGLE * keys)
    return Work(
        memory,
        disk_bytes=3 * 8 * HALF * keys,
        moved_bytes=20 * 8 * HALF * keys,
        serial_seconds=900 + 200 * wanted["pairs"] * wanted["seconds"],
    )


WORK: dict[str, Callable[[Run, dict], Work]] = {
    **dict.fromkeys(("corpus_text", "tokenise", "bpe", "binarise"), text),
    **{
        function.__name__: function
        for function in (
            train_lm, evaluation_states, datastore_chunk, train_index, fill_index, retrieve_exact, retrieve_approximate, join_neighbours,
            knn_components, tables, helped_tokens, hypothesis, training_neighbours, measure_performance,
        )
    },
}  # fmt: skip
