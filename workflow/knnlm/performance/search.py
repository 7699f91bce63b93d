"""Retrieval on a store of random keys: both searches and the real scores, each against the least that it takes."""

from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import torch

from knnlm.cost.stages import choosing, looked_up
from knnlm.datastore.index import METRICS, join_indexes
from knnlm.datastore.placing import ivf_of, place_for
from knnlm.datastore.store import Datastore
from knnlm.performance.bench import Bench, Measured, interleaved, median, row
from knnlm.performance.machine import COPIED_BYTES, copying
from knnlm.performance.stores import WHOLE, Found, Index, Retrieval, random_queries
from knnlm.retrieval.approximate import real_similarities

GOALS = {"product": 0.5, "faiss": 1.5, "approximate": 0.95, "real": 0.3}
QUERIES_OF_ROWS = 1024  # by which the rows of the store are chosen
LEAST_QUERIES, MOST_QUERIES = 4096, 65536  # so many that work done once a key counts as little as in a run
MORE_APPROXIMATE = 2  # times as many queries take about as long as in exact search
MOST_PRODUCTS = 2**27  # q·k in memory at a time: 512 MiB
UNEVEN = 16  # keys fewer at a time than a power of two: some processors write such rows at two thirds of the speed
OPERATIONS_IN_THE_TIME_OF_A_BYTE = 8  # roughly, on a CPU


def measure(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Measure both searches and the real scores on one store."""
    found = exact(retrieval, store, bench) + approximate(retrieval, store, index, bench)
    return found + real_scores(retrieval, store, index, bench)


def store_rows(retrieval: Retrieval, bench: Bench) -> int:
    """Return the rows of the store that searches are measured on."""
    return max(bench.fitting(2 * retrieval.width * QUERIES_OF_ROWS, most=bench.rows), retrieval.least_rows)


def queries_for(retrieval: Retrieval, store: Datastore, bench: Bench, times: int = 1, most: int = 2**62) -> np.ndarray:
    """Return queries, float32 (n, width), `times` as many as exact search of the store takes its time for, or more."""
    count = bench.fitting(2 * retrieval.width * store.rows, least=LEAST_QUERIES, most=MOST_QUERIES)
    return random_queries(min(times * count, most), retrieval.width, bench.seed)


def exact(retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Compare exact search, of the whole store and of all fractions at once, with a product and FAISS in float32."""
    queries = queries_for(retrieval, store, bench)
    keys = np.concatenate([chunk.keys_of(retrieval.h) for chunk in store.chunks]).astype(np.float32)
    fractions, product = f"exact search of {len(retrieval.fractions)} fractions", "float32 product of queries and keys"
    work = {
        fractions: lambda: retrieval.exact(store, queries, bench.device),
        "exact search": lambda: retrieval.exact(store, queries, bench.device, WHOLE),
        product: multiplying(queries, keys, bench.device),
        "faiss.knn": lambda: faiss_search(queries, keys, retrieval.k, retrieval.metric, bench.device),
    }
    speeds = bench.speeds(**{name: (2e-9 * queries.size * store.rows, job) for name, job in work.items()})
    goals = {product: GOALS["product"], "faiss.knn": GOALS["faiss"]}
    compared = (("exact search", product), (fractions, product), ("exact search", "faiss.knn"))
    rows = [row(f"{a}: {b}", "GFLOP/s", speeds[a], speeds[b], goals[b]) for a, b in compared]
    return Measured(rows, {"exact_flops": median(speeds[fractions]) * 1e9})


def multiplying(queries: np.ndarray, keys: np.ndarray, device: str) -> Callable[[], None]:
    """Return the work of the product of all queries and keys in float32, for as many keys at a time as memory holds."""
    left, right = (torch.from_numpy(array).to(device) for array in (queries, keys))
    step = max(1, min(len(right), MOST_PRODUCTS // len(left)) - UNEVEN)
    out = torch.empty(len(left) * step, device=device)

    def work() -> None:
        for part in right.split(step):
            torch.mm(left, part.T, out=out[: len(left) * len(part)].view(len(left), len(part)))

    return work


def faiss_search(queries: np.ndarray, keys: np.ndarray, k: int, metric: str, device: str) -> Found:
    """Return FAISS's scores and ids of the k nearest keys, (n, k) each, by brute force on the device."""
    if device == "cuda":
        return faiss.knn_gpu(faiss.StandardGpuResources(), queries, keys, k, metric=METRICS[metric])
    return faiss.knn(queries, keys, k, METRICS[metric])


def approximate(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Compare approximate search of the whole store, which joins the chunks' indexes, with a search of one index."""
    queries, factory = queries_for(retrieval, store, bench, MORE_APPROXIMATE), retrieval.parsed_factory
    bare = join_indexes(index.trained, index.filled, store.chunks, 0.0, 1.0, index.folder)
    ivf_of(bare).nprobe = retrieval.nprobe
    few = min(1.0, factory.lists / store.rows)
    bare = place_for(bare, bench.device, retrieval.k, retrieval.nprobe).searched(bare)
    work = {
        "ours": lambda: retrieval.approximate(store, index, queries, bench.device, WHOLE),
        "bare": lambda: bare.search(queries, retrieval.k),
        "few": lambda: retrieval.approximate(store, index, queries, bench.device, (few,)),
    }
    taken = interleaved(work, bench.pairs, bench.device)
    whole, start = median(taken["ours"]), median(taken["few"])
    sizes = factory, len(queries), retrieval.nprobe
    rates = {"choosing_flops": choosing(*sizes) / start}  # a row for each list; look-ups take the rest of the time
    rates["lookups"] = looked_up(*sizes, store.rows * (1 - few)) / max(whole - start, whole / 10)
    ours, reference = len(queries) / taken["ours"], len(queries) / taken["bare"]
    name = "approximate search: bare index.search"
    return Measured([row(name, "queries/s", ours, reference, GOALS["approximate"])], rates)


def real_scores(retrieval: Retrieval, store: Datastore, index: Index, bench: Bench) -> Measured:
    """Compare scoring the neighbours that FAISS found, with all keys read and converted, with copying memory."""
    queries = queries_for(retrieval, store, bench, most=QUERIES_OF_ROWS)
    ids, _ = retrieval.approximate(store, index, queries, bench.device, WHOLE)
    enough = bench.fitting(OPERATIONS_IN_THE_TIME_OF_A_BYTE * 4 * queries.size * retrieval.k)
    times = max(1, min(enough, MOST_PRODUCTS // ids.size))  # over again, until there is enough to score
    queries, ids = np.tile(queries, (times, 1)), np.tile(ids, (times, 1))
    touched = 4 * retrieval.width * int(np.count_nonzero(ids >= 0))  # bytes of keys in float32; a copy reads and writes
    ours = partial(real_similarities, queries, ids, store, retrieval.h, retrieval.metric, bench.device)
    speeds = bench.speeds(ours=(touched / 1e9, ours), copy=(2e-9 * COPIED_BYTES, copying(COPIED_BYTES)))
    found = row("real scores: copying memory", "GB/s", speeds["ours"], speeds["copy"], GOALS["real"])
    return Measured([found], {"real_score_bytes": median(speeds["ours"]) * 1e9})
