"""Mixtures of stored components, such as both metrics or a second seed, with the best weights on the simplex (§5.13)."""

from collections.abc import Iterator

import numpy as np

from knnlm.components.catalogue import resolved_name
from knnlm.components.mixture import mixture, simplex_weights
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("components",)
SETTINGS = {"ensembles": {"type": "object", "additionalProperties": {"$ref": "#/$defs/components"}}}


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield for every entry of `ensembles` the mixture of its members, without the base LM.

    The members' shares are those of the joint optimum with the base LM on valid, so that interpolating with the base LM gives that optimum.
    """
    for name, members in inputs.settings["ensembles"].items():
        results = [inputs.stored_component(resolved_name(member, inputs.main)) for member in members]
        weights = simplex_weights(
            np.stack([inputs.log_p_base["valid"], *(result.log_p["valid"] for result in results)])
        )
        shares = weights[1:] / weights[1:].sum() if weights[1:].any() else np.full(len(results), 1 / len(results))
        log_p = {
            split: mixture(np.stack([result.log_p[split] for result in results]), shares).astype(np.float32)
            for split in SPLITS
        }
        facts = {
            f"weight {result.component.component}": weight for result, weight in zip(results, weights[1:], strict=True)
        }
        added_parameters = sum(result.component.added_parameters for result in results)
        yield Result(
            inputs.component(name, added_parameters=added_parameters), log_p, {"weight base": weights[0], **facts}
        )
