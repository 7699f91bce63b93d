"""Measure every stage of the pipeline on synthetic data against what this machine can do."""

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.cost import hours, sizes
from knnlm.performance import arithmetic, language_model, machine, scaling, search, stores, training
from knnlm.performance.bench import COLUMNS, Bench, Measured, row
from knnlm.running.devices import Job
from knnlm.storage.tables import write_table

COMPUTING_GOAL = 0.85
DISK_BYTES_A_SECOND = 2**29  # of the seconds of one measurement: how much is written to see how fast the disk is


def main(settings: dict, job: Job, folder: Path, logs: Path, tables: Path) -> None:
    """Measure one stage after the other, and write all tables at the end; `folder` holds what is written on the way."""
    wanted, device = settings["performance"], job.device
    vocabulary, retrieval = sizes.estimated_vocabulary(settings["corpus"]["bpe_merges"]), stores.Retrieval.of(settings)
    finished = whole_run(logs)  # first, since a damaged log would end this
    shutil.rmtree(folder, ignore_errors=True)  # what a killed attempt has left
    folder.mkdir(parents=True)
    with ExitStack() as at_end:
        at_end.callback(shutil.rmtree, folder, ignore_errors=True)
        asked = wanted["pairs"], wanted["seconds"], wanted["rows"], settings["seed"]
        bench = Bench(*asked, device, folder, machine.product_speed(device))
        written = math.ceil(wanted["seconds"] * DISK_BYTES_A_SECOND)
        known = machine.description(device) | machine.speeds(device, folder, written)
        rows, rates = [], {"disk_bytes": known["disk_bytes"], "threads": known["threads"]}
        for measured in stages(settings, vocabulary, retrieval, bench):
            rows, rates = rows + measured.rows, rates | measured.rates
            for found in measured.rows:
                comparison = f"{found['ours']:.4g} / {found['reference']:.4g} {found['unit']} = {found['ratio']:.3g}"
                print(f"{found['stage']}: {comparison}", flush=True)
        sized = scaling.measure(scaling.sizes_of(settings, retrieval, bench), vocabulary)
    units = hours.UNITS
    made = {
        "performance": pd.DataFrame(rows + scaling.judged(sized) + finished, columns=COLUMNS),
        "scaling": sized[scaling.COLUMNS],
        "machine": pd.DataFrame(known.items(), columns=["fact", "value"]),
        "rates": pd.DataFrame({"operation": [*units], "rate": map(rates.get, units), "unit": units.values()}),
    }
    for name, table in made.items():
        write_table(tables / f"{name}.csv", table)


def stages(config: dict, vocabulary: int, retrieval: stores.Retrieval, bench: Bench) -> Iterator[Measured]:
    """Measure every stage but for its scaling, in the order of the data."""
    architecture, longest = config["lm"]["architecture"], config["lm"]["training"]["tokens_per_sample"]
    model = language_model.random_model(bench.folder / "model", architecture, longest, vocabulary, bench.device)
    yield training.measure(config, vocabulary, bench)
    yield language_model.measure(config, vocabulary, model, bench)
    folder, chunks = bench.folder / "store", config["datastore"]["chunks"]
    chunk_rows = math.ceil(search.store_rows(retrieval, bench) / chunks)
    store = stores.random_store(folder, retrieval, chunk_rows, chunks, bench.seed)
    stores.write_trained(folder, retrieval, store, bench.seed, bench.device)
    stores.write_filled(folder, retrieval, store, bench.device)
    yield search.measure(retrieval, store, stores.opened_index(folder, retrieval, store), bench)
    yield arithmetic.measure(config, retrieval, store, bench)
    yield arithmetic.output_embedding(config, vocabulary, model, bench)


def whole_run(logs: Path) -> list[dict]:
    """Return a row, how much of the finished run's time its steps computed; none without a run."""
    computed, wall = hours.computed_and_wall_seconds(hours.read_times(logs))
    seconds = np.array([computed]), np.array([wall])
    return [row("whole run: its steps' own computing", "s", *seconds, COMPUTING_GOAL)] if wall else []
