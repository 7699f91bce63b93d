"""The base LM's softmax at a temperature of its own (docs/paper.md#base-temperature)."""

from collections.abc import Sequence

import numpy as np
import torch

from knnlm.components.temperature import tune_temperature
from knnlm.retrieval.blocks import slices

STATES_AT_ONCE = 512  # a tile's logits stay in the cache of a CPU
FIRST_TRIED = (0.8, 1.0, 1.25)  # the search walks on from their best


def log_p_at(
    states: np.ndarray, output_embedding: np.ndarray, gold: np.ndarray, temperatures: Sequence[float],
    device: str = "cpu",
) -> np.ndarray:  # fmt: skip
    """Return log p of the gold tokens, softmax(W_sm h / τ), at every temperature: float32 (temperatures, n), in nats.

    states: float32 (n, width); output_embedding: float32 (V, width); gold: int (n,). One pass serves all temperatures
    and holds a tile of STATES_AT_ONCE · V logits.
    """
    weights = torch.as_tensor(output_embedding, device=device).T  # (width, V)
    result = np.empty((len(temperatures), len(states)), dtype=np.float32)
    for rows in slices(len(states), STATES_AT_ONCE):
        logits = torch.as_tensor(states[rows], device=device) @ weights  # (rows, V)
        of_gold = logits.gather(1, torch.as_tensor(gold[rows].astype(np.int64), device=device)[:, None])  # (rows, 1)
        logits -= of_gold  # so that no two large numbers are subtracted: log p = −log Σ exp((z − z_gold) / τ)
        for place, temperature in enumerate(temperatures):
            result[place, rows] = (-(logits / temperature).logsumexp(dim=1)).clamp_(max=0).cpu().numpy()
    return result


def best_temperature(
    states: np.ndarray, output_embedding: np.ndarray, gold: np.ndarray, search: dict, device: str = "cpu"
) -> tuple[float, str]:
    """Return the τ at which the LM alone has the lowest loss on these tokens, and how it was found (`optimum`, `edge`).

    The arrays are those of `log_p_at`; `search` is the config's section `temperature`, with the ends `low` and `high`.
    The loss is convex in 1/τ, so there is one optimum.
    """
    first = [temperature for temperature in FIRST_TRIED if search["low"] <= temperature <= search["high"]]
    known = dict(zip(first, log_p_at(states, output_embedding, gold, first, device), strict=True))

    def loss(temperature: float) -> float:
        if temperature not in known:
            known[temperature] = log_p_at(states, output_embedding, gold, [temperature], device)[0]
        return -float(known[temperature].mean(dtype=np.float64))

    return tune_temperature(loss, first, search["low"], search["high"])
