"""Add one datastore chunk to a copy of the trained index."""

import argparse
from pathlib import Path

from knnlm.datastore.index import fill_index, open_trained, save_index
from knnlm.datastore.store import Chunk
from knnlm.running.step import run
from knnlm.storage.files import read_manifest, write_manifest
from knnlm.storage.seals import verified


def main(arguments: argparse.Namespace) -> None:
    """Fill, write, and note which chunk of which store it was."""
    settings = arguments.settings
    h, metric = settings["h"], settings["metric"]
    facts = read_manifest(arguments.chunk, kind="datastore chunk")
    chunk = Chunk(arguments.chunk.parent, facts["rows"], facts["width"], facts["first_position"])
    index = open_trained(arguments.trained, h, metric, facts["width"], facts["checkpoint"])
    fill_index(index, chunk, h)
    save_index(index, arguments.filled)
    write_manifest(
        arguments.filled.with_suffix(".json"),
        files=[arguments.filled],
        kind="filled index",
        h=h,
        metric=metric,
        rows=facts["rows"],
        width=facts["width"],
        first_position=facts["first_position"],
        checkpoint=facts["checkpoint"],
        chunk=facts["sha256"],
        trained=verified(arguments.trained),
        settings=settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with index, h and metric")
    options.add_argument("--trained", type=Path, required=True)
    options.add_argument("--chunk", type=Path, required=True, help="manifest of the chunk")
    options.add_argument("--filled", type=Path, required=True)
    return options


if __name__ == "__main__":
    run(main, parser())
