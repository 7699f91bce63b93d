"""What a run will cost, before it runs: rows, bytes on disk, peak memory and floating-point operations of each stage.

Symbols in the docstrings: T tokens of train, E of valid and test together; L layers, d width, f inner width, V types, P parameters; k neighbours;
c bytes a row has in the index; n rows of the largest chunk. Bytes on disk and rows are exact for the files they count; memory and operations
are estimates, meant to be right within a factor of two. One multiply-add counts as two operations.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from knnlm.components.catalogue import (
    GRID_STEP,
    Component,
    knn_components,
    real_score_fractions,
    retrievals,
    searched_fractions,
)
from knnlm.datastore.factory import PQ_CENTROIDS, IndexFactory, parse_factory
from knnlm.retrieval.query_blocks import QUERIES_AT_ONCE

KEY_TYPES = 2  # att and ffn are both stored, whichever is retrieved
HALF, SINGLE = 2, 4  # bytes of float16; of float32 and int32
ID_BYTES = 8  # of a row in an index
TOKENS_AT_ONCE = 4096  # positions of a batch of states and of its softmax
BLOCK_KEYS, KEYS_AT_ONCE, ROWS_AT_ONCE = 262144, 524288, 131072  # blocks of exact search, real scores and index filling
WIDER = 8  # columns of a factor of exact search beside those of its key
TYPES_BEYOND_MERGES = 1400  # single characters and the like: the paper's 33,344 types come of 32,000 merges
COARSE_ITERATIONS, PQ_ITERATIONS, PQ_TRAINING_ROWS = 10, 25, 65536  # FAISS's defaults for k-means
OPERATIONS_PER_NEIGHBOUR = 10  # of one term of the kNN softmax, its exponential included
TEMPERATURES_SEARCHED = 10  # evaluations of the one-dimensional search beside the grid
WEIGHTS_SEARCHED = 60  # evaluations of the search for λ
BYTES_PER_TABLE_ROW = 250


@dataclass(frozen=True)
class Stage:
    """One line of the plan; `rows` is what the stage counts by (tokens, keys, queries, table rows), None for the total."""

    stage: str
    rows: int | None
    disk_bytes: int
    memory_bytes: int
    flops: float


@dataclass(frozen=True)
class Run:
    """The sizes that all stages are computed from: the config with defaults filled, tokens of each split, and types of the vocabulary."""

    config: dict
    tokens: dict[str, int]
    vocabulary: int

    @property
    def evaluated(self) -> int:
        """Tokens of valid and test together (E)."""
        return self.tokens["valid"] + self.tokens["test"]

    @property
    def largest_split(self) -> int:
        """Tokens of the larger of valid and test."""
        return max(self.tokens["valid"], self.tokens["test"])

    @property
    def width(self) -> int:
        """Dimension of a key (d)."""
        return self.config["lm"]["architecture"]["width"]

    @property
    def k(self) -> int:
        """Neighbours of each query."""
        return self.config["retrieval"]["k"]

    @property
    def factory(self) -> IndexFactory:
        """What the index stores."""
        return parse_factory(self.config["index"]["factory"], self.width)

    @property
    def parameters(self) -> int:
        """Parameters of the LM (P)."""
        return parameter_count(self.config["lm"]["architecture"], self.vocabulary)

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest datastore chunk (n): its share of the windows."""
        new, chunks = self.config["windows"]["train"]["new"], self.config["datastore"]["chunks"]
        return min(self.tokens["train"], math.ceil(math.ceil(self.tokens["train"] / new) / chunks) * new)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The combinations of hidden state and metric that are indexed and searched."""
        return sorted({(h, metric) for h, metric, _ in retrievals(self.config)})

    @property
    def knn_components(self) -> list[Component]:
        """All kNN components of the run."""
        return [
            component for retrieval in retrievals(self.config) for component in knn_components(self.config, *retrieval)
        ]


def estimated_vocabulary(bpe_merges: int) -> int:
    """Return the types to expect of this many merges, a multiple of 8 as fairseq pads them; used until the corpus is there."""
    return math.ceil((bpe_merges + TYPES_BEYOND_MERGES) / 8) * 8


def layer_parameters(architecture: dict) -> int:
    """Return the parameters of all layers: L · (4d² + 4d [attention] + 2df + f + d [feed-forward] + 4d [two LayerNorms])."""
    d, f = architecture["width"], architecture["feed_forward_width"]
    return architecture["layers"] * (4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d)


def parameter_count(architecture: dict, vocabulary: int) -> int:
    """Return the parameters of the LM: its layers and two embeddings of V·d (untied, no bias; sinusoidal positions have none)."""
    return layer_parameters(architecture) + 2 * vocabulary * architecture["width"]


def tokens_per_update(config: dict) -> int:
    """Return the tokens of one update: tokens_per_sample · batch_samples · accumulate, on however many devices."""
    training = config["lm"]["training"]
    return training["tokens_per_sample"] * training["batch_samples"] * training["accumulate"]


def forward_flops(architecture: dict, length: int, vocabulary: int = 0) -> float:
    """Return operations of the forward pass for one token in an input of `length`: 2·(layer parameters) + 2·L·d·length + 2·d·V.

    The second term is attention, 4·L·d for each of length/2 positions on average; the third is left out where no logits are made.
    """
    layers, d = architecture["layers"], architecture["width"]
    return 2 * layer_parameters(architecture) + 2 * layers * d * length + 2 * d * vocabulary


def plan(config: dict, tokens: dict[str, int], vocabulary: int | None = None) -> list[Stage]:
    """Return all stages of the main result and their total (bytes and operations added, memory the largest).

    `config` has its defaults filled; `tokens` are BPE tokens of train, valid and test. Without `vocabulary` it is estimated from the merges.
    """
    run = Run(config, tokens, vocabulary or estimated_vocabulary(config["corpus"]["bpe_merges"]))
    functions = (
        training,
        states,
        datastore,
        index,
        exact_retrieval,
        approximate_retrieval,
        real_scores,
        components,
        tables,
    )
    stages = [function(run) for function in functions]
    return [*stages, total(stages)]


def total(stages: list[Stage]) -> Stage:
    """Return the last line of a plan: bytes and operations added, memory the largest."""
    disk, memory, flops = (
        sum(s.disk_bytes for s in stages),
        max(s.memory_bytes for s in stages),
        sum(s.flops for s in stages),
    )
    return Stage("total", None, disk, memory, flops)


def training(run: Run) -> Stage:
    """Train the base LM.

    Operations: 3 · forward · tokens seen. Disk: the model, 4P, and three checkpoints of weights and s moments (2 for adam, 1 for nag). Memory
    (of one device): 4P · (2 + s), in float16 4P more, and the activations of one forward pass: for each token and layer 10d + 2f values and 3
    attention weights for each head and position, and V logits with their float32 softmax and gradient.
    """
    settings, architecture, parameters = run.config["lm"]["training"], run.config["lm"]["architecture"], run.parameters
    moments, size = (2 if settings["optimiser"] == "adam" else 1), (HALF if settings["fp16"] else SINGLE)
    length, seen = settings["tokens_per_sample"], settings["updates"] * tokens_per_update(run.config)
    checkpoint = (size + SINGLE * moments) * parameters
    layer = size * (10 * run.width + 2 * architecture["feed_forward_width"] + 3 * architecture["heads"] * length)
    activations = (
        settings["batch_samples"] * length * (architecture["layers"] * layer + run.vocabulary * (size + 2 * SINGLE))
    )
    memory = SINGLE * parameters * (2 + moments + (1 if settings["fp16"] else 0)) + activations
    return Stage(
        "training",
        seen,
        SINGLE * parameters + 3 * checkpoint,
        memory,
        3.0 * seen * forward_flops(architecture, length, run.vocabulary),
    )


def states(run: Run) -> Stage:
    """Run the LM over valid and test.

    Disk: E rows of two float16 vectors, 2 · 2d. Operations: forward over context and new tokens, with logits for the new ones only. Memory: the
    model, the states of the larger split, and one batch.
    """
    architecture, window = run.config["lm"]["architecture"], run.config["windows"]["evaluation"]
    length, row = window["context"] + window["new"], KEY_TYPES * HALF * run.width
    flops = run.evaluated * (
        length / window["new"] * forward_flops(architecture, length) + 2 * run.width * run.vocabulary
    )
    logits = 2 * SINGLE * TOKENS_AT_ONCE * run.vocabulary
    return Stage(
        "states",
        run.evaluated,
        run.evaluated * row,
        run.largest_split * row + _model_memory(run, length) + logits,
        flops,
    )


def datastore(run: Run) -> Stage:
    """Run the LM over train and store keys and values.

    Disk: T rows of two float16 keys (2 · 2d), an int32 value and an int64 position. Operations: forward without logits. Memory: the model, one
    batch, and one chunk with a shuffled copy of one key type, n · (3 · 2d + 12).
    """
    architecture, window = run.config["lm"]["architecture"], run.config["windows"]["train"]
    length = window["context"] + window["new"]
    row = KEY_TYPES * HALF * run.width + SINGLE + 8
    memory = run.chunk_rows * (row + HALF * run.width) + _model_memory(run, length)
    flops = run.tokens["train"] * length / window["new"] * forward_flops(architecture, length)
    return Stage("datastore", run.tokens["train"], run.tokens["train"] * row, memory, flops)


def times_saved_by_states(run: Run) -> float:
    """Return how many times as many operations an epoch of a V×D output embedding would take if the LM ran over the text again before it.

    (6dV + forward of a stored row) / 6dV: logits and both gradients against what making the datastore takes for each row.
    """
    head = 6.0 * run.width * run.vocabulary
    return 1 + datastore(run).flops / run.tokens["train"] / head


def index(run: Run) -> Stage:
    """Train and fill one index for each hidden state and metric: the sum of index_training and index_filling over them."""
    parts = index_training(run), index_filling(run)
    disk, flops = (
        len(run.pairs) * sum(amounts)
        for amounts in zip(*((part.disk_bytes, part.flops) for part in parts), strict=True)
    )
    return Stage("index", run.tokens["train"], disk, max(part.memory_bytes for part in parts), float(flops))


def index_training(run: Run) -> Stage:
    """Train one index.

    Disk: the centroids, lists · 4d, with PQ also 256 · 4d. Operations: k-means, 2 · 10 · rows · lists · d on at most 256 rows a list, and
    2 · 25 · 65,536 · 256 · d for PQ. Memory: the sample in float32 and a copy.
    """
    sampled, codewords = (
        min(run.config["index"]["training_rows"], run.tokens["train"]),
        PQ_CENTROIDS if run.factory.sub_quantisers else 0,
    )
    coarse = 2 * COARSE_ITERATIONS * min(sampled, 256 * run.factory.lists) * run.factory.lists * run.width
    fine = 2 * PQ_ITERATIONS * min(sampled, PQ_TRAINING_ROWS) * codewords * run.width
    memory = _centroid_bytes(run) + 2 * SINGLE * sampled * run.width
    return Stage("index training", sampled, _centroid_bytes(run), memory, float(coarse + fine))


def index_filling(run: Run) -> Stage:
    """Fill one trained index, chunk by chunk.

    Disk: T · (c + 8), and in each chunk's file the centroids. Operations: 2 · T · (lists + 256) · d. Memory: a filled chunk and one block of keys.
    """
    rows, row, codewords = (
        run.tokens["train"],
        run.factory.code_bytes + 8,
        PQ_CENTROIDS if run.factory.sub_quantisers else 0,
    )
    disk = rows * row + run.config["datastore"]["chunks"] * _centroid_bytes(run)
    memory = _centroid_bytes(run) + run.chunk_rows * row + ROWS_AT_ONCE * run.width * (SINGLE + HALF)
    return Stage("index filling", rows, disk, memory, 2.0 * rows * (run.factory.lists + codewords) * run.width)


def exact_retrieval(run: Run) -> Stage:
    """Search all keys for each hidden state and metric, all fractions in one pass.

    Disk: an int32 id and a float32 similarity for each of E · k neighbours at each fraction. Operations: 2 · E · T · d for each. Memory: queries
    (float32, and float16 while they are read), the running neighbours, one block of keys and one of results.
    """
    results = sum(len(searched_fractions(run.config, *pair)) for pair in run.pairs)
    memory = _queries_and_neighbours(run) + _key_block(run)
    flops = 2.0 * len(run.pairs) * run.evaluated * run.tokens["train"] * run.width
    return Stage("exact retrieval", run.evaluated, results * run.evaluated * run.k * 2 * SINGLE, memory, flops)


def approximate_retrieval(run: Run) -> Stage:
    """Search the indexes, from one fraction to the next.

    Disk: as exact retrieval. Operations, for each hidden state and metric: at each fraction 2 · E · lists · d to choose lists and with PQ
    2 · E · nprobe · 256 · d for look-up tables; and once for all fractions E · T · nprobe / lists rows, one look-up for each PQ code, else 2d.
    Memory: queries and neighbours, and centroids; the lists, and those of a band between two fractions that are joined, stay on disk.
    """
    factory, nprobe = run.factory, run.config["index"]["nprobe"]
    results = sum(len(searched_fractions(run.config, *pair)) for pair in run.pairs)
    choosing = (
        2 * run.evaluated * run.width * (factory.lists + (nprobe * PQ_CENTROIDS if factory.sub_quantisers else 0))
    )
    flops = float(results * choosing + len(run.pairs) * scanned(run))
    return Stage(
        "approximate retrieval",
        run.evaluated,
        results * run.evaluated * run.k * 2 * SINGLE,
        _approximate_memory(run),
        flops,
    )


def scanned(run: Run) -> float:
    """Return what approximate retrieval looks up or compares in the lists, for one hidden state and metric."""
    rows = run.evaluated * run.tokens["train"] * run.config["index"]["nprobe"] / run.factory.lists
    return rows * (run.factory.sub_quantisers or 2 * run.width)


def real_scores(run: Run) -> Stage:
    """Score the neighbours that FAISS found with their stored keys, at the smallest and the largest fraction.

    Disk: a float32 for each of E · k neighbours. Operations: 2 · E · k · d. Memory: as approximate retrieval, and the scores and one block of keys.
    """
    results = sum(len(real_score_fractions(run.config, *pair)) for pair in run.pairs)
    scores = run.evaluated * run.k * SINGLE
    memory = _approximate_memory(run) + scores + min(KEYS_AT_ONCE, run.tokens["train"]) * run.width * (SINGLE + HALF)
    return Stage(
        "real scores", run.evaluated, results * scores, memory, 2.0 * results * run.evaluated * run.k * run.width
    )


def components(run: Run) -> Stage:
    """Tune temperatures on valid and write log p of every component, the base LM's included.

    Disk: a float32 for each component and token. Operations: 10 · k for each token and temperature, over valid for the search and what it begins
    with, over valid and test for curves of the whole grid at the smallest and the full store. Memory: all values, 4T, matches of both splits, and three
    float32 arrays of the larger split's neighbours.
    """
    found, grid, ends = run.knn_components, len(run.config["temperature"]["grid"]), {run.config["fractions"][0], 1.0}
    tuned = [component for component in found if component.temperature is None]
    curves = sum(component.fraction in ends for component in tuned)
    searched = curves * grid + (len(tuned) - curves) * math.ceil(grid / GRID_STEP) + len(tuned) * TEMPERATURES_SEARCHED
    scored = searched * run.tokens["valid"] + (curves * grid + len(found)) * run.evaluated
    memory = SINGLE * run.tokens["train"] + run.evaluated * run.k + 3 * SINGLE * run.largest_split * run.k
    return Stage(
        "components",
        run.evaluated,
        (len(found) + 1) * run.evaluated * SINGLE,
        memory,
        float(OPERATIONS_PER_NEIGHBOUR * run.k * scored),
    )


def tables(run: Run) -> Stage:
    """Interpolate each component with the base LM and resample.

    Rows: of `components.csv`, one a component and split. Disk: those, as many again for datastore size, λ and temperature curves, 250 bytes each.
    Operations: 10 for each component, token of valid and λ tried; the bootstrap works on sums of documents and is left out. Memory: log p of two
    components in float64 and the bootstrap's perplexities.
    """
    rows = 2 * (len(run.knn_components) + 1)
    temperatures = 2 * len(run.pairs) * 3 * len(run.config["temperature"]["grid"])
    memory = 4 * 8 * run.evaluated + rows * 8 * run.config["significance"]["resamples"]
    flops = float(OPERATIONS_PER_NEIGHBOUR * rows / 2 * run.tokens["valid"] * WEIGHTS_SEARCHED)
    return Stage("tables", rows, BYTES_PER_TABLE_ROW * (2 * rows + temperatures), memory, flops)


def _model_memory(run: Run, length: int) -> int:
    """Return bytes of the model's weights and of one layer's activations in a batch of states."""
    architecture = run.config["lm"]["architecture"]
    layer = 10 * run.width + 2 * architecture["feed_forward_width"] + 3 * architecture["heads"] * length
    return SINGLE * (run.parameters + max(TOKENS_AT_ONCE, length) * layer)


def _centroid_bytes(run: Run) -> int:
    """Return bytes of an index that holds no rows: centroids of its lists and of its PQ codes."""
    return SINGLE * run.width * (run.factory.lists + (PQ_CENTROIDS if run.factory.sub_quantisers else 0))


def _queries_and_neighbours(run: Run) -> int:
    """Return bytes of all queries and their running neighbours, and of one block of results being merged (three of id and similarity)."""
    return (
        run.evaluated * (run.width * (SINGLE + HALF) + run.k * 2 * SINGLE)
        + min(QUERIES_AT_ONCE, run.evaluated) * run.k * 3 * 12
    )


def _key_block(run: Run) -> int:
    """Return bytes of the block of keys that exact search compares at a time, as stored, in float32 and as factors, which may be float32."""
    return min(BLOCK_KEYS, run.tokens["train"]) * (run.width * (SINGLE + HALF) + (run.width + WIDER) * SINGLE)


def _approximate_memory(run: Run) -> int:
    """Return bytes of approximate search: queries and neighbours, and the index."""
    return _queries_and_neighbours(run) + max(index_memory(run, metric) for _, metric in run.pairs)


def index_memory(run: Run, metric: str) -> int:
    """Return bytes of an index to be searched: the centroids of every chunk's, the trained and the joined one, and look-up tables; lists are on disk.

    FAISS makes such tables for `l2` with PQ, for the trained index and again for the one that is searched.
    """
    tables = run.factory.lists * (run.factory.sub_quantisers or 0) * PQ_CENTROIDS * SINGLE if metric == "l2" else 0
    return (run.config["datastore"]["chunks"] + 2) * _centroid_bytes(run) + 2 * tables


def list_bytes(run: Run, code_bytes: int) -> int:
    """Return bytes of the lists of an index that holds the whole store: a code and an id for each row."""
    return run.tokens["train"] * (code_bytes + ID_BYTES)


def joined_bytes(run: Run) -> int:
    """Return bytes of the lists of the widest band of fractions, which approximate search joins on disk while it takes."""
    bands = [pairwise([0.0, *searched_fractions(run.config, *pair)]) for pair in run.pairs]
    widest = max(high - low for band in bands for low, high in band)
    return math.ceil(widest * list_bytes(run, run.factory.code_bytes))
