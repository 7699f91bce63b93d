"""Find the k nearest rows of every evaluation token, once, at every fraction of the store that the config asks for."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from knnlm.artifacts import load_array, new_array, read_manifest, sha256, write_manifest
from knnlm.component_list import real_score_fractions, searched_fractions
from knnlm.datastore import Datastore, open_datastore
from knnlm.errors import KnnlmError
from knnlm.index import load_index
from knnlm.search import Snapshot, approximate_search, exact_search, real_similarities
from knnlm.steps import device_for, run

SPLITS = ("valid", "test")


def load_queries(folder: Path, store: Datastore, h: str) -> tuple[np.ndarray, dict[str, int]]:
    """Return the queries of both splits, float32 (n, width), and the size of each split; refuses states of another LM."""
    read_manifest(folder / "manifest.json", kind="evaluation states", checkpoint=store.checkpoint, width=store.width)
    splits = [load_array(folder / f"{split}.{h}.npy", dtype="float16", shape=(None, store.width)) for split in SPLITS]
    return np.concatenate(splits).astype(np.float32), {split: len(states) for split, states in zip(SPLITS, splits, strict=True)}


def snapshots(arguments: argparse.Namespace, store: Datastore, queries: np.ndarray, fractions: list[float]) -> Iterator[Snapshot]:
    """Start the search that the settings name."""
    settings, device = arguments.settings, device_for(arguments.gpus)
    h, metric, k = settings["h"], settings["metric"], settings["retrieval"]["k"]
    if settings["search"] == "exact":
        return exact_search(queries, store, h, metric, k, fractions, device)
    trained = load_index(arguments.trained, metric, store.width, rows=0)
    facts = {"kind": "filled index", "trained": sha256(arguments.trained), "checkpoint": store.checkpoint}
    for path, chunk in zip(arguments.filled, store.chunks, strict=True):
        read_manifest(path.with_suffix(".json"), **facts, first_position=chunk.first_position)
    filled = [load_index(path, metric, store.width, chunk.rows) for path, chunk in zip(arguments.filled, store.chunks, strict=True)]
    return approximate_search(queries, store, trained, filled, settings["index"]["nprobe"], k, fractions, device)


def main(arguments: argparse.Namespace) -> None:
    """Search, score again with the real keys where asked for, and store ids and similarities of each split, one slab a fraction."""
    settings = arguments.settings
    h, metric, k = settings["h"], settings["metric"], settings["retrieval"]["k"]
    store = open_datastore(arguments.chunks)
    fractions = searched_fractions(settings, h, metric)
    if k > int(fractions[0] * store.rows):
        raise KnnlmError(f"config key retrieval.k: {k} is more than the {int(fractions[0] * store.rows)} rows of the smallest store; lower it.")
    rescored = real_score_fractions(settings, h, metric) if settings["search"] == "approximate" else []
    queries, sizes = load_queries(arguments.states, store, h)
    with ExitStack() as files:
        writers = {
            (split, name): files.enter_context(new_array(arguments.neighbours / f"{split}.{name}.npy", dtype, (len(parts), size, k)))
            for split, size in sizes.items()
            for name, dtype, parts in (("ids", "int32", fractions), ("similarities", "float32", fractions), ("real", "float32", rescored))
            if parts
        }

        def write(name: str, slab: int, array: np.ndarray) -> None:
            for split, part in zip(SPLITS, np.split(array, [sizes[SPLITS[0]]]), strict=True):
                writers[split, name](slab, 0, part)

        for fraction, ids, similarities in snapshots(arguments, store, queries, fractions):
            write("ids", fractions.index(fraction), ids)
            write("similarities", fractions.index(fraction), similarities)
            if fraction in rescored:
                write("real", rescored.index(fraction), real_similarities(queries, ids, store, h, metric))
    write_manifest(
        arguments.neighbours / "manifest.json",
        kind="neighbours",
        h=h,
        metric=metric,
        search=settings["search"],
        k=k,
        fractions=fractions,
        real_score_fractions=rescored,
        rows=store.rows,
        width=store.width,
        checkpoint=store.checkpoint,
        settings=settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with retrieval, main, fractions, index, h, metric and search")
    options.add_argument("--gpus", type=int, default=0)
    options.add_argument("--states", type=Path, required=True, help="folder of the evaluation states")
    options.add_argument("--chunks", type=Path, nargs="+", required=True, help="manifests of the datastore's chunks")
    options.add_argument("--trained", type=Path, help="trained index; for the approximate search")
    options.add_argument("--filled", type=Path, nargs="+", help="filled indexes in the order of the chunks; for the approximate search")
    options.add_argument("--neighbours", type=Path, required=True, help="folder of the neighbours")
    return options


if __name__ == "__main__":
    run(main, parser())
