"""The base LM's softmax cut to its most probable types and renormalised (docs/paper.md#sparsification)."""

import numpy as np
import torch

from knnlm.retrieval.blocks import slices

STATES_AT_ONCE = 512  # a tile's logits stay in the cache of a CPU


def log_p_sparsified(
    states: np.ndarray, output_embedding: np.ndarray, gold: np.ndarray, sizes: list[int], device: str = "cpu"
) -> np.ndarray:
    """Return log p of the gold tokens where only the k' types with the largest logits keep their mass, in nats.

    The result is float32 (sizes, n), −inf outside. states: float32 (n, width); output_embedding: float32 (V, width);
    gold: int (n,); sizes: the k' > 0 in any order, k' ≥ V keeps all types. One pass serves all sizes. A gold token is
    inside if fewer than k' types have a larger logit: all that tie for the last place are, but k' logits are summed.
    """
    weights = torch.as_tensor(output_embedding, device=device).T
    descending = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    result = np.empty((len(sizes), len(states)), dtype=np.float32)
    for rows in slices(len(states), STATES_AT_ONCE):
        kept = torch.as_tensor(states[rows], device=device) @ weights  # logits, (rows, V)
        of_gold = kept.gather(1, torch.as_tensor(gold[rows].astype(np.int64), device=device)[:, None])  # (rows, 1)
        larger = (kept > of_gold).sum(dim=1)  # (rows,)
        for place in descending:
            if sizes[place] < kept.shape[1]:  # the top of what the larger size has kept
                kept = kept.topk(sizes[place], dim=1, sorted=False).values
            log_p = (of_gold[:, 0] - kept.logsumexp(dim=1)).clamp_(max=0)
            result[place, rows] = log_p.masked_fill_(larger >= sizes[place], -torch.inf).cpu().numpy()
    return result
