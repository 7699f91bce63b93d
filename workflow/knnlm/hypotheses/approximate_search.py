"""The kNN component as FAISS finds and scores it with more or fewer lists visited, with longer or shorter codes, and by
other kinds of index (docs/paper.md#approximate-search).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import faiss
import numpy as np

from knnlm.corpus.text import EVALUATED
from knnlm.datastore.factory import ID_BYTES, parse_factory, unfit
from knnlm.datastore.index import fill_index, train_index
from knnlm.datastore.placing import described, ivf_of, place_for
from knnlm.hypotheses.inputs import Inputs
from knnlm.hypotheses.results import Results
from knnlm.retrieval.approximate import nprobe_search, recall, recoded_index

NEEDS = ("states", "datastore", "neighbours", "index", "temperature")
SETTINGS = {"nprobe": "lists_to_try", "codes": "pq_bytes_to_try", "factories": "factories_to_try"}
WORK = {
    "components": "nprobe, codes, factories", "temperatures": "nprobe, codes, factories", "lists": "nprobe",
    "codes": "codes", "factories": "factories",
}  # fmt: skip
TIMED_QUERIES = 4096  # of each kind of index, searched once more


@dataclass(frozen=True)
class Search:
    """What a search found, ids, int32 (n, k), and similarities, float32 (n, k), and what is told of it."""

    name: str
    ids: np.ndarray
    similarities: np.ndarray
    facts: dict[str, float]
    speeds: dict[str, float] = field(default_factory=dict)


def stored(inputs: Inputs) -> Iterator[np.ndarray]:
    """Return ids and similarities of the stored retrieval, both splits together."""
    return (np.concatenate(parts) for parts in zip(*inputs.neighbours("approximate").values(), strict=True))


def of_nprobe(inputs: Inputs, queries: np.ndarray) -> Iterator[Search]:
    """Yield the search with each number of lists visited, as far as the stored index has so many."""
    lists, own = ivf_of(inputs.trained_index()).nlist, inputs.index["nprobe"]
    usable = inputs.usable("nprobe", lambda nprobe: nprobe <= lists, f"the index has {lists} lists")
    if own in usable:
        yield Search(f"nprobe-{own}", *stored(inputs), {"nprobe": own})
    if wanted := sorted({*usable} - {own}):
        index, k = inputs.search_index(), inputs.retrieval["k"]
        index = place_for(index, inputs.device, k, wanted[-1]).searched(index)
        for nprobe, *found in nprobe_search(index, queries, k, wanted):
            yield Search(f"nprobe-{nprobe}", *found, {"nprobe": nprobe})


def of_codes(inputs: Inputs, queries: np.ndarray) -> Iterator[Search]:
    """Yield the search with each code size, in bytes, that divides the width of a code, and the same lists."""
    store, trained = inputs.store, inputs.trained_index()
    width = ivf_of(trained).d
    why = f"they do not divide the {width} numbers of a key in the index"
    usable = inputs.usable("codes", lambda codes: width % codes == 0, why)
    sample = store.sample(inputs.main["h"], inputs.index["training_rows"])
    for codes in sorted({*usable}):
        facts = {"codes": codes, "bytes_a_row": codes + ID_BYTES}
        if described(trained).codes == f"PQ{codes}":
            yield Search(f"codes-{codes}", *stored(inputs), facts)
        else:
            index = recoded_index(trained, codes, sample, inputs.seed, inputs.device)
            found, speeds = filled_and_searched(inputs, index, queries)
            yield Search(f"codes-{codes}", *found, facts, speeds)


def of_factories(inputs: Inputs, queries: np.ndarray) -> Iterator[Search]:
    """Yield the search of each kind of index, trained on the sample of the store that the stored index had."""
    store, metric = inputs.store, inputs.main["metric"]
    sample = store.sample(inputs.main["h"], inputs.index["training_rows"])

    def fits(factory: str) -> bool:
        enough = parse_factory(factory, store.width).least_training_rows <= len(sample)
        return enough and not list(unfit(factory, store.width, [metric]))

    for factory in inputs.usable("factories", fits, "they do not fit the width, the metric or the training rows"):
        index = train_index(factory, metric, sample, inputs.seed, inputs.device)
        facts = {"bytes_a_row": ivf_of(index).code_size + ID_BYTES}
        found, speeds = filled_and_searched(inputs, index, queries)
        yield Search(f"index-{factory.replace(',', '-')}", *found, facts, speeds)


def filled_and_searched(
    inputs: Inputs, index: faiss.Index, queries: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, float]]:
    """Fill an index with the store and search it: return ids and similarities, and its speed on TIMED_QUERIES."""
    k, nprobe = inputs.retrieval["k"], min(inputs.index["nprobe"], ivf_of(index).nlist)
    fill_index(index, inputs.store.chunks, inputs.main["h"], inputs.device)
    index = place_for(index, inputs.device, k, nprobe).searched(index)
    ((_, *found),) = nprobe_search(index, queries, k, [nprobe])
    began, some = time.perf_counter(), queries[:TIMED_QUERIES]
    list(nprobe_search(index, some, k, [nprobe]))
    return found, {"queries_a_second": len(some) / (time.perf_counter() - began)}


def components(inputs: Inputs) -> Results:
    """Yield a component for each number of lists, code size and kind of index, with the recall of its search."""
    values, edge = inputs.store.all_values(), len(inputs.gold["valid"])
    queries = np.concatenate([inputs.queries(split, inputs.main["h"]) for split in EVALUATED])
    exact = np.concatenate([ids for ids, _ in inputs.neighbours("exact").values()])
    for series, searches in (("nprobe", of_nprobe), ("PQ codes", of_codes), ("kinds of index", of_factories)):
        for search in searches(inputs, queries):
            share = float(recall(search.ids, exact).mean())
            parts = zip(np.split(search.ids, [edge]), np.split(search.similarities, [edge]), strict=True)
            found, place = dict(zip(EVALUATED, parts, strict=True)), {"series": series, "x": share}
            result = inputs.knn_component(search.name, "approximate", found, values, **place)
            yield replace(result, facts={"recall": share, **search.facts}, speeds=search.speeds)
