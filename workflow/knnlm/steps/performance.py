"""Measure every stage of the pipeline on synthetic data against what this machine can do."""

import argparse
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.cost.plan import estimated_vocabulary
from knnlm.cost.step_times import computed_and_wall_seconds, read_times
from knnlm.performance import arithmetic, heads, language_model, machine, scaling, search, training
from knnlm.performance.bench import COLUMNS, Bench, Measured, row
from knnlm.running.devices import device_for, gpu_options
from knnlm.running.step import run
from knnlm.storage.files import atomic

UNITS = {
    "training_flops": "FLOP/s",
    "states_flops": "FLOP/s",
    "exact_flops": "FLOP/s",
    "choosing_flops": "FLOP/s",
    "lookups": "look-ups/s",
    "real_score_bytes": "bytes/s",
    "neighbour_terms": "terms/s",
    "head_flops": "FLOP/s",
    "disk_bytes": "bytes/s",
    "threads": "threads",
}
COMPUTING_GOAL = 0.85
DISK_BYTES_A_SECOND = 2**29  # of the seconds of one measurement: how much is written to see how fast the disk is


def main(arguments: argparse.Namespace) -> None:
    """Measure one stage after the other and write all tables at the end."""
    settings, wanted, device = arguments.settings, arguments.settings["performance"], device_for(arguments.gpus)
    vocabulary, retrieval = estimated_vocabulary(settings["corpus"]["bpe_merges"]), search.Retrieval.of(settings)
    finished = whole_run(arguments.logs)  # first, since a damaged log would end this
    with emptied(arguments.folder) as folder:
        sizes = wanted["pairs"], wanted["seconds"], wanted["rows"], settings["seed"]
        bench = Bench(*sizes, device, folder, machine.product_speed(device))
        known = machine.description(device) | machine.speeds(
            device, folder, math.ceil(wanted["seconds"] * DISK_BYTES_A_SECOND)
        )
        rows, rates = [], {"disk_bytes": known["disk_bytes"], "threads": known["threads"]}
        for measured in stages(settings, vocabulary, retrieval, bench):
            rows, rates = rows + measured.rows, rates | measured.rates
            for found in measured.rows:
                print(
                    f"{found['stage']}: {found['ours']:.4g} / {found['reference']:.4g} {found['unit']} = {found['ratio']:.3g}",
                    flush=True,
                )
        sized = scaling.measure(scaling.sizes_of(settings, retrieval, bench), vocabulary)
    tables = {
        arguments.performance_table: pd.DataFrame(rows + scaling.judged(sized) + finished, columns=COLUMNS),
        arguments.scaling_table: sized[scaling.COLUMNS],
        arguments.machine_table: pd.DataFrame(known.items(), columns=["fact", "value"]),
        arguments.rates_table: pd.DataFrame(
            [(name, rates[name], unit) for name, unit in UNITS.items()], columns=["operation", "rate", "unit"]
        ),
    }
    for path, table in tables.items():
        with atomic(path) as unfinished:
            table.to_csv(unfinished, index=False)


def stages(config: dict, vocabulary: int, retrieval: search.Retrieval, bench: Bench) -> Iterator[Measured]:
    """Measure every stage but for its scaling, in the order of the data."""
    architecture, longest = config["lm"]["architecture"], config["lm"]["training"]["tokens_per_sample"]
    model = language_model.random_model(bench.folder / "model", architecture, longest, vocabulary, bench.device)
    yield training.measure(config, vocabulary, bench)
    yield language_model.measure(config, vocabulary, model, bench)
    folder, chunks = bench.folder / "store", config["datastore"]["chunks"]
    store = search.random_store(
        folder, retrieval, math.ceil(search.store_rows(retrieval, bench) / chunks), chunks, bench.seed
    )
    search.write_trained(folder, retrieval, store, bench.seed)
    search.write_filled(folder, retrieval, store)
    yield search.measure(retrieval, store, search.opened_index(folder, retrieval, store), bench)
    yield arithmetic.measure(config, retrieval, store, bench)
    yield heads.measure(config, vocabulary, model, bench)


def whole_run(logs: Path) -> list[dict]:
    """Return a row that tells which part of the finished run's time was computing, start-ups, imports and scheduling aside; none without a run."""
    computed, wall = computed_and_wall_seconds(read_times(logs))
    return (
        [row("whole run: its steps' own computing", "s", np.array([computed]), np.array([wall]), COMPUTING_GOAL)]
        if wall
        else []
    )


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Yield a folder for what is written on the way, without what a killed attempt has left; in the end it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument(
        "--settings", required=True, help="JSON with the sections of the config that shape the work, and performance"
    )
    gpu_options(options)
    options.add_argument(
        "--folder", type=Path, required=True, help="folder for what is written on the way; it is emptied and removed"
    )
    options.add_argument(
        "--logs",
        type=Path,
        required=True,
        help="the run's folder of logs, where its steps leave their times; may be missing",
    )
    for table in ("performance", "scaling", "machine", "rates"):
        options.add_argument(f"--{table}-table", required=True)
    return options


if __name__ == "__main__":
    run(main, parser())
