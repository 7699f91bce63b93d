"""Add one datastore chunk to a copy of the trained index."""

from pathlib import Path

from knnlm.datastore.index import fill_index, open_trained, save_index
from knnlm.datastore.store import Chunk
from knnlm.running.devices import Job
from knnlm.storage.manifests import read_manifest, verified, write_manifest


def main(settings: dict, job: Job, trained: Path, chunk: Path, filled: Path) -> None:
    """Fill, write, and note which chunk of which store it was."""
    h, metric = settings["h"], settings["metric"]
    facts = read_manifest(chunk, kind="datastore chunk")
    rows = Chunk(chunk.parent, facts["rows"], facts["width"], facts["first_position"])
    index = open_trained(trained, h, metric, facts["width"], facts["checkpoint"])
    fill_index(index, [rows], h, job.device)
    save_index(index, filled)
    known = {key: facts[key] for key in ("rows", "width", "first_position", "checkpoint")}
    known |= {"h": h, "metric": metric, "chunk": facts["sha256"], "trained": verified(trained), "settings": settings}
    write_manifest(filled.with_suffix(".json"), [filled], kind="filled index", **known)
