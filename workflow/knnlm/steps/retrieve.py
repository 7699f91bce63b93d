"""Find the k nearest rows of every evaluation token, or of one block of them, once, at every fraction of the store that the config asks for."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import real_score_fractions, searched_fractions
from knnlm.datastore.index import open_filled, open_trained
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.errors import KnnlmError
from knnlm.retrieval.approximate import Snapshot, approximate_search, real_similarities
from knnlm.retrieval.exact import exact_search
from knnlm.retrieval.query_blocks import rows_of_splits
from knnlm.running.devices import device_for, gpu_options
from knnlm.running.step import run
from knnlm.storage.files import check_same_model, load_array, new_array, read_manifest, write_manifest

SPLITS = ("valid", "test")


def load_queries(folder: Path, store: Datastore, h: str, block: int, blocks: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return the queries of a block, float32 (n, width), valid's before test's, and how many are of each split; refuses states of another LM."""
    manifest = folder / "manifest.json"
    check_same_model(
        manifest, read_manifest(manifest, kind="evaluation states")["checkpoint"], store.manifest, store.checkpoint
    )
    splits = {
        split: load_array(folder / f"{split}.{h}.npy", dtype="float16", shape=(None, store.width)) for split in SPLITS
    }
    rows = rows_of_splits({split: len(states) for split, states in splits.items()}, block, blocks)
    parts = {split: states[rows[split]] for split, states in splits.items()}
    return np.concatenate(list(parts.values())).astype(np.float32), {split: len(part) for split, part in parts.items()}


def snapshots(
    arguments: argparse.Namespace, store: Datastore, queries: np.ndarray, fractions: list[float]
) -> Iterator[Snapshot]:
    """Start the search that the settings name."""
    settings, device = arguments.settings, device_for(arguments.gpus)
    h, metric, k = settings["h"], settings["metric"], settings["retrieval"]["k"]
    if settings["search"] == "exact":
        return exact_search(queries, store, h, metric, k, fractions, device)
    trained = open_trained(arguments.trained, h, metric, store.width, store.checkpoint)
    filled = open_filled(arguments.filled, arguments.trained, store, h, metric)
    return approximate_search(
        queries, store, trained, filled, settings["index"]["nprobe"], k, fractions, device, arguments.filled[0].parent
    )


def main(arguments: argparse.Namespace) -> None:
    """Search, score again with the real keys where asked for, and store ids and similarities of each split, one slab a fraction."""
    settings = arguments.settings
    h, metric, k = settings["h"], settings["metric"], settings["retrieval"]["k"]
    store = open_datastore(arguments.chunks)
    fractions = searched_fractions(settings, h, metric)
    if k > int(fractions[0] * store.rows):
        raise KnnlmError(
            f"config key retrieval.k: {k} is more than the {int(fractions[0] * store.rows)} rows of the smallest store; lower it."
        )
    rescored = real_score_fractions(settings, h, metric) if settings["search"] == "approximate" else []
    queries, sizes = load_queries(arguments.states, store, h, *settings.get("block", (0, 1)))
    with ExitStack() as open_files:
        writers = {
            (split, name): open_files.enter_context(
                new_array(arguments.neighbours / f"{split}.{name}.npy", dtype, (len(parts), size, k))
            )
            for split, size in sizes.items()
            for name, dtype, parts in (
                ("ids", "int32", fractions),
                ("similarities", "float32", fractions),
                ("real", "float32", rescored),
            )
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
        files=[arguments.neighbours / f"{split}.{name}.npy" for split, name in writers],
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
        store=store.identity,
        settings=settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--settings",
        required=True,
        help="JSON with retrieval, main, fractions, index, h, metric, search, and block (its number and how many)",
    )
    gpu_options(options)
    options.add_argument("--states", type=Path, required=True, help="folder of the evaluation states")
    options.add_argument("--chunks", type=Path, nargs="+", required=True, help="manifests of the datastore's chunks")
    options.add_argument("--trained", type=Path, help="trained index; for the approximate search")
    options.add_argument(
        "--filled", type=Path, nargs="+", help="filled indexes in the order of the chunks; for the approximate search"
    )
    options.add_argument("--neighbours", type=Path, required=True, help="folder of the neighbours")
    return options


if __name__ == "__main__":
    run(main, parser())
