"""Train a FAISS index on a uniform sample of the datastore."""

import argparse
from pathlib import Path

from knnlm.datastore.index import save_index, train_index
from knnlm.datastore.store import open_datastore
from knnlm.running.step import run
from knnlm.storage.files import write_manifest


def main(arguments: argparse.Namespace) -> None:
    """Train once; every chunk is then added to a copy."""
    settings = arguments.settings
    store = open_datastore(arguments.chunks)
    sample = store.sample(settings["h"], settings["index"]["training_rows"])
    save_index(
        train_index(settings["index"]["factory"], settings["metric"], sample, settings["seed"]), arguments.trained
    )
    write_manifest(
        arguments.trained.with_suffix(".json"),
        files=[arguments.trained],
        kind="trained index",
        h=settings["h"],
        metric=settings["metric"],
        rows=len(sample),
        width=store.width,
        checkpoint=store.checkpoint,
        settings=settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with seed, index, h and metric")
    options.add_argument("--chunks", type=Path, nargs="+", required=True, help="manifests of the datastore's chunks")
    options.add_argument("--trained", type=Path, required=True)
    return options


if __name__ == "__main__":
    run(main, parser())
