"""What each stage of a run takes, over all its jobs: the formulas behind the plan, the jobs' requests and the hours.

In comments d is the width, f the inner width, V the types. Bytes on disk and rows are exact for the files they count;
memory and operations are estimates, meant to be right within a factor of two.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from knnlm.components.catalogue import GRID_STEP, real_score_fractions, searched_fractions
from knnlm.cost.sizes import HALF, SINGLE, Run, forward_flops, tokens_per_update
from knnlm.datastore.factory import ID_BYTES, PQ_CENTROIDS, ROWS_AT_ONCE, IndexFactory
from knnlm.retrieval.blocks import BLOCK_KEYS, KEYS_AT_ONCE, QUERIES_AT_ONCE, WIDER

KEY_TYPES = 2  # att and ffn are both stored, whichever is retrieved
TOKENS_AT_ONCE = 4096  # positions of a batch of states and of its softmax
COARSE_ITERATIONS, PQ_ITERATIONS, PQ_TRAINING_ROWS = 10, 25, 65536  # FAISS's defaults for k-means
TEMPERATURES_SEARCHED = 10  # evaluations of the one-dimensional search beside the grid
OPERATIONS_OF_A_COMPONENT = 2000  # for a token of valid: λ, all mixtures, and its part in the greedy order
COMPONENTS_HELD = 15  # at most, beside the base LM
BYTES_PER_TABLE_ROW = 250
# Operations of one of each kind, a multiply-add counted as two; all other kinds count for none in the plan.
TRAINING = ("training_flops", "training_half_flops")  # the second where a GPU makes them in float16
PRODUCTS = ("states_flops", "exact_flops", "choosing_flops", "head_flops")
BESIDE_A_GPU = {"exact_flops": "exact_flops_on_cpu", "lookups": "lookups_on_cpu"}  # by a job with GPUs, on its cores
OPERATIONS_OF = {
    **dict.fromkeys((*TRAINING, *PRODUCTS, *BESIDE_A_GPU.values(), "lookups", "table_operations"), 1),
    "real_score_bytes": 1 / 2,  # a key's number of four bytes is multiplied and added
    "neighbour_terms": 10,  # of the kNN softmax, the exponential included
}


@dataclass(frozen=True)
class Work:
    """What a job or a stage takes: plan, requests and hours, by measured or constant rates, are read from it."""

    memory_bytes: float = 0  # of its largest process
    disk_bytes: float = 0  # of files that stay
    likely: Counter = field(default_factory=Counter)  # operations by kind
    spare: Counter = field(default_factory=Counter)  # those that rates leave out or only the largest job does
    passing_bytes: float = 0  # of files that are gone when it ends
    rows: int | None = None  # what a stage counts by: tokens, keys, queries, table rows

    def __add__(self, other: "Work") -> "Work":
        """Return both, one after the other; the rows are those of this."""
        memory, passing = max(self.memory_bytes, other.memory_bytes), max(self.passing_bytes, other.passing_bytes)
        disk, likely, spare = self.disk_bytes + other.disk_bytes, self.likely + other.likely, self.spare + other.spare
        return Work(memory, disk, likely, spare, passing, self.rows)

    def share(self, likely: float, most: float) -> "Work":
        """Return a part or a multiple of this work, in the same memory; a job asks time and disk for `most` of it."""
        done = Counter({kind: likely * amount for kind, amount in self.likely.items()})
        more = Counter({kind: most * amount for kind, amount in self.asked_for.items()}) - done
        return Work(self.memory_bytes, most * self.disk_bytes, done, more, self.passing_bytes, self.rows)

    @property
    def asked_for(self) -> Counter:
        """All operations that a job asks time for, by kind."""
        return self.likely + self.spare

    @property
    def flops(self) -> float:
        """All operations of those kinds that the plan counts."""
        return float(sum(OPERATIONS_OF.get(kind, 0) * amount for kind, amount in self.asked_for.items()))


def training(run: Run) -> Work:
    """Train the base LM; memory is that of one device."""
    settings, architecture = run.config["lm"]["training"], run.config["lm"]["architecture"]
    moments, size = 2 if settings["optimiser"] == "adam" else 1, HALF if settings["fp16"] else SINGLE
    length, seen = settings["tokens_per_sample"], settings["updates"] * tokens_per_update(run.config)
    # Activations of a token: in each layer 10d + 2f values and 3 attention weights for each head and position; V logits
    # with their float32 softmax and gradient.
    layer = size * (10 * run.width + 2 * architecture["feed_forward_width"] + 3 * architecture["heads"] * length)
    token = architecture["layers"] * layer + run.vocabulary * (size + 2 * SINGLE)
    weights = SINGLE * run.parameters * (2 + moments + settings["fp16"])  # gradient, moments, a float16 copy
    disk = run.parameters * (SINGLE + 3 * (size + SINGLE * moments))  # the model and three checkpoints
    flops = 3.0 * seen * forward_flops(architecture, length, run.vocabulary)  # the backward pass takes two
    done = Counter({TRAINING[settings["fp16"]]: flops})
    return Work(weights + settings["batch_samples"] * length * token, disk, done, rows=seen)


def training_job(run: Run) -> Work:
    """Train the base LM and validate it; with GPUs each process holds a checkpoint and the weights in host memory."""
    settings, resources, work = run.config["lm"]["training"], run.config["resources"], training(run)
    processes, weights = resources["training_gpus"] // resources["training_nodes"], SINGLE * run.parameters
    memory = processes * ((work.disk_bytes - weights) / 3 + weights) if processes else work.memory_bytes
    forward = forward_flops(run.config["lm"]["architecture"], settings["tokens_per_sample"], run.vocabulary)
    validated = settings["updates"] / settings["validate_every"] * run.tokens["valid"] * forward
    return Work(memory, work.disk_bytes, work.likely + Counter({TRAINING[settings["fp16"]]: validated}))


def states(run: Run) -> Work:
    """Run the LM over valid and test: forward over context and new tokens, with logits for the new ones only."""
    length, new = run.windows["evaluation"]
    row = KEY_TYPES * HALF * run.width
    forward = length / new * forward_flops(run.config["lm"]["architecture"], length) + 2 * run.width * run.vocabulary
    logits = 2 * SINGLE * TOKENS_AT_ONCE * run.vocabulary
    memory = run.largest_split * row + _model_memory(run, length) + logits
    done, written = Counter(states_flops=run.evaluated * forward), run.evaluated * row
    return Work(memory, written, done, Counter(disk_bytes=written), rows=run.evaluated)


def datastore(run: Run) -> Work:
    """Run the LM over train and store keys and values; a job asks time to write them and to shuffle them."""
    length, new = run.windows["train"]
    row = KEY_TYPES * HALF * run.width + SINGLE + 8  # keys, value and an int64 position
    memory = run.chunk_rows * (row + HALF * run.width) + _model_memory(run, length)  # a shuffled copy of one key type
    flops = run.train * length / new * forward_flops(run.config["lm"]["architecture"], length)
    done, written = Counter(states_flops=flops), run.train * row
    return Work(memory, written, done, Counter(disk_bytes=2 * written), rows=run.train)


def times_saved_by_states(run: Run) -> float:
    """Return what an epoch of a V×D output embedding takes with the LM before it: (6dV + forward of a row) / 6dV."""
    return 1 + datastore(run).flops / run.train / (6.0 * run.width * run.vocabulary)


def index(run: Run) -> Work:
    """Train and fill one index for each hidden state and metric."""
    return (index_filling(run) + index_training(run)).share(len(run.pairs), len(run.pairs))


def index_training(run: Run) -> Work:
    """Train one index: k-means for its lists on at most 256 rows a list, and for PQ on at most 65,536 rows."""
    sampled, lists = min(run.config["index"]["training_rows"], run.train), run.factory.lists
    coarse = 2 * COARSE_ITERATIONS * min(sampled, 256 * lists) * lists * run.width
    fine = 2 * PQ_ITERATIONS * min(sampled, PQ_TRAINING_ROWS) * run.codewords * run.width
    memory = run.centroid_bytes + 2 * SINGLE * sampled * run.width  # the sample in float32 and a copy
    done, read = Counter(exact_flops=coarse + fine), Counter(disk_bytes=HALF * sampled * run.width)
    return Work(memory, run.centroid_bytes, done, read, rows=sampled)


def index_filling(run: Run) -> Work:
    """Fill one trained index, chunk by chunk: compare each key with the centroids of lists and codes."""
    row = run.factory.code_bytes + ID_BYTES
    memory = run.centroid_bytes + run.chunk_rows * row + ROWS_AT_ONCE * run.width * (SINGLE + HALF)
    flops = 2.0 * run.train * (run.factory.lists + run.codewords) * run.width
    written = run.train * row + run.chunks * run.centroid_bytes  # every chunk's file has the centroids
    read = Counter(disk_bytes=HALF * run.train * run.width)
    return Work(memory, written, Counter(exact_flops=flops), read, rows=run.train)


def exact_retrieval(run: Run) -> Work:
    """Search all keys for each hidden state and metric, all fractions in one pass, and merge what each block has."""
    # A block of keys is held as stored, in float32 and as factors, which may be float32.
    keys = min(BLOCK_KEYS, run.train) * (run.width * (SINGLE + HALF) + (run.width + WIDER) * SINGLE)
    flops = 2.0 * len(run.pairs) * run.evaluated * run.train * run.width
    merged = run.evaluated * run.k * run.train / BLOCK_KEYS
    spare = Counter(merged_neighbours=merged, disk_bytes=HALF * run.train * run.width)
    done = Counter(exact_flops=flops, disk_bytes=run.found_bytes)
    return Work(_queries_and_neighbours(run) + keys, run.found_bytes, done, spare, rows=run.evaluated)


def approximate_retrieval(run: Run) -> Work:
    """Search the indexes, fraction after fraction: lists are chosen at each, and scanned once for all, on disk."""
    sizes = run.factory, run.evaluated, run.config["index"]["nprobe"]
    lookups = len(run.pairs) * looked_up(*sizes, run.train)
    done = Counter(choosing_flops=run.searches * choosing(*sizes), lookups=lookups)
    done["disk_bytes"] = run.found_bytes
    lists = Counter(disk_bytes=run.list_bytes)
    return Work(_approximate_memory(run), run.found_bytes, done, lists, joined_bytes(run), run.evaluated)


def real_scores(run: Run) -> Work:
    """Score the neighbours that FAISS found with their stored keys, all read at the least and the largest fraction."""
    scored = sum(len(real_score_fractions(run.config, *pair)) for pair in run.pairs) * run.evaluated * run.k
    keys = min(KEYS_AT_ONCE, run.train) * run.width * (SINGLE + HALF)
    done = Counter(real_score_bytes=SINGLE * run.width * scored, disk_bytes=SINGLE * scored)
    memory = _approximate_memory(run) + SINGLE * run.evaluated * run.k + keys
    return Work(memory, SINGLE * scored, done, Counter(disk_bytes=2 * HALF * run.train * run.width), rows=run.evaluated)


def components(run: Run) -> Work:
    """Tune temperatures on valid and write log p of every component; the smallest and the full store have curves."""
    found, grid, ends = run.knn_components, len(run.config["temperature"]["grid"]), {run.config["fractions"][0], 1.0}
    tuned = [component for component in found if component.temperature is None]
    curves = sum(component.fraction in ends for component in tuned)
    searched = curves * (grid + TEMPERATURES_SEARCHED) + (len(tuned) - curves) * temperatures_tried(run)
    scored = searched * run.tokens["valid"] + (curves * grid + len(found)) * run.evaluated
    # All values, matches of both splits, and three float32 arrays of the larger split's neighbours.
    memory = SINGLE * run.train + run.evaluated * run.k + 3 * SINGLE * run.largest_split * run.k
    disk = (len(found) + 1) * run.evaluated * SINGLE
    return Work(memory, disk, Counter(neighbour_terms=run.k * scored), rows=run.evaluated)


def tables(run: Run) -> Work:
    """Mix each component with the base LM, and with the kNN beside both, and find those that remove most."""
    rows = 2 * (len(run.knn_components) + 1)  # of components.csv: one a component and split
    temperatures = 2 * len(run.pairs) * 3 * len(run.config["temperature"]["grid"])
    # what is held beside the base LM: log p of both splits, and probabilities and shares of the larger one in float64
    memory = COMPONENTS_HELD * (SINGLE * run.evaluated + 4 * 8 * run.largest_split)
    done = Counter(table_operations=OPERATIONS_OF_A_COMPONENT * rows / 2 * run.tokens["valid"])
    return Work(memory, BYTES_PER_TABLE_ROW * (2 * rows + temperatures), done, rows=rows)


def temperatures_tried(run: Run) -> int:
    """Return how many temperatures are tried on valid to find the best: a part of the grid, and those of the search."""
    return math.ceil(len(run.config["temperature"]["grid"]) / GRID_STEP) + TEMPERATURES_SEARCHED


def choosing(factory: IndexFactory, queries: int, nprobe: int) -> float:
    """Return the operations in which an index chooses `nprobe` lists for each query and makes its look-up tables."""
    return 2.0 * queries * factory.width * (factory.lists + nprobe * factory.codewords)


def looked_up(factory: IndexFactory, queries: int, nprobe: int, rows: float) -> float:
    """Return what is looked up or compared in the lists of an index of so many rows."""
    return queries * rows * min(1, nprobe / factory.lists) * factory.lookups


def index_memory(run: Run, metric: str) -> int:
    """Return bytes of an index to be searched: centroids of every chunk's, the trained and the joined one; tables."""
    # FAISS makes look-up tables for l2 with PQ, for the trained index and for the searched one
    by_residual = metric == "l2" and not run.factory.packed
    tables = run.factory.lists * run.factory.sub_quantisers * PQ_CENTROIDS * SINGLE if by_residual else 0
    return (run.chunks + 2) * run.centroid_bytes + 2 * tables + (run.list_bytes if run.factory.packed else 0)


