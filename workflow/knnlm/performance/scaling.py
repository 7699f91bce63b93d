"""Time and memory of the stages at 1×, 2×, 4× and 8× the rows, each in a fresh process, with chunks of one size."""

import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.cost.sizes import forward_flops
from knnlm.cost.stages import BLOCK_KEYS
from knnlm.datastore.shuffle import shuffled_order
from knnlm.datastore.store import Datastore, save_chunk
from knnlm.errors import KnnlmError
from knnlm.performance import stores
from knnlm.performance.bench import Bench, Job, row, seconds_of
from knnlm.performance.memory import PeakMemory
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import write_manifest

TIMES = (1, 2, 4, 8)
MOST = max(TIMES)
# Measurements after the first, which counts only where there are no others.
REPEATS = {"datastore build": 3, "index fill": 0, "exact search": 3, "approximate search": 3}
MOST_EXPONENTS = {"datastore build": 1.05, "exact search": 1.05, "approximate search": 1.0}
FEWER_FILLED = 8  # times as many rows are searched as indexes are filled with: filling takes longer
MOST_GROWTH = 1.1  # of memory, from 1× to 8×
SHARE = 0.5  # of a measurement's time: what the smallest size takes at the machine's best
LEAST_QUERIES = 512  # fewer and the time is that of reading the keys
COLUMNS = ["stage", "times", "rows", "seconds", "memory_bytes", "resident_bytes", "exponent"]


@dataclass(frozen=True)
class Sizes:
    """What every process must know."""

    folder: Path
    device: str
    retrieval: stores.Retrieval
    rows: int  # of a chunk that is searched
    filled_rows: int  # of a chunk that an index is filled with
    queries: int
    context: int  # of the windows of a chunk that is built, as `new`
    new: int
    tokens: int  # of a chunk that is built
    seed: int

    def searched(self, times: int) -> tuple[Datastore, np.ndarray]:
        """Return the first `times` chunks of the store that is searched, and the queries."""
        store = stores.opened_store(self.folder, self.retrieval, self.rows, times)
        return store, stores.random_queries(self.queries, self.retrieval.width, self.seed)


