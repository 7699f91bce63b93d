"""Find the neighbours of the training positions of one chunk of the store, each position left out of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knnlm.datastore.placing import place_for
from knnlm.hypotheses.inputs import Inputs, Stored
from knnlm.retrieval.approximate import training_neighbours
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import verified, write_manifest


def main(
    settings: dict, job: Job, base: Path, chunks: Sequence[Path], trained: Path, filled: Sequence[Path],
    neighbours: Path,
) -> None:  # fmt: skip
    """Store values, int32, and similarities, float32, (rows, k), by position.

    Memory: the index without its lists, the values of the store and the chunk's neighbours.
    """
    parts = {key: value for key, value in settings.items() if key != "chunk"}
    inputs = Inputs(**parts, stored=Stored(base=base, chunks=chunks, trained=trained, filled=filled))
    store, (h, metric), k = inputs.store, (inputs.main["h"], inputs.main["metric"]), inputs.settings["k"]
    number = settings["chunk"]
    chunk = store.chunks[number]
    own = np.arange(chunk.first_position, chunk.first_position + chunk.rows)
    index = inputs.search_index()
    place = place_for(index, job.device, k + 1, inputs.index["nprobe"])
    ids, similarities = training_neighbours(chunk.keys_of(h), own, place.searched(index), k, metric)
    order = np.argsort(load_array(chunk.folder / "positions.npy", dtype="int64", shape=(chunk.rows,)))
    save_array(neighbours / "values.npy", store.all_values()[ids[order]])
    save_array(neighbours / "similarities.npy", similarities[order])
    facts = {"h": h, "metric": metric, "k": k, "trained": verified(trained), "settings": settings, "rows": chunk.rows}
    facts |= {"chunk": number, "first_position": chunk.first_position, "checkpoint": store.checkpoint}
    files = [neighbours / "values.npy", neighbours / "similarities.npy"]
    write_manifest(neighbours / "manifest.json", files, kind="training neighbours", **facts)
