"""The kNN component with fewer neighbours, k' ≤ k, taken from the stored ones (docs/paper.md#neighbours)."""

from knnlm.hypotheses.inputs import SEARCHED, Inputs, Results

NEEDS = ("neighbours", "datastore", "temperature")
SETTINGS = {"counts": "neighbours_to_try"}
WORK = {"components": "counts", "temperatures": "counts"}


def counts(inputs: Inputs) -> list[int]:
    """Return the ascending k' for which there are enough stored neighbours; null stands for all of them."""
    k = inputs.retrieval["k"]
    usable = inputs.usable("counts", lambda count: count is None or count <= k, f"retrieval.k is {k}")
    return sorted({count or k for count in usable})


def components(inputs: Inputs) -> Results:
    """Yield one component for each search and k': exact with real scores, and as FAISS finds and scores neighbours."""
    wanted, values = counts(inputs), inputs.store.all_values()
    for search, series in SEARCHED.items():
        stored = inputs.neighbours(search)
        for k in wanted:
            nearest = {split: (ids[:, :k], similarities[:, :k]) for split, (ids, similarities) in stored.items()}
            yield inputs.knn_component(f"{search}-k{k}", search, nearest, values, series=series, x=k)
