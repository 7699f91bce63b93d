"""Train a FAISS index on a uniform sample of the datastore."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.datastore.index import save_index, train_index
from knnlm.datastore.store import open_datastore
from knnlm.storage.manifests import write_manifest


def main(settings: dict, chunks: Sequence[Path], trained: Path) -> None:
    """Train once; every chunk is then added to a copy."""
    store = open_datastore(chunks)
    sample = store.sample(settings["h"], settings["index"]["training_rows"])
    save_index(train_index(settings["index"]["factory"], settings["metric"], sample, settings["seed"]), trained)
    write_manifest(
        trained.with_suffix(".json"),
        files=[trained],
        kind="trained index",
        h=settings["h"],
        metric=settings["metric"],
        rows=len(sample),
        width=store.width,
        checkpoint=store.checkpoint,
        settings=settings,
    )
