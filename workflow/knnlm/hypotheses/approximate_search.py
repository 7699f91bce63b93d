"""The kNN component as FAISS finds and scores it with more or fewer lists visited, and with longer or shorter codes
(docs/paper.md#approximate-search).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from knnlm.corpus.text import EVALUATED
from knnlm.datastore.placing import ivf_of, place_for
from knnlm.hypotheses.inputs import Inputs
from knnlm.hypotheses.results import Results
from knnlm.retrieval.approximate import fill_in_memory, nprobe_search, recall, recoded_index

NEEDS = ("states", "datastore", "neighbours", "index", "temperature")
SETTINGS = {"nprobe": "lists_to_try", "codes": "pq_bytes_to_try"}
WORK = {"components": "nprobe, codes", "temperatures": "nprobe, codes", "lists": "nprobe", "codes": "codes"}
Search = tuple[int, np.ndarray, np.ndarray]  # the setting, ids, int32 (n, k), and similarities, float32 (n, k)


def stored(inputs: Inputs) -> Iterator[np.ndarray]:
    """Return ids and similarities of the stored retrieval, both splits together."""
    return (np.concatenate(parts) for parts in zip(*inputs.neighbours("approximate").values(), strict=True))


def of_nprobe(inputs: Inputs, queries: np.ndarray) -> Iterator[Search]:
    """Yield the search with each number of lists visited, as far as the stored index has so many."""
    lists, own = ivf_of(inputs.trained_index()).nlist, inputs.index["nprobe"]
    usable = inputs.usable("nprobe", lambda nprobe: nprobe <= lists, f"the index has {lists} lists")
    if own in usable:
        yield own, *stored(inputs)
    if wanted := sorted({*usable} - {own}):
        index, k = inputs.search_index(), inputs.retrieval["k"]
        index = place_for(index, inputs.device, k, wanted[-1]).searched(index)
        yield from nprobe_search(index, queries, k, wanted)


def of_codes(inputs: Inputs, queries: np.ndarray) -> Iterator[Search]:
    """Yield the search with each code size, in bytes, that divides the width, and the same lists."""
    store, h, trained = inputs.store, inputs.main["h"], inputs.trained_index()
    why = f"lm.architecture.width is {store.width}, which they do not divide"
    usable = inputs.usable("codes", lambda codes: store.width % codes == 0, why)
    sample = store.sample(h, inputs.index["training_rows"])
    for codes in sorted({*usable}):
        if codes == trained.code_size:
            yield codes, *stored(inputs)
        else:
            index, k, nprobe = (
                recoded_index(trained, codes, sample, inputs.seed, inputs.device),
                inputs.retrieval["k"],
                inputs.index["nprobe"],
            )
            fill_in_memory(index, store, h, inputs.device)
            index = place_for(index, inputs.device, k, nprobe).searched(index)
            ((_, *found),) = nprobe_search(index, queries, k, [nprobe])
            yield codes, *found


def components(inputs: Inputs) -> Results:
    """Yield a component for each number of lists and each code size, with the recall of its search."""
    values, edge = inputs.store.all_values(), len(inputs.gold["valid"])
    queries = np.concatenate([inputs.queries(split, inputs.main["h"]) for split in EVALUATED])
    exact = np.concatenate([ids for ids, _ in inputs.neighbours("exact").values()])
    for setting, series, searches in (("nprobe", "nprobe", of_nprobe), ("codes", "PQ codes", of_codes)):
        for value, ids, similarities in searches(inputs, queries):
            share = float(recall(ids, exact).mean())
            parts = zip(np.split(ids, [edge]), np.split(similarities, [edge]), strict=True)
            found, place = dict(zip(EVALUATED, parts, strict=True)), {"series": series, "x": share}
            result = inputs.knn_component(f"{setting}-{value}", "approximate", found, values, **place)
            yield replace(result, facts={"recall": share, setting: value})
