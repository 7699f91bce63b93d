"""Time and memory of the stages at 1×, 2×, 4× and 8× the rows, each size in a fresh process, on chunks that are all of one size."""

import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.cost.sizes import forward_flops
from knnlm.cost.stages import BLOCK_KEYS
from knnlm.datastore.store import save_chunk, shuffled_order
from knnlm.errors import KnnlmError
from knnlm.performance.bench import Bench, row, seconds_of
from knnlm.performance.memory import PeakMemory
from knnlm.performance.search import (
    Retrieval,
    opened_index,
    opened_store,
    random_queries,
    random_store,
    repeat_filled,
    write_filled,
    write_trained,
)
from knnlm.storage.files import load_array, save_array

TIMES = (1, 2, 4, 8)
WHOLE = (1.0,)  # of the store
REPEATS = {
    "datastore build": 3,
    "index fill": 0,
    "exact search": 3,
    "approximate search": 3,
}  # after the first; 0: the first is what counts
MOST_EXPONENTS = {"datastore build": 1.05, "exact search": 1.05, "approximate search": 1.0}
FEWER_FILLED = 8  # times as many rows are searched as indexes are filled with: filling takes longer
MOST_GROWTH = 1.1  # of memory, from 1× to 8×
SHARE = 0.5  # of a measurement's time: what the smallest size takes at the machine's best
LEAST_QUERIES = 512  # fewer and the time is that of reading the keys
COLUMNS = ["stage", "times", "rows", "seconds", "memory_bytes", "resident_bytes", "exponent"]


@dataclass(frozen=True)
class Sizes:
    """What every process must know: folder and device; the retrieval; rows of a chunk that is searched, of one that an index is filled with; queries;
    windows and tokens of a chunk that is built.
    """

    folder: Path
    device: str
    retrieval: Retrieval
    rows: int
    filled_rows: int
    queries: int
    context: int
    new: int
    tokens: int
    seed: int


