"""Find the k nearest rows of every evaluation token, or of one block of them, at every fraction of the store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import real_score_fractions, searched_fractions
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.index import open_filled, open_trained
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.errors import KnnlmError
from knnlm.retrieval.approximate import approximate_search, real_similarities
from knnlm.retrieval.blocks import rows_of_splits
from knnlm.retrieval.exact import exact_search
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array, new_array
from knnlm.storage.manifests import check_same_model, read_manifest, write_manifest

Write = Callable[[str, float, np.ndarray], None]


def main(
    settings: dict, job: Job, states: Path, chunks: Sequence[Path], neighbours: Path,
    trained: Path | None = None, filled: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Search once, score again with the real keys where asked for, and store ids and similarities of each split."""
    h, metric, k, search = settings["h"], settings["metric"], settings["retrieval"]["k"], settings["search"]
    store, fractions = open_datastore(chunks), searched_fractions(settings, h, metric)
    if k > (smallest := int(fractions[0] * store.rows)):
        problem = f"{k} is more than the {smallest} rows of the smallest store; lower it"
        raise KnnlmError(f"config key retrieval.k: {problem}.")
    queries, sizes = load_queries(states, store, h, *settings.get("block", (0, 1)))
    rescored = real_score_fractions(settings, h, metric) if search == "approximate" else []
    if search == "exact":
        snapshots = exact_search(queries, store, h, metric, k, fractions, job.device)
    else:
        empty = open_trained(trained, h, metric, store.width, store.checkpoint)
        parts, nprobe = open_filled(filled, trained, store, h, metric), settings["index"]["nprobe"]
        snapshots = approximate_search(queries, store, empty, parts, nprobe, k, fractions, job.device, filled[0].parent)
    slabs = {"ids": fractions, "similarities": fractions} | ({"real": rescored} if rescored else {})
    with open_arrays(neighbours, sizes, k, slabs) as write:
        for fraction, ids, similarities in snapshots:
            write("ids", fraction, ids)
            write("similarities", fraction, similarities)
            if fraction in rescored:
                write("real", fraction, real_similarities(queries, ids, store, h, metric, job.device))
    of_store = {"rows": store.rows, "width": store.width, "checkpoint": store.checkpoint, "store": store.identity}
    of_search = {"h": h, "metric": metric, "search": search, "k": k, "settings": settings}
    of_search |= {"fractions": fractions, "real_score_fractions": rescored}
    files = [neighbours / f"{split}.{name}.npy" for split in EVALUATED for name in slabs]
    write_manifest(neighbours / "manifest.json", files, kind="neighbours", **of_search, **of_store)


def load_queries(folder: Path, store: Datastore, h: str, block: int, blocks: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return the queries of a block, float32 (n, width), valid's before test's, and how many are of each split.

    Raises KnnlmError, naming the manifest, for states of another LM than the store's.
    """
    manifest = folder / "manifest.json"
    checkpoint = read_manifest(manifest, kind="evaluation states")["checkpoint"]
    check_same_model(manifest, checkpoint, store.manifest, store.checkpoint)
    states = {split: load_array(folder / f"{split}.{h}.npy", "float16", (None, store.width)) for split in EVALUATED}
    rows = rows_of_splits({split: len(of_split) for split, of_split in states.items()}, block, blocks)
    parts = {split: states[split][rows[split]] for split in EVALUATED}
    return np.concatenate(list(parts.values())).astype(np.float32), {split: len(part) for split, part in parts.items()}


@contextmanager
def open_arrays(folder: Path, sizes: dict[str, int], k: int, slabs: dict[str, list[float]]) -> Iterator[Write]:
    """Open, for each split and name, a file of an array (slabs, n, k) that is whole at the end or not there.

    Yields `write(name, fraction, rows)`, which writes the slab of a fraction: rows (n, k), valid's before test's.
    """
    with ExitStack() as files:
        writers = {}
        for split, size in sizes.items():
            for name, fractions in slabs.items():
                dtype, path = "int32" if name == "ids" else "float32", folder / f"{split}.{name}.npy"
                writers[split, name] = files.enter_context(new_array(path, dtype, (len(fractions), size, k)))

        def write(name: str, fraction: float, rows: np.ndarray) -> None:
            for split, part in zip(EVALUATED, np.split(rows, [sizes[EVALUATED[0]]]), strict=True):
                writers[split, name](slabs[name].index(fraction), 0, part)

        yield write
