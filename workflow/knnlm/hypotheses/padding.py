"""The kNN component of a store that is padded with zero rows of value `<s>`, as the paper's was, with exact and approximate search (§2.2, §7.1a).

The quantisers are those of the store without padding: trained anew on a padded sample, they would differ by more than the padding does.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from knnlm.components.knn import knn_scorer, log_p_knn
from knnlm.components.zero_rows import (
    count_zero_rows,
    padded_neighbours,
    scanned_similarity_to_zero,
    similarity_to_zero,
)
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("states", "datastore", "neighbours", "index", "temperature")
SETTINGS = {"shares": "shares"}
WORK = {"components": "shares", "temperatures": "shares"}
SERIES = {"exact": "real mask, real score", "approximate": "FAISS mask, FAISS score"}
Found = dict[str, tuple[np.ndarray, np.ndarray]]


def exact(inputs: Inputs, zero_rows: int) -> Found:
    """Return ids and similarities of each split in the padded store, from the stored ones: no search is needed."""
    found = {}
    for split in SPLITS:
        to_zero = similarity_to_zero(inputs.queries(split, inputs.main["h"]), inputs.main["metric"])
        found[split] = padded_neighbours(*inputs.neighbours(split, "exact"), to_zero, zero_rows, inputs.store.rows)
    return found


def approximate(inputs: Inputs, zero_rows: int) -> Found:
    """Return ids and similarities of each split as the stored index would find them, had the zero rows been added to it: no search is needed either."""
    trained, found = inputs.trained_index(), {}
    for split in SPLITS:
        to_zero = scanned_similarity_to_zero(trained, inputs.index["nprobe"], inputs.queries(split, inputs.main["h"]))
        found[split] = padded_neighbours(
            *inputs.neighbours(split, "approximate"), to_zero, zero_rows, inputs.store.rows
        )
    return found


def component(inputs: Inputs, search: str, share: float, zero_rows: int, found: Found) -> Result:
    """Tune and score one component; measure how many neighbours are padding, and how much of p_kNN they take."""
    rows = inputs.store.rows
    padding = {split: ids >= rows for split, (ids, _) in found.items()}
    values = np.concatenate(
        [inputs.store.all_values(), np.zeros(zero_rows, np.int32)]
    )  # `<s>`, which no text has as gold token
    mask = "real" if search == "exact" else "faiss"
    description = inputs.component(
        f"{search}-{share:g}",
        **inputs.main,
        mask=mask,
        score=mask,
        fraction=1.0,
        k=inputs.retrieval["k"],
        rows=rows + zero_rows,
        series=SERIES[search],
        x=share,
    )
    result = inputs.tuned(description, knn_scorer(found, values, inputs.gold))
    weights = [np.exp(log_p_knn(found[split][1], padding[split], result.component.temperature)) for split in SPLITS]
    facts = {
        "zero_rows": zero_rows,
        "padding_share_of_neighbours": float(np.concatenate(list(padding.values())).mean()),
        "weight_of_padding": float(np.concatenate(weights).mean(dtype=np.float64)),
    }
    return replace(result, facts=facts)


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield an exact and an approximate component for each share of zero rows."""
    for share in sorted(set(inputs.settings["shares"])):
        zero_rows = count_zero_rows(share, inputs.store.rows)
        for search, retrieve in (("exact", exact), ("approximate", approximate)):
            yield component(inputs, search, share, zero_rows, retrieve(inputs, zero_rows))
