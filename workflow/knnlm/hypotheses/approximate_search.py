"""The kNN component as FAISS finds and scores it with more or fewer lists visited, and with longer or shorter codes (§5.11)."""

from collections.abc import Iterator

import numpy as np

from knnlm.components.knn import knn_scorer
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result
from knnlm.retrieval.approximate import fill_in_memory, nprobe_search, recall, recoded_index

NEEDS = ("states", "datastore", "neighbours", "index", "temperature")
SETTINGS = {
    "nprobe": {"type": "array", "items": {"$ref": "#/$defs/lists"}},
    "codes": {"type": "array", "items": {"$ref": "#/$defs/pq_bytes"}},
}
WORK = {"components": "nprobe, codes", "temperatures": "nprobe, codes", "lists": "nprobe", "codes": "codes"}


class Sweeps:
    """What the two sweeps share: the queries of both splits together, the true neighbours, the values, and the stored index."""

    def __init__(self, inputs: Inputs):
        """Read the stored files."""
        self.inputs, self.store, self.k = inputs, inputs.store, inputs.retrieval["k"]
        self.queries = np.concatenate([inputs.queries(split, inputs.main["h"]) for split in SPLITS])
        self.true = np.concatenate([inputs.neighbours(split, "exact")[0] for split in SPLITS])
        self.values = self.store.all_values()
        self.trained = inputs.trained_index()

    def result(self, name: str, series: str, ids: np.ndarray, similarities: np.ndarray, **facts: float) -> Result:
        """Return the component of one search of both splits, and its recall."""
        first = len(self.inputs.gold["valid"])
        found = dict(
            zip(SPLITS, zip(np.split(ids, [first]), np.split(similarities, [first]), strict=True), strict=True)
        )
        share = float(recall(ids, self.true).mean())
        description = self.inputs.component(
            name,
            **self.inputs.main,
            mask="faiss",
            score="faiss",
            fraction=1.0,
            k=self.k,
            rows=self.store.rows,
            series=series,
            x=share,
        )
        return self.inputs.tuned(description, knn_scorer(found, self.values, self.inputs.gold), recall=share, **facts)

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and similarities of the stored retrieval, both splits together."""
        ids, similarities = zip(*(self.inputs.neighbours(split, "approximate") for split in SPLITS), strict=True)
        return np.concatenate(ids), np.concatenate(similarities)

    def of_nprobe(self) -> Iterator[Result]:
        """Yield a component for each number of lists visited in the stored index, as far as it has so many."""
        stored, lists = self.inputs.index["nprobe"], self.trained.nlist
        usable = self.inputs.usable("nprobe", lambda nprobe: nprobe <= lists, f"the index has {lists} lists")
        if stored in usable:
            yield self.result(f"nprobe-{stored}", "nprobe", *self.stored(), nprobe=stored)
        wanted = sorted({*usable} - {stored})
        for nprobe, ids, similarities in (
            nprobe_search(self.inputs.search_index(), self.queries, self.k, wanted) if wanted else []
        ):
            yield self.result(f"nprobe-{nprobe}", "nprobe", ids, similarities, nprobe=nprobe)

    def of_codes(self) -> Iterator[Result]:
        """Yield a component for each code size, in bytes, that divides the width, with the stored index' lists; its own size is the stored retrieval."""
        width = self.store.width
        usable = self.inputs.usable(
            "codes", lambda codes: width % codes == 0, f"lm.architecture.width is {width}, which they do not divide"
        )
        sample = self.store.sample(self.inputs.main["h"], self.inputs.index["training_rows"])
        for codes in sorted({*usable}):
            if codes == self.trained.code_size:
                ids, similarities = self.stored()
            else:
                index = recoded_index(self.trained, codes, sample, self.inputs.seed)
                fill_in_memory(index, self.store, self.inputs.main["h"])
                ((_, ids, similarities),) = nprobe_search(index, self.queries, self.k, [self.inputs.index["nprobe"]])
            yield self.result(f"codes-{codes}", "PQ codes", ids, similarities, codes=codes)


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield the components of both sweeps."""
    sweeps = Sweeps(inputs)
    yield from sweeps.of_nprobe()
    yield from sweeps.of_codes()
