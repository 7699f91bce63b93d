"""Hidden states and log-probabilities of a text, window by window: only here the language model runs on one."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from knnlm.corpus.dictionary import END_OF_LINE
from knnlm.errors import KnnlmError
from knnlm.language_model.transformer import LanguageModel
from knnlm.running.progress import progress
from knnlm.running.transfers import fetched


def window_batches(windows: np.ndarray, tokens_at_once: int) -> Iterator[np.ndarray]:
    """Group windows (n, 3) of similar length so that a padded batch has at most about `tokens_at_once` positions."""
    lengths = windows[:, 2] - windows[:, 0]
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        count = max(1, tokens_at_once // int(lengths[order[begin]]))
        yield windows[order[begin : begin + count]]
        begin += count


def padded_source(tokens: np.ndarray, windows: np.ndarray) -> torch.Tensor:
    """Return the model's input for windows (n, 3): int64 (n, longest), the token before each position.

    `</s>` stands before the first token and fills up the rows: causal attention needs no mask against what follows.
    """
    longest = int((windows[:, 2] - windows[:, 0]).max())
    before = windows[:, :1] - 1 + np.arange(longest)  # (n, longest): the position of the token before
    inside = (before >= 0) & (before < windows[:, 2:] - 1)
    source = np.where(inside, tokens[np.where(inside, before, 0)], END_OF_LINE)
    return torch.from_numpy(source.astype(np.int64))


def scored_states(
    model: LanguageModel, tokens: np.ndarray, batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Run the LM on batches of windows (m, 3); yield the positions that each batch scores, and `att` and `ffn` there.

    positions: int64 (rows,); att and ffn: float32 (rows, width), on the model's device.
    """
    for batch in batches:
        states = model.states(padded_source(tokens, batch))  # att and ffn, (m, longest, width) each
        scored = [slice(begin - context, end - context) for context, begin, end in batch.tolist()]
        att, ffn = (torch.cat([row[inside] for row, inside in zip(of, scored, strict=True)]) for of in states)
        yield np.concatenate([np.arange(begin, end) for _, begin, end in batch.tolist()]), att, ffn


def extract_states(
    model: LanguageModel, tokens: np.ndarray, windows: np.ndarray, tokens_at_once: int = 4096, with_log_p: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Run the LM over consecutive `windows` of `tokens`; return the states of every scored position, in text order.

    Returns `att` and `ffn`, float16 (rows, width), and log p_LM of each token, float32 (rows,) in nats, or None without
    `with_log_p`. Row 0 belongs to the first window's `begin`. Memory: the states of these windows and one batch. Raises
    KnnlmError if a window is longer than the model reads or a state does not fit float16.
    """
    if int((windows[:, 2] - windows[:, 0]).max()) > model.longest_input:
        problem = f"context + new is more than the {model.longest_input} tokens that the model was trained on"
        raise KnnlmError(f"config key windows: {problem}.")
    offset, rows = int(windows[0, 1]), int(windows[-1, 2] - windows[0, 1])
    att, ffn = (np.empty((rows, model.width), dtype=np.float16) for _ in range(2))
    log_p = np.empty(rows, dtype=np.float32) if with_log_p else None

    def computed() -> Iterator[tuple[np.ndarray, list[torch.Tensor]]]:
        batches = list(window_batches(windows, tokens_at_once))
        for positions, *of_batch in scored_states(model, tokens, progress(batches, "states")):
            found = [states.to(torch.float16) for states in of_batch]  # (rows of the batch, width) each
            if log_p is not None:
                found.append(model.log_probabilities(of_batch[1], as_targets(tokens[positions])))
            yield positions - offset, found

    finite = True
    for place, (of_att, of_ffn, *of_gold) in fetched(computed()):
        att[place], ffn[place] = of_att, of_ffn
        finite &= bool(np.isfinite(of_att).all() and np.isfinite(of_ffn).all())
        if log_p is not None:
            log_p[place] = of_gold[0]
    if not finite:
        remedy = "train it with a smaller lm.training.learning_rate"
        raise KnnlmError(f"the LM's hidden states do not fit float16 (not finite); {remedy}.")
    return att, ffn, log_p


def log_p_of(model: LanguageModel, ffn: torch.Tensor, gold: np.ndarray) -> np.ndarray:
    """Return the LM's log p of the tokens `gold`, int (rows,), at `ffn` (rows, width): float32 (rows,) in nats."""
    return model.log_probabilities(ffn, as_targets(gold)).cpu().numpy()


def as_targets(gold: np.ndarray) -> torch.Tensor:
    """Return tokens, int (rows,), as what a model is asked about: int64 (rows,)."""
    return torch.from_numpy(gold.astype(np.int64))


def log_p_in_windows(
    model: LanguageModel, tokens: np.ndarray, windows: np.ndarray, tokens_at_once: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that windows (m, 3) score, in any order, int32 (n,), and log p_LM, float32 (n,) in nats."""
    scored = scored_states(model, tokens, window_batches(windows, tokens_at_once))
    found = [(gold := tokens[positions], log_p_of(model, ffn, gold)) for positions, _, ffn in scored]
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def sample_windows(windows: np.ndarray, tokens: int, seed: int) -> np.ndarray:
    """Return a random choice of the windows (m, 3), in their order, with about this many scored tokens, or all."""
    sizes = windows[:, 2] - windows[:, 1]
    order = np.random.default_rng(seed).permutation(len(windows))
    count = int(np.searchsorted(np.cumsum(sizes[order]), tokens)) + 1
    return windows[np.sort(order[:count])]