def sizes_of(config: dict, retrieval: Retrieval, bench: Bench) -> Sizes:
    """Choose sizes: the store's smallest has `bench.rows`, or as many as k neighbours and the index need."""
    window, rows = config["windows"]["train"], max(bench.rows, retrieval.least_rows)
    length = window["context"] + window["new"]
    flops = length / window["new"] * forward_flops(config["lm"]["architecture"], length)
    tokens = max(window["new"], bench.fitting(flops / SHARE) // window["new"] * window["new"])
    queries = bench.fitting(2 * retrieval.width * rows / SHARE, least=LEAST_QUERIES)
    searched = (rows, max(1, rows // FEWER_FILLED), queries)
    return Sizes(
        bench.folder / "scaling",
        bench.device,
        retrieval,
        *searched,
        window["context"],
        window["new"],
        tokens,
        bench.seed,
    )


def measure(sizes: Sizes, vocabulary: int) -> pd.DataFrame:
    """Return a row (COLUMNS) for each stage and size. The files of the model stand in `model` beside the folder; 8× the store is written meanwhile."""
    from knnlm.performance.language_model import random_tokens

    save_array(sizes.folder / "tokens.npy", random_tokens(max(TIMES) * sizes.tokens, vocabulary, sizes.seed))
    write_stores(sizes)
    found = []
    for stage in STAGES:
        for times in (
            *TIMES,
            *reversed(TIMES),
        ):  # so that what changes on the machine meanwhile does not look like growth
            found += in_a_fresh_process(stage, sizes, times)
            print(
                f"scaling: {stage} at {times}×, {found[-1]['seconds']:.2f} s, {found[-1]['memory_bytes'] / 1e6:.0f} MB",
                flush=True,
            )
    table = pd.DataFrame(found)
    table["exponent"] = table["stage"].map({stage: float(np.median(exponents(table, stage))) for stage in STAGES})
    return table


def write_stores(sizes: Sizes) -> None:
    """Write the store that is searched and its index, and the one that indexes are filled with."""
    folder, retrieval = sizes.folder, sizes.retrieval
    random_store(folder, retrieval, sizes.rows, max(TIMES), sizes.seed)
    first = opened_store(folder, retrieval, sizes.rows, 1)
    with redirect_stderr(StringIO()):
        write_trained(folder, retrieval, first, sizes.seed)
    write_filled(folder, retrieval, first)
    repeat_filled(folder, retrieval, sizes.rows, max(TIMES))
    random_store(folder / "fill", retrieval, sizes.filled_rows, max(TIMES), sizes.seed)
    shutil.copyfile(folder / "trained.faiss", folder / "fill" / "trained.faiss")


def in_a_fresh_process(stage: str, sizes: Sizes, times: int) -> list[dict]:
    """Return what `one_size` returns; raises KnnlmError where the process ends without it. It does not outlive an interruption of this one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, stage, sizes, times))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise KnnlmError(
            f"{stage} at {times} times the rows ended with status {process.exitcode}, perhaps for want of memory; lower performance.rows."
        ) from None
    finally:
        process.kill()
        process.join()


def _send(connection: Connection, stage: str, sizes: Sizes, times: int) -> None:
    connection.send(one_size(stage, sizes, times))


def one_size(stage: str, sizes: Sizes, times: int) -> list[dict]:
    """Do a stage at one size a few times and return a row for each, with this process's peak memory over all of them."""
    taken = []
    with redirect_stderr(StringIO()), PeakMemory() as peak:
        work = STAGES[stage](sizes, times)
        for _ in range(1 + REPEATS[stage]):
            taken.append(seconds_of(work, sizes.device))
    rows = times * {"datastore build": sizes.tokens, "index fill": sizes.filled_rows}.get(stage, sizes.rows)
    same = {"stage": stage, "times": times, "rows": rows}
    return [
        same | {"seconds": seconds, "memory_bytes": peak.own, "resident_bytes": peak.resident}
        for seconds in taken[1:] or taken
    ]


def build(sizes: Sizes, times: int) -> Callable[[], None]:
    """Build `times` chunks of the datastore from as many tokens."""
    from knnlm.corpus.windows import fixed_windows, share_of_windows
    from knnlm.language_model.states import extract_states
    from knnlm.language_model.transformer import LanguageModel

    files = sizes.folder.parent / "model"
    model, tokens = (
        LanguageModel(files / "model.pt", files / "dict.txt", sizes.device),
        load_array(sizes.folder / "tokens.npy")[: times * sizes.tokens],
    )
    windows = fixed_windows(len(tokens), sizes.context, sizes.new)

    def work() -> None:
        for chunk in range(times):
            share = share_of_windows(windows, chunk, times)
            att, ffn, _ = extract_states(model, tokens, share)
            save_chunk(
                sizes.folder / f"built-{chunk}",
                att,
                ffn,
                tokens,
                int(share[0, 1]),
                shuffled_order(len(att), sizes.seed, chunk),
            )

    return work


def fill(sizes: Sizes, times: int) -> Callable[[], None]:
    """Fill and write the indexes of the first `times` chunks."""
    folder = sizes.folder / "fill"
    store = opened_store(folder, sizes.retrieval, sizes.filled_rows, times)
    return lambda: write_filled(folder, sizes.retrieval, store)


def exact(sizes: Sizes, times: int) -> Callable[[], object]:
    """Search the whole of the first `times` chunks exactly, without a stop at fractions: blocks of keys are then as large as they get."""
    store, queries = (
        opened_store(sizes.folder, sizes.retrieval, sizes.rows, times),
        random_queries(sizes.queries, sizes.retrieval.width, sizes.seed),
    )
    return lambda: sizes.retrieval.exact(store, queries, sizes.device, WHOLE)


def approximate(sizes: Sizes, times: int) -> Callable[[], object]:
    """Search the whole of the first `times` chunks with their indexes."""
    store, queries = (
        opened_store(sizes.folder, sizes.retrieval, sizes.rows, times),
        random_queries(sizes.queries, sizes.retrieval.width, sizes.seed),
    )
    index = opened_index(sizes.folder, sizes.retrieval, store)
    return lambda: sizes.retrieval.approximate(store, index, queries, sizes.device, WHOLE)


STAGES: dict[str, Callable[[Sizes, int], Callable[[], object]]] = {
    "datastore build": build,
    "index fill": fill,
    "exact search": exact,
    "approximate search": approximate,
}


def exponents(table: pd.DataFrame, stage: str) -> np.ndarray:
    """Return the slope of log seconds against log rows, float64 (repeats,): of the first measurement at every size, of the second, and so on."""
    rows = table[table["stage"] == stage]
    sizes = rows.groupby("times", sort=True)
    seconds = np.array([part["seconds"].to_numpy() for _, part in sizes])
    return np.polyfit(np.log(sizes["rows"].first().to_numpy()), np.log(seconds), 1)[0]


def judged(table: pd.DataFrame) -> list[dict]:
    """Return the rows of the table of performance: of each stage the speed at 8× against that at 1×, as the fitted line has them, and the memory.

    Of memory less is better, so its ratio is that of 1× to 8×. That of searches has no goal where the smallest
    store fills no block of exact search: below that it must grow.
    """
    found = []
    for stage in STAGES:
        rows = table[table["stage"] == stage]
        least, most = (rows[rows["times"] == times] for times in (min(TIMES), max(TIMES)))
        speeds = [(part["rows"] / part["seconds"]).to_numpy() for part in (most, least)]
        slopes, goal = exponents(table, stage), MOST_EXPONENTS.get(stage)
        goal = None if goal is None else max(TIMES) ** (1 - goal)
        found.append(row(f"{stage} at {max(TIMES)}× the rows: 1×", "rows/s", *speeds, goal, max(TIMES) ** (1 - slopes)))
        memory = [np.array([part["memory_bytes"].max() / 1e6]) for part in (most, least)]
        goal = 1 / MOST_GROWTH if "search" not in stage or least["rows"].iloc[0] >= 2 * BLOCK_KEYS else None
        found.append(
            row(f"memory of {stage} at {max(TIMES)}× the rows: 1×", "MB", *memory, goal, memory[1] / memory[0])
        )
    return found