def joined_bytes(run: Run) -> int:
    """Return bytes of the lists of the widest band of fractions, which approximate search joins on disk for a while."""
    bands = [band for pair in run.pairs for band in pairwise([0.0, *searched_fractions(run.config, *pair)])]
    return math.ceil(max(high - low for low, high in bands) * run.list_bytes)


def _model_memory(run: Run, length: int) -> int:
    """Return bytes of the model's weights and of one layer's activations in a batch of states."""
    architecture = run.config["lm"]["architecture"]
    layer = 10 * run.width + 2 * architecture["feed_forward_width"] + 3 * architecture["heads"] * length
    return SINGLE * (run.parameters + max(TOKENS_AT_ONCE, length) * layer)


def _queries_and_neighbours(run: Run) -> int:
    """Return bytes of all queries, their running neighbours, and a block of results being merged (three times)."""
    queries = run.evaluated * (run.width * (SINGLE + HALF) + run.k * 2 * SINGLE)
    return queries + min(QUERIES_AT_ONCE, run.evaluated) * run.k * 3 * 12


def _approximate_memory(run: Run) -> int:
    """Return bytes of approximate search: queries and neighbours, and the index."""
    return _queries_and_neighbours(run) + max(index_memory(run, metric) for _, metric in run.pairs)
