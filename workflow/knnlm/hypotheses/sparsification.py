"""The base LM's softmax cut to its top k' types and renormalised (docs/paper.md#sparsification)."""

import numpy as np

from knnlm.components.sparse_softmax import log_p_sparsified
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result, Results

NEEDS = ("states", "model")
SETTINGS = {"k": "counts_or_null"}
WORK = {"components": "k"}


def components(inputs: Inputs) -> Results:
    """Yield `top-<k'>` for every k'; null, or k' ≥ V, keeps all types: the base LM but for the states' float16."""
    W = inputs.output_embedding
    sizes = sorted({min(size or len(W), len(W)) for size in inputs.settings["k"]})
    queries = {split: inputs.queries(split, "ffn") for split in EVALUATED}
    log_p = {split: log_p_sparsified(queries[split], W, inputs.gold[split], sizes, inputs.device) for split in queries}
    for place, size in enumerate(sizes):
        own = {split: columns[place] for split, columns in log_p.items()}  # of float32 (sizes, n) each
        outside = {f"share of gold tokens outside in {split}": float(np.isneginf(own[split]).mean()) for split in own}
        described = {"h": "ffn", "metric": "ip", "k": size, "rows": len(W), "series": "base LM", "x": size}
        yield Result(inputs.component(f"top-{size}", **described), own, outside)