def sizes_of(config: dict, retrieval: stores.Retrieval, bench: Bench) -> Sizes:
    """Choose sizes: the store's smallest has `bench.rows`, or as many as k neighbours and the index need."""
    context, new = (config["windows"]["train"][key] for key in ("context", "new"))
    flops = (context + new) / new * forward_flops(config["lm"]["architecture"], context + new)
    tokens = max(new, bench.fitting(flops / SHARE) // new * new)
    rows = max(bench.rows, retrieval.least_rows)
    queries = bench.fitting(2 * retrieval.width * rows / SHARE, least=LEAST_QUERIES)
    searched = rows, max(1, rows // FEWER_FILLED), queries
    return Sizes(bench.folder / "scaling", bench.device, retrieval, *searched, context, new, tokens, bench.seed)


def measure(sizes: Sizes, vocabulary: int) -> pd.DataFrame:
    """Return a row (COLUMNS) for each stage and size; the model's files stand in `model` beside the folder."""
    from knnlm.performance.language_model import random_tokens

    save_array(sizes.folder / "tokens.npy", random_tokens(MOST * sizes.tokens, vocabulary, sizes.seed))
    write_manifest(sizes.folder / "manifest.json", [sizes.folder / "tokens.npy"])
    write_stores(sizes)
    found = []
    for stage in STAGES:
        for times in (*TIMES, *reversed(TIMES)):  # so that a change of the machine does not look like growth
            found += in_a_fresh_process(stage, sizes, times)
            seconds, megabytes = found[-1]["seconds"], found[-1]["memory_bytes"] / 1e6
            print(f"scaling: {stage} at {times}×, {seconds:.2f} s, {megabytes:.0f} MB", flush=True)
    table = pd.DataFrame(found)
    table["exponent"] = table["stage"].map({stage: float(np.median(exponents(table, stage))) for stage in STAGES})
    return table


def write_stores(sizes: Sizes) -> None:
    """Write 8× the store that is searched, with its index, and 8× the one that indexes are filled with."""
    folder, retrieval = sizes.folder, sizes.retrieval
    stores.random_store(folder, retrieval, sizes.rows, MOST, sizes.seed)
    first = stores.opened_store(folder, retrieval, sizes.rows, 1)
    with redirect_stderr(StringIO()):
        stores.write_trained(folder, retrieval, first, sizes.seed, sizes.device)
    stores.write_filled(folder, retrieval, first, sizes.device)
    stores.repeat_filled(folder, retrieval, sizes.rows, MOST)
    stores.random_store(folder / "fill", retrieval, sizes.filled_rows, MOST, sizes.seed)
    for name in ("trained.faiss", "trained.json"):
        shutil.copyfile(folder / name, folder / "fill" / name)


def in_a_fresh_process(stage: str, sizes: Sizes, times: int) -> list[dict]:
    """Return what `one_size` returns from a process that ends with this one; KnnlmError if it ends without a result."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, stage, sizes, times))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        ended = f"ended with status {process.exitcode}, perhaps for want of memory; lower performance.rows"
        raise KnnlmError(f"{stage} at {times} times the rows {ended}.") from None
    finally:
        process.kill()
        process.join()


def _send(connection: Connection, *what: object) -> None:
    connection.send(one_size(*what))


def one_size(stage: str, sizes: Sizes, times: int) -> list[dict]:
    """Do a stage at one size a few times and return a row for each, with this process's peak memory over all."""
    with redirect_stderr(StringIO()), PeakMemory() as peak:
        job = STAGES[stage](sizes, times)
        taken = [seconds_of(job, sizes.device) for _ in range(1 + REPEATS[stage])]
    rows = times * {"datastore build": sizes.tokens, "index fill": sizes.filled_rows}.get(stage, sizes.rows)
    same = {"stage": stage, "times": times, "rows": rows, "memory_bytes": peak.own, "resident_bytes": peak.resident}
    return [same | {"seconds": seconds} for seconds in taken[1:] or taken]


def build(sizes: Sizes, times: int) -> Job:
    """Build `times` chunks of the datastore from as many tokens."""
    from knnlm.corpus.windows import fixed_windows, share_of_windows
    from knnlm.language_model.states import extract_states
    from knnlm.language_model.transformer import LanguageModel

    files = sizes.folder.parent / "model"
    model = LanguageModel(files / "model.pt", files / "dict.txt", sizes.device)
    tokens = load_array(sizes.folder / "tokens.npy")[: times * sizes.tokens]
    windows = fixed_windows(len(tokens), sizes.context, sizes.new)

    def work() -> None:
        for chunk in range(times):
            share = share_of_windows(windows, chunk, times)
            att, ffn, _ = extract_states(model, tokens, share)
            folder, order = sizes.folder / f"built-{chunk}", shuffled_order(len(att), sizes.seed, chunk)
            save_chunk(folder, att, ffn, tokens, int(share[0, 1]), order)

    return work


def fill(sizes: Sizes, times: int) -> Job:
    """Fill and write the indexes of the first `times` chunks."""
    folder, retrieval = sizes.folder / "fill", sizes.retrieval
    store = stores.opened_store(folder, retrieval, sizes.filled_rows, times)
    return partial(stores.write_filled, folder, retrieval, store, sizes.device)


def exact(sizes: Sizes, times: int) -> Job:
    """Search the whole of the first `times` chunks exactly; without fractions blocks of keys are at their largest."""
    return partial(sizes.retrieval.exact, *sizes.searched(times), sizes.device, stores.WHOLE)


def approximate(sizes: Sizes, times: int) -> Job:
    """Search the whole of the first `times` chunks with their indexes."""
    store, queries = sizes.searched(times)
    index = stores.opened_index(sizes.folder, sizes.retrieval, store)
    return lambda: sizes.retrieval.approximate(store, index, queries, sizes.device, stores.WHOLE)


STAGES: dict[str, Callable[[Sizes, int], Job]] = {"datastore build": build, "index fill": fill}
STAGES |= {"exact search": exact, "approximate search": approximate}


def exponents(table: pd.DataFrame, stage: str) -> np.ndarray:
    """Return the slopes of log seconds against log rows, float64 (repeats,): of the first time at every size, …"""
    sizes = table[table["stage"] == stage].groupby("times", sort=True)
    seconds = np.array([part["seconds"].to_numpy() for _, part in sizes])
    return np.polyfit(np.log(sizes["rows"].first().to_numpy()), np.log(seconds), 1)[0]


def judged(table: pd.DataFrame) -> list[dict]:
    """Return rows of the table of performance: the speed of each stage at 8× against 1×, as fitted, and its memory."""
    found = []
    for stage in STAGES:
        rows = table[table["stage"] == stage]
        least, most = (rows[rows["times"] == times] for times in (min(TIMES), MOST))
        speeds = [(part["rows"] / part["seconds"]).to_numpy() for part in (most, least)]
        goal = MOST ** (1 - MOST_EXPONENTS[stage]) if stage in MOST_EXPONENTS else None
        ratios, name = MOST ** (1 - exponents(table, stage)), f"{stage} at {MOST}× the rows: 1×"
        found.append(row(name, "rows/s", *speeds, goal, ratios))
        memory = [np.array([part["memory_bytes"].max() / 1e6]) for part in (most, least)]
        # below a block of exact search memory must grow; less is better, so the ratio is that of 1× to 8×
        goal = 1 / MOST_GROWTH if "search" not in stage or least["rows"].iloc[0] >= 2 * BLOCK_KEYS else None
        found.append(row(f"memory of {name}", "MB", *memory, goal, memory[1] / memory[0]))
    return found
