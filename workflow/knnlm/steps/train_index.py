"""Train a FAISS index on a uniform sample of the datastore."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.datastore.index import save_index, train_index
from knnlm.datastore.store import open_datastore
from knnlm.running.devices import Job
from knnlm.storage.manifests import write_manifest


def main(settings: dict, job: Job, chunks: Sequence[Path], trained: Path) -> None:
    """Train once; every chunk is then added to a copy."""
    store, h, metric = open_datastore(chunks), settings["h"], settings["metric"]
    sample = store.sample(h, settings["index"]["training_rows"])
    index = train_index(settings["index"]["factory"], metric, sample, settings["seed"], job.device)
    save_index(index, trained)
    facts = {"h": h, "metric": metric, "rows": len(sample), "width": store.width, "checkpoint": store.checkpoint}
    write_manifest(trained.with_suffix(".json"), [trained], kind="trained index", settings=settings, **facts)
