"""Retrieval on a store of random keys: exact search, approximate search and real scores, each against the least that it could take."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch

from knnlm.components.catalogue import searched_fractions
from knnlm.datastore.factory import PQ_CENTROIDS, parse_factory
from knnlm.datastore.index import METRICS, fill_index, join_indexes, load_index, save_index, train_index
from knnlm.datastore.store import Chunk, Datastore
from knnlm.performance.bench import Bench, Measured, interleaved, row
from knnlm.performance.machine import COPIED_BYTES, copying
from knnlm.retrieval.approximate import Snapshot, approximate_search, real_similarities
from knnlm.retrieval.exact import exact_search
from knnlm.storage.files import save_array

GOALS = {"product": 0.5, "faiss": 1.5, "approximate": 0.95, "real": 0.3}
SAMPLE_ROWS_PER_CENTROID = 40  # FAISS asks for 39 to train an index
QUERIES_OF_ROWS = 1024  # by which the rows of the store are chosen
LEAST_QUERIES, MOST_QUERIES = 4096, 65536  # so many that what is done once for every key counts as little as in a run
MORE_APPROXIMATE = 2  # times as many queries take about as long as in exact search
MOST_PRODUCTS = 2**27  # q·k in memory at a time: 512 MiB
UNEVEN = 16  # keys fewer at a time than a power of two
OPERATIONS_IN_THE_TIME_OF_A_BYTE = 8  # roughly, on a CPU


@dataclass(frozen=True)
class Retrieval:
    """What the main retrieval of a config searches for and with."""

    h: str
    metric: str
    k: int
    width: int
    fractions: tuple[float, ...]
    factory: str
    training_rows: int
    nprobe: int

    @classmethod
    def of(cls, config: dict) -> "Retrieval":
        """Read it from a config."""
        main, index = config["main"], config["index"]
        fractions = tuple(searched_fractions(config, main["h"], main["metric"]))
        sizes = config["retrieval"]["k"], config["lm"]["architecture"]["width"]
        return cls(
            main["h"], main["metric"], *sizes, fractions, index["factory"], index["training_rows"], index["nprobe"]
        )

    @property
    def least_rows(self) -> int:
        """Rows of the smallest store that has enough of them for k neighbours at every fraction and for training the index."""
        return max(int(2 * self.k / self.fractions[0]), self.sample_rows)

    @property
    def sample_rows(self) -> int:
        """Rows on which the index is trained: no more than FAISS asks for, since their number has no part in the speed of a search."""
        centroids = max(parse_factory(self.factory, self.width).lists, PQ_CENTROIDS)
        return min(self.training_rows, SAMPLE_ROWS_PER_CENTROID * centroids)

    def exact(
        self, store: Datastore, queries: np.ndarray, device: str, fractions: tuple[float, ...] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search exactly; return ids and similarities in the whole store, (n, k) each."""
        return _last(
            exact_search(queries, store, self.h, self.metric, self.k, list(fractions or self.fractions), device)
        )

    def approximate(
        self,
        store: Datastore,
        index: "Index",
        queries: np.ndarray,
        device: str,
        fractions: tuple[float, ...] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search with an index; return ids and similarities in the largest part of the store, (n, k) each."""
        searched = list(fractions or self.fractions)
        return _last(
            approximate_search(
                queries, store, index.trained, index.filled, self.nprobe, self.k, searched, device, index.folder
            )
        )

    def scanned(self, queries: int, rows: float) -> float:
        """Return what approximate search looks up or compares in the lists (`plan.scanned`)."""
        factory = parse_factory(self.factory, self.width)
        return queries * rows * self.nprobe / factory.lists * (factory.sub_quantisers or 2 * self.width)

    def choosing(self, queries: int) -> float:
        """Return the operations of choosing lists and of making look-up tables (`plan.approximate_retrieval`)."""
        factory = parse_factory(self.factory, self.width)
        return (
            2.0 * queries * self.width * (factory.lists + (self.nprobe * PQ_CENTROIDS if factory.sub_quantisers else 0))
        )


@dataclass(frozen=True)
class Index:
    """A trained, empty index, its copies with the rows of each chunk, and their folder."""

    trained: faiss.Index
    filled: list[faiss.Index]
    folder: Path


def random_vectors(rows: int, width: int, seed: int | list[int]) -> np.ndarray:
    """Return normally distributed vectors, float16 (rows, width)."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return torch.randn(rows, width, generator=generator).half().numpy()


def random_queries(rows: int, width: int, seed: int) -> np.ndarray:
    """Return queries as they are read from stored states: float32 (rows, width), of float16's precision."""
    return random_vectors(rows, width, [seed, 2**31]).astype(np.float32)


def random_store(folder: Path, retrieval: Retrieval, rows: int, chunks: int, seed: int) -> Datastore:
    """Write a store of random keys, `rows` in each chunk, of the one kind that is searched, and open it."""
    for number in range(chunks):
        save_array(
            folder / f"chunk-{number}" / f"{retrieval.h}.npy", random_vectors(rows, retrieval.width, [seed, number])
        )
    return opened_store(folder, retrieval, rows, chunks)


def opened_store(folder: Path, retrieval: Retrieval, rows: int, chunks: int) -> Datastore:
    """Open the first chunks of such a store."""
    return Datastore(
        tuple(Chunk(folder / f"chunk-{number}", rows, retrieval.width, number * rows) for number in range(chunks)),
        checkpoint="random",
    )


def write_trained(folder: Path, retrieval: Retrieval, store: Datastore, seed: int) -> None:
    """Train an index on the store and write it to `folder`."""
    sample = store.sample(retrieval.h, retrieval.sample_rows)
    save_index(train_index(retrieval.factory, retrieval.metric, sample, seed), folder / "trained.faiss")


def write_filled(folder: Path, retrieval: Retrieval, store: Datastore) -> None:
    """Fill a copy of the trained index with each chunk of the store and write it."""
    for number, chunk in enumerate(store.chunks):
        index = load_index(folder / "trained.faiss", retrieval.metric, retrieval.width, 0)
        fill_index(index, chunk, retrieval.h)
        save_index(index, folder / f"filled-{number}.faiss")


def repeat_filled(folder: Path, retrieval: Retrieval, rows: int, chunks: int) -> None:
    """Write the filled index of the first chunk again for all others, under their ids: filling takes long, and a search does not mind equal codes."""
    for number in range(1, chunks):
        index = load_index(folder / "trained.faiss", retrieval.metric, retrieval.width, 0)
        index.merge_from(faiss.read_index(str(folder / "filled-0.faiss")), number * rows)
        save_index(index, folder / f"filled-{number}.faiss")


def opened_index(folder: Path, retrieval: Retrieval, store: Datastore) -> Index:
    """Open the index of a store as the workflow does."""
    trained = load_index(folder / "trained.faiss", retrieval.metric, retrieval.width, 0)
    parts = [
        load_index(folder / f"filled-{number}.faiss", retrieval.metric, retrieval.width, chunk.rows)
        for number, chunk in enumerate(store.chunks)
    ]
    return Index(trained, parts, folder)


def measure(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Measure both searches and the real scores on one store."""
    parts = [
        exact(retrieval, store, bench),
        approximate(retrieval, store, index, bench),
        real_scores(retrieval, store, index, bench),
    ]
    return Measured(
        [found for part in parts for found in part.rows],
        {name: rate for part in parts for name, rate in part.rates.items()},
    )


def store_rows(retrieval: Retrieval, bench: Bench) -> int:
    """Return the rows of the store that searches are measured on."""
    return max(bench.fitting(2 * retrieval.width * QUERIES_OF_ROWS, most=bench.rows), retrieval.least_rows)


def query_count(retrieval: Retrieval, rows: int, bench: Bench) -> int:
    """Return the queries with which exact search of so many rows takes its time, or more."""
    return bench.fitting(2 * retrieval.width * rows, least=LEAST_QUERIES, most=MOST_QUERIES)


def exact(retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Compare exact search with the product of queries and keys, of the whole store alone and of all fractions in one pass, and with FAISS's of float32."""
    queries = random_queries(query_count(retrieval, store.rows, bench), retrieval.width, bench.seed)
    keys = np.concatenate([chunk.keys_of(retrieval.h) for chunk in store.chunks]).astype(np.float32)
    work = {
        "ours": lambda: retrieval.exact(store, queries, bench.device),
        "whole": lambda: retrieval.exact(store, queries, bench.device, (1.0,)),
        "product": multiplying(queries, keys, bench.device),
        "faiss": lambda: faiss_search(queries, keys, retrieval.k, retrieval.metric, bench.device),
    }
    flops = 2.0 * queries.size * store.rows
    speeds = {name: flops / seconds / 1e9 for name, seconds in interleaved(work, bench.pairs, bench.device).items()}
    product, searches = (
        "float32 product of queries and keys",
        {"exact search": "whole", f"exact search of {len(retrieval.fractions)} fractions": "ours"},
    )
    rows = [
        row(f"{search}: {product}", "GFLOP/s", speeds[name], speeds["product"], GOALS["product"])
        for search, name in searches.items()
    ]
    rows.append(row("exact search: faiss.knn", "GFLOP/s", speeds["whole"], speeds["faiss"], GOALS["faiss"]))
    return Measured(rows, {"exact_flops": float(np.median(speeds["ours"])) * 1e9})


def multiplying(queries: np.ndarray, keys: np.ndarray, device: str) -> Callable[[], None]:
    """Return the work of the product of all queries and all keys in float32, of so many keys at a time that memory holds what comes out.

    Rows of a product do not lie a power of two apart: some processors then write them at two thirds of the speed.
    """
    left, right = (torch.from_numpy(array).to(device) for array in (queries, keys))
    step = max(1, min(len(right), MOST_PRODUCTS // len(left)) - UNEVEN)
    out = torch.empty(len(left) * step, device=device)

    def work() -> None:
        for part in right.split(step):
            torch.mm(left, part.T, out=out[: len(left) * len(part)].view(len(left), len(part)))

    return work


def faiss_search(
    queries: np.ndarray, keys: np.ndarray, k: int, metric: str, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return FAISS's scores and ids of the k nearest keys, (n, k) each, by brute force on the device."""
    if device == "cuda":
        return faiss.knn_gpu(faiss.StandardGpuResources(), queries, keys, k, metric=METRICS[metric])
    return faiss.knn(queries, keys, k, METRICS[metric])


def approximate(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Compare approximate search of the whole store, joining of the chunks' indexes included, with a bare search of one index of it.

    A search of a store with no more rows than the index has lists tells what choosing the lists takes; the rest of the time is look-ups.
    """
    queries = random_queries(MORE_APPROXIMATE * query_count(retrieval, store.rows, bench), retrieval.width, bench.seed)
    bare = join_indexes(index.trained, index.filled, store.chunks, 0.0, 1.0, index.folder)
    bare.nprobe = retrieval.nprobe
    few = min(1.0, parse_factory(retrieval.factory, retrieval.width).lists / store.rows)
    if bench.device == "cuda":
        bare = faiss.index_cpu_to_all_gpus(bare)
    work = {
        "ours": lambda: retrieval.approximate(store, index, queries, bench.device, (1.0,)),
        "bare": lambda: bare.search(queries, retrieval.k),
        "few": lambda: retrieval.approximate(store, index, queries, bench.device, (few,)),
    }
    taken = interleaved(work, bench.pairs, bench.device)
    whole, choosing = (float(np.median(taken[name])) for name in ("ours", "few"))
    rates = {"choosing_flops": retrieval.choosing(len(queries)) / choosing}
    rates["lookups"] = retrieval.scanned(len(queries), store.rows * (1 - few)) / max(whole - choosing, whole / 10)
    found = row(
        "approximate search: bare index.search",
        "queries/s",
        len(queries) / taken["ours"],
        len(queries) / taken["bare"],
        GOALS["approximate"],
    )
    return Measured([found], rates)


def real_scores(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Compare scoring the neighbours that FAISS found, reading and converting all keys included, with copying memory.

    Ours counts the bytes of the neighbours' keys in float32, a copy what it reads and what it writes.
    The queries are taken several times over, until there is enough to score.
    """
    queries = random_queries(
        min(query_count(retrieval, store.rows, bench), QUERIES_OF_ROWS), retrieval.width, bench.seed
    )
    ids, _ = retrieval.approximate(store, index, queries, "cpu", (1.0,))
    times = max(
        1,
        min(
            bench.fitting(OPERATIONS_IN_THE_TIME_OF_A_BYTE * 4 * queries.size * retrieval.k), MOST_PRODUCTS // ids.size
        ),
    )
    queries, ids = np.tile(queries, (times, 1)), np.tile(ids, (times, 1))
    touched = 4 * retrieval.width * int(np.count_nonzero(ids >= 0))
    work = {
        "ours": lambda: real_similarities(queries, ids, store, retrieval.h, retrieval.metric),
        "copy": copying(COPIED_BYTES),
    }
    taken = interleaved(work, bench.pairs, bench.device)
    ours, copied = touched / taken["ours"], 2 * COPIED_BYTES / taken["copy"]
    found = row("real scores: copying memory", "GB/s", ours / 1e9, copied / 1e9, GOALS["real"])
    return Measured([found], {"real_score_bytes": float(np.median(ours))})


def _last(snapshots: Iterable[Snapshot]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and similarities of the last snapshot of a search."""
    ((_, ids, similarities),) = deque(snapshots, maxlen=1)
    return ids, similarities
