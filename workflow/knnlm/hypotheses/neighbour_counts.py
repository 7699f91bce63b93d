"""The kNN component with fewer neighbours, k' ≤ k, from the stored ones: exact with real scores, and as FAISS finds and scores them (§5.11, §5.16)."""

from collections.abc import Iterator

import numpy as np

from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("neighbours", "datastore", "temperature")
SETTINGS = {"counts": {"type": "array", "items": {"$ref": "#/$defs/neighbours_or_null"}}}
WORK = {"components": "counts", "temperatures": "counts"}
SEARCHES = {"exact": ("real", "real"), "approximate": ("faiss", "faiss")}


def counts(inputs: Inputs) -> list[int]:
    """Return the ascending k', as far as there are so many stored neighbours; null stands for all of them."""
    k = inputs.retrieval["k"]
    usable = inputs.usable("counts", lambda count: count is None or count <= k, f"retrieval.k is {k}")
    return sorted({count or k for count in usable})


def component(inputs: Inputs, search: str, count: int, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Result:
    """Score the first `count` neighbours; `found` holds similarities, best first, and matches of each split."""
    nearest = {split: (similarities[:, :count], matches[:, :count]) for split, (similarities, matches) in found.items()}
    mask, score = SEARCHES[search]
    description = inputs.component(
        f"{search}-k{count}", **inputs.main, mask=mask, score=score, fraction=1.0, k=count, rows=inputs.store.rows,
        series=f"{mask.replace('faiss', 'FAISS')} mask, {score.replace('faiss', 'FAISS')} score", x=count,
    )  # fmt: skip
    return inputs.tuned(description, lambda split, temperature: log_p_knn(*nearest[split], temperature))


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield one component for each search and k'."""
    wanted, values = counts(inputs), inputs.store.all_values()
    for search in SEARCHES:
        found = {}
        for split in SPLITS:
            ids, similarities = inputs.neighbours(split, search)
            found[split] = similarities, gold_matches(ids, values, inputs.gold[split])
        for count in wanted:
            yield component(inputs, search, count, found)
