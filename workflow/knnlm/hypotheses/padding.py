"""kNN in a store padded with zero rows of value `<s>`, as the paper's was, by both searches (docs/paper.md#padding).

The quantisers are those of the store without padding: trained anew, they would differ by more than the padding does.
"""

from dataclasses import replace

import numpy as np

from knnlm.components import zero_rows
from knnlm.components.catalogue import main_name
from knnlm.components.knn import Neighbours, log_p_knn
from knnlm.hypotheses.inputs import MASKS, SEARCHED, Inputs, Results

NEEDS = ("states", "datastore", "neighbours", "components", "index", "temperature")
SETTINGS = {"shares": "shares"}
WORK = {"components": "shares", "temperatures": "shares"}


def padded(inputs: Inputs, search: str, added: int) -> Neighbours:
    """Return what a search would find, had zero rows been added to the store: worked out from stored ones."""
    found = {}
    for split, (ids, similarities) in inputs.neighbours(search).items():
        queries = inputs.queries(split, inputs.main["h"])
        if search == "exact":
            to_zero = zero_rows.similarity_to_zero(queries, inputs.main["metric"])
        else:
            to_zero = zero_rows.scanned_similarity_to_zero(inputs.trained_index(), inputs.index["nprobe"], queries)
        found[split] = zero_rows.padded_neighbours(ids, similarities, to_zero, added, inputs.store.rows)
    return found


def padding_facts(inputs: Inputs, found: Neighbours, temperature: float) -> dict[str, float]:
    """Return how many of both splits' neighbours are padding, and how much of p_kNN the padding takes on average."""
    padding = {split: ids >= inputs.store.rows for split, (ids, _) in found.items()}  # (n, k) each
    weights = [np.exp(log_p_knn(found[split][1], padding[split], temperature)) for split in found]  # (n,) each
    share = float(np.concatenate(list(padding.values())).mean())
    weight = float(np.concatenate(weights).mean(dtype=np.float64))
    return {"padding_share_of_neighbours": share, "weight_of_padding": weight}


def components(inputs: Inputs) -> Results:
    """Yield an exact and an approximate component for each share of zero rows."""
    for share in sorted(set(inputs.settings["shares"])):
        added = zero_rows.count_zero_rows(share, inputs.store.rows)
        # the zero rows' value is `<s>`, which no text has as gold token
        values = np.concatenate([inputs.store.all_values(), np.zeros(added, np.int32)])
        for search, series in SEARCHED.items():
            found, same = padded(inputs, search, added), None
            if added and all((ids < inputs.store.rows).all() for ids, _ in found.values()):
                # no query meets the padding: one component has one temperature, or rounding alone would tell them apart
                same = inputs.stored_component(main_name(inputs.main, f"{search}-{MASKS[search]}")).component
            place = {"same": same, "series": series, "x": share}
            result = inputs.knn_component(f"{search}-{share:g}", search, found, values, **place)
            facts = padding_facts(inputs, found, result.component.temperature)
            yield replace(result, facts={"zero_rows": added, **facts})
