"""Find the neighbours of the training positions of one chunk of the store, each position left out of its own."""

import argparse
from pathlib import Path

import numpy as np

from knnlm.hypotheses.inputs import Inputs
from knnlm.retrieval.leave_one_out import training_neighbours
from knnlm.running.step import run
from knnlm.storage.files import load_array, save_array, write_manifest
from knnlm.storage.seals import verified


def main(arguments: argparse.Namespace) -> None:
    """Store values, int32, and similarities, float32, (rows, k), by position.

    Memory: the index without its lists, the values of the store and the chunk's neighbours.
    """
    inputs = Inputs(arguments)
    store, (h, metric), k = inputs.store, (inputs.main["h"], inputs.main["metric"]), inputs.settings["k"]
    number = arguments.settings["chunk"]
    chunk = store.chunks[number]
    own = np.arange(chunk.first_position, chunk.first_position + chunk.rows)
    ids, similarities = training_neighbours(chunk.keys_of(h), own, inputs.search_index(), k, metric)
    order = np.argsort(load_array(chunk.folder / "positions.npy", dtype="int64", shape=(chunk.rows,)))
    files = {name: arguments.neighbours / f"{name}.npy" for name in ("values", "similarities")}
    save_array(files["values"], store.all_values()[ids[order]])
    save_array(files["similarities"], similarities[order])
    write_manifest(
        arguments.neighbours / "manifest.json",
        files=files.values(),
        kind="training neighbours",
        h=h,
        metric=metric,
        k=k,
        chunk=number,
        first_position=chunk.first_position,
        rows=chunk.rows,
        checkpoint=store.checkpoint,
        trained=verified(arguments.trained),
        settings=arguments.settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--settings", required=True, help="JSON with hypothesis, settings (k), seed, main, index and chunk"
    )
    options.add_argument("--base", type=Path, required=True, help="description of the base LM's component")
    options.add_argument("--chunks", type=Path, nargs="+", required=True, help="manifests of the datastore's chunks")
    options.add_argument("--trained", type=Path, required=True, help="the main retrieval's trained index")
    options.add_argument(
        "--filled", type=Path, nargs="+", required=True, help="its filled indexes in the order of the chunks"
    )
    options.add_argument("--neighbours", type=Path, required=True, help="folder of the chunk's neighbours")
    return options


if __name__ == "__main__":
    run(main, parser())
