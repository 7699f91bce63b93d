"""The kNN component as FAISS finds and scores it with more or fewer lists visited, and with longer or shorter codes
(docs/paper.md#approximate-search).
"""

from collections.abc import Iterator

import numpy as np

from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs
from knnlm.hypotheses.results import Result
from knnlm.retrieval.approximate import fill_in_memory, nprobe_search, recall, recoded_index

NEEDS = ("states", "datastore", "neighbours", "index", "temperature")
SETTINGS = {
    "nprobe": {"type": "array", "items": {"$ref": "#/$defs/lists"}},
    "codes": {"type": "array", "items": {"$ref": "#/$defs/pq_bytes"}},
}
WORK = {"components": "nprobe, codes", "temperatures": "nprobe, codes", "lists": "nprobe", "codes": "codes"}
Found = tuple[np.ndarray, np.ndarray]  # ids, int32 (n, k), and similarities, float32 (n, k), both splits together


def of_nprobe(inputs: Inputs, queries: np.ndarray, stored: Found) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (nprobe, ids, similarities) for each number of lists visited, as far as the stored index has so many."""
    lists, own = inputs.trained_index().nlist, inputs.index["nprobe"]
    usable = inputs.usable("nprobe", lambda nprobe: nprobe <= lists, f"the index has {lists} lists")
    if own in usable:
        yield own, *stored
    if wanted := sorted({*usable} - {own}):
        yield from nprobe_search(inputs.search_index(), queries, inputs.retrieval["k"], wanted)


def of_codes(inputs: Inputs, queries: np.ndarray, stored: Found) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (codes, ids, similarities) for each code size, in bytes, that divides the width, with the same lists."""
    store, h, trained = inputs.store, inputs.main["h"], inputs.trained_index()
    why = f"lm.architecture.width is {store.width}, which they do not divide"
    usable = inputs.usable("codes", lambda codes: store.width % codes == 0, why)
    sample = store.sample(h, inputs.index["training_rows"])
    for codes in sorted({*usable}):
        if codes == trained.code_size:
            yield codes, *stored
        else:
            index = recoded_index(trained, codes, sample, inputs.seed)
            fill_in_memory(index, store, h)
            ((_, *found),) = nprobe_search(index, queries, inputs.retrieval["k"], [inputs.index["nprobe"]])
            yield codes, *found


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield a component for each number of lists and each code size, with the recall of its search."""
    values, edge = inputs.store.all_values(), len(inputs.gold["valid"])
    queries = np.concatenate([inputs.queries(split, inputs.main["h"]) for split in EVALUATED])
    stored, exact = (
        [np.concatenate(parts) for parts in zip(*inputs.neighbours(search).values(), strict=True)]
        for search in ("approximate", "exact")
    )
    for setting, series, searches in (("nprobe", "nprobe", of_nprobe), ("codes", "PQ codes", of_codes)):
        for value, ids, similarities in searches(inputs, queries, stored):
            share = float(recall(ids, exact[0]).mean())
            parts = zip(np.split(ids, [edge]), np.split(similarities, [edge]), strict=True)
            found, facts = dict(zip(EVALUATED, parts, strict=True)), {"recall": share, setting: value}
            place = {"series": series, "x": share}
            yield inputs.knn_component(f"{setting}-{value}", "approximate", found, values, facts=facts, **place)
