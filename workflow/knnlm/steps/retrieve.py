"""Find the k nearest rows of every evaluation token, or of one block of them, once, at every fraction of the store that the config asks for."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import real_score_fractions, searched_fractions
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.index import open_filled, open_trained
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.errors import KnnlmError
from knnlm.retrieval.approximate import approximate_search, real_similarities
from knnlm.retrieval.exact import exact_search
from knnlm.retrieval.query_blocks import rows_of_splits
from knnlm.running.devices import Job
from knnlm.storage.files import check_same_model, load_array, new_array, read_manifest, write_manifest


def load_queries(folder: Path, store: Datastore, h: str, block: int, blocks: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return the queries of a block, float32 (n, width), valid's before test's, and how many are of each split; refuses states of another LM."""
    manifest = folder / "manifest.json"
    check_same_model(
        manifest, read_manifest(manifest, kind="evaluation states")["checkpoint"], store.manifest, store.checkpoint
    )
    splits = {
        split: load_array(folder / f"{split}.{h}.npy", dtype="float16", shape=(None, store.width))
        for split in EVALUATED
    }
    rows = rows_of_splits({split: len(states) for split, states in splits.items()}, block, blocks)
    parts = {split: states[rows[split]] for split, states in splits.items()}
    return np.concatenate(list(parts.values())).astype(np.float32), {split: len(part) for split, part in parts.items()}


def main(
    settings: dict,
    job: Job,
    states: Path,
    chunks: Sequence[Path],
    neighbours: Path,
    trained: Path | None = None,
    filled: Sequence[Path] = (),
) -> None:
    """Search, score again with the real keys where asked for, and store ids and similarities of each split, one slab a fraction."""
    h, metric, k = settings["h"], settings["metric"], settings["retrieval"]["k"]
    store = open_datastore(chunks)
    fractions = searched_fractions(settings, h, metric)
    if k > int(fractions[0] * store.rows):
        raise KnnlmError(
            f"config key retrieval.k: {k} is more than the {int(fractions[0] * store.rows)} rows of the smallest store; lower it."
        )
    rescored = real_score_fractions(settings, h, metric) if settings["search"] == "approximate" else []
    queries, sizes = load_queries(states, store, h, *settings.get("block", (0, 1)))
    if settings["search"] == "exact":
        snapshots = exact_search(queries, store, h, metric, k, fractions, job.device)
    else:
        empty = open_trained(trained, h, metric, store.width, store.checkpoint)
        parts, nprobe = open_filled(filled, trained, store, h, metric), settings["index"]["nprobe"]
        snapshots = approximate_search(queries, store, empty, parts, nprobe, k, fractions, job.device, filled[0].parent)
    with ExitStack() as open_files:
        writers = {
            (split, name): open_files.enter_context(
                new_array(neighbours / f"{split}.{name}.npy", dtype, (len(parts), size, k))
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
            for split, part in zip(EVALUATED, np.split(array, [sizes[EVALUATED[0]]]), strict=True):
                writers[split, name](slab, 0, part)

        for fraction, ids, similarities in snapshots:
            write("ids", fractions.index(fraction), ids)
            write("similarities", fractions.index(fraction), similarities)
            if fraction in rescored:
                write("real", rescored.index(fraction), real_similarities(queries, ids, store, h, metric))
    write_manifest(
        neighbours / "manifest.json",
        files=[neighbours / f"{split}.{name}.npy" for split, name in writers],
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
