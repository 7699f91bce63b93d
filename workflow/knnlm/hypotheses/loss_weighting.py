"""Output embeddings trained with a weight for every word type: how often the kNN helps it in the training text (spec §5.5)."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from knnlm.components.catalogue import main_name
from knnlm.components.head_training import Rows, log_p_of, store_log_p, store_rows, train_head
from knnlm.components.heads import OutputEmbedding, even_rows, helped_weights, random_weights, weighted_likelihood
from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result, run_hypothesis
from knnlm.retrieval.leave_one_out import training_neighbours

NEEDS = ("states", "datastore", "model", "components", "index")
SETTINGS = {
    "h": "list of att|ffn",
    "sample_rows": "count",
    "recipe": {
        "passes": "count",
        "rows": "count or null",
        "batch": "count",
        "learning_rate": "positive",
        "betas": "betas",
        "warmup": "share",
    },
}
ROWS_AT_ONCE = 65536  # training tokens whose neighbours are in memory


def sampled_advantage(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the gold tokens, int32 (n,), and log p_kNN − log p_LM, float32 (n,), of a uniform sample of the training tokens."""
    h, metric, store, k = inputs.main["h"], inputs.main["metric"], inputs.store, inputs.retrieval["k"]
    temperature = inputs.stored_component(main_name(inputs.main, "approximate-faiss")).component.temperature
    index, values = inputs.search_index(), store.all_values()
    sample = inputs.settings["sample_rows"]
    log_p_base = store_log_p(store, inputs.output_embedding, sample, inputs.device)
    found = []
    for chunk, rows in zip(store.chunks, store_rows(store, h, sample), strict=True):
        for begin in range(0, len(rows.gold), ROWS_AT_ONCE):
            keys, gold = rows.states[begin : begin + ROWS_AT_ONCE], rows.gold[begin : begin + ROWS_AT_ONCE]
            own = chunk.first_position + begin + np.arange(len(gold))
            ids, similarities = training_neighbours(keys, own, index, k, metric)
            found.append(log_p_knn(similarities, gold_matches(ids, values, gold), temperature))
    return np.concatenate([rows.gold for rows in store_rows(store, h, sample)]), np.concatenate(found) - np.concatenate(
        log_p_base
    )


def trained_head(inputs: Inputs, h: str, name: str, type_weights: np.ndarray) -> Result:
    """Train a head with a weight for every word type, float32 (V,)."""
    recipe, (types, width) = inputs.settings["recipe"], inputs.output_embedding.shape
    evaluated = {split: Rows(inputs.queries(split, h), inputs.gold[split]) for split in SPLITS}
    weights = random_weights(types, width, torch.Generator().manual_seed(inputs.seed)).to(inputs.device)
    head, objective = (
        OutputEmbedding(weights, even_rows(types, 1), types),
        weighted_likelihood(torch.from_numpy(type_weights).to(inputs.device)),
    )
    rows = store_rows(inputs.store, h, recipe["rows"])
    trained = train_head(head, rows, evaluated["valid"], objective, recipe, inputs.seed, inputs.device, f"{h}-{name}")
    component = inputs.component(f"{h}-{name}", h=h, added_parameters=weights.numel(), rows=types)
    return Result(
        component, {split: log_p_of(head, evaluated[split], inputs.device) for split in SPLITS}, trained.facts()
    )


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield for each input a head trained with the weights, and one trained without."""
    types = len(inputs.output_embedding)
    gold, advantage = sampled_advantage(inputs)
    inputs.run_facts |= {"sampled_tokens": len(gold), "helped_share": float((advantage > 0).mean())}
    weights_of_types = {
        "weighted": helped_weights(gold, advantage > 0, types),
        "unweighted": np.ones(types, np.float32),
    }
    for h in inputs.settings["h"]:
        for name, type_weights in weights_of_types.items():
            yield inputs.kept(f"{h}-{name}", partial(trained_head, inputs, h, name, type_weights))


if __name__ == "__main__":
    run_hypothesis(components)
