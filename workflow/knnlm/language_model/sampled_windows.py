"""How alike an LM that knows its training text by heart and the kNN distribution are (spec §4.3, §5.12)."""

import numpy as np
import torch

from knnlm.language_model.states import padded_source, window_batches
from knnlm.language_model.transformer import LanguageModel


def correlation(log_p_base: np.ndarray, log_p_one: np.ndarray, log_p_other: np.ndarray) -> float:
    """Return Pearson's correlation of p_one − p_base and p_other − p_base over the tokens (§5.12); nan where one of them is constant."""
    base, one, other = (np.exp(np.asarray(log_p, np.float64)) for log_p in (log_p_base, log_p_one, log_p_other))
    gains = np.stack([one - base, other - base])
    return float(np.corrcoef(gains)[0, 1]) if np.ptp(gains, axis=1).all() else float("nan")


def sample_windows(windows: np.ndarray, tokens: int, seed: int) -> np.ndarray:
    """Return a random choice of the windows (m, 3), in their order, with about this many scored tokens: all of them where there are fewer."""
    sizes = windows[:, 2] - windows[:, 1]
    order = np.random.default_rng(seed).permutation(len(windows))
    count = int(np.searchsorted(np.cumsum(sizes[order]), tokens)) + 1
    return windows[np.sort(order[:count])]


def log_p_in_windows(
    model: LanguageModel, tokens: np.ndarray, windows: np.ndarray, tokens_at_once: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that any windows (m, 3) of a text score, int32 (n,), and the LM's log p of each, float32 (n,) in nats; in no special order."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in window_batches(windows, tokens_at_once):
        _, ffn = model.states(padded_source(tokens, batch))
        features = torch.cat(
            [
                row[begin - context : end - context]
                for row, (context, begin, end) in zip(ffn, batch.tolist(), strict=True)
            ]
        )
        gold = np.concatenate([tokens[begin:end] for _, begin, end in batch.tolist()])
        found.append((gold, model.log_probabilities(features, torch.from_numpy(gold.astype(np.int64))).cpu().numpy()))
    gold, log_p = zip(*found, strict=True)
    return np.concatenate(gold), np.concatenate(log_p)
