"""Output embeddings whose loss weighs a word type by how often the kNN helps it (docs/paper.md#loss-weighting)."""

from functools import partial

import numpy as np
import torch

from knnlm.components.catalogue import main_name
from knnlm.components.head_training import store_log_p, store_rows
from knnlm.components.heads import even_rows, helped_weights, weighted_likelihood
from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.datastore.placing import place_for
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.trained_heads import random_head, trained_head
from knnlm.retrieval.approximate import training_neighbours
from knnlm.retrieval.blocks import slices

NEEDS = ("states", "datastore", "model", "components", "index")
SETTINGS = {"h": "states", "sample_rows": "count", "recipe": "recipe"}
WORK = {
    "hidden_states": "h", "components": "h", "queries": "sample_rows",
    "rows": "recipe.rows for each recipe.learning_rates", "passes": "recipe.passes",
}  # fmt: skip
ROWS_AT_ONCE = 65536  # training tokens whose neighbours are in memory


def sampled_advantage(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return gold, int32 (n,), and log p_kNN − log p_LM, float32 (n,), of a uniform sample of training tokens."""
    h, metric, store, k = inputs.main["h"], inputs.main["metric"], inputs.store, inputs.retrieval["k"]
    temperature = inputs.stored_component(main_name(inputs.main, "approximate-faiss")).component.temperature
    index, values = inputs.search_index(), store.all_values()
    index = place_for(index, inputs.device, k + 1, inputs.index["nprobe"]).searched(index)
    sample = store_rows(store, h, inputs.settings["sample_rows"])
    log_p_base = store_log_p(store, inputs.output_embedding, inputs.settings["sample_rows"], inputs.device)
    log_p = []
    for chunk, rows in zip(store.chunks, sample, strict=True):
        for some in slices(len(rows.gold), ROWS_AT_ONCE):
            own = chunk.first_position + np.arange(some.start, some.stop)
            ids, similarities = training_neighbours(rows.states[some], own, index, k, metric)  # (n, k), no own row
            log_p.append(log_p_knn(similarities, gold_matches(ids, values, rows.gold[some]), temperature))
    return np.concatenate([rows.gold for rows in sample]), np.concatenate(log_p) - np.concatenate(log_p_base)


def components(inputs: Inputs) -> Results:
    """Yield for each input a head trained with the weights, and one trained without."""
    types = len(inputs.output_embedding)
    gold, advantage = sampled_advantage(inputs)
    inputs.run_facts |= {"sampled_tokens": len(gold), "helped_share": float((advantage > 0).mean())}
    weights = {"weighted": helped_weights(gold, advantage > 0, types), "unweighted": np.ones(types, np.float32)}
    for h in inputs.settings["h"]:
        for name, type_weights in weights.items():
            objective = partial(weighted_likelihood, torch.from_numpy(type_weights).to(inputs.device))
            head = partial(random_head, inputs, even_rows(types, 1))
            yield trained_head(inputs, f"{h}-{name}", head, h, inputs.settings["recipe"], objective)
