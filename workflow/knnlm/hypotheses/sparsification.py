"""The base LM's softmax cut to its top k' types and renormalised (issue 3, item 7; §5.16)."""

from collections.abc import Iterator

import numpy as np

from knnlm.components.sparse_softmax import log_p_sparsified
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("states", "model")
SETTINGS = {"k": "counts_or_null"}
WORK = {"components": "k"}


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield `top-<k'>` for every k' of the settings; null, or k' >= V, keeps all types and is the base LM but for the float16 of the stored states."""
    types = len(inputs.output_embedding)
    sizes = sorted({min(size or types, types) for size in inputs.settings["k"]})
    log_p = {
        split: log_p_sparsified(
            inputs.queries(split, "ffn"), inputs.output_embedding, inputs.gold[split], sizes, inputs.device
        )
        for split in SPLITS
    }
    for place, size in enumerate(sizes):
        outside = {
            f"share of gold tokens outside in {split}": float(np.isneginf(log_p[split][place]).mean())
            for split in SPLITS
        }
        component = inputs.component(f"top-{size}", h="ffn", metric="ip", series="base LM", x=size, k=size, rows=types)
        yield Result(component, {split: log_p[split][place] for split in SPLITS}, outside)
