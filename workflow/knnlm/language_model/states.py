"""Hidden states of a text, window by window: the one place where the language model runs over a corpus."""

from collections.abc import Iterator

import numpy as np
import torch

from knnlm.errors import KnnlmError
from knnlm.language_model.transformer import END_OF_LINE, LanguageModel
from knnlm.running.progress import progress


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
    """Return the model's input for windows (n, 3): int64 (n, longest), the token before each position; before the first stands `</s>`.

    Rows are filled up with `</s>` too: attention is causal, so what follows a window does not matter, and no mask is needed.
    """
    longest = int((windows[:, 2] - windows[:, 0]).max())
    source = np.full((len(windows), longest), END_OF_LINE, dtype=np.int64)
    for row, (context_begin, _, end) in zip(source, windows.tolist(), strict=True):
        first = max(context_begin - 1, 0)
        row[end - context_begin - (end - 1 - first) : end - context_begin] = tokens[first : end - 1]
        if context_begin == 0:
            row[0] = END_OF_LINE
    return torch.from_numpy(source)


def extract_states(
    model: LanguageModel, tokens: np.ndarray, windows: np.ndarray, tokens_at_once: int = 4096, with_log_p: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Run the LM over consecutive `windows` of `tokens` and return the states of every scored position, in the order of the text.

    Returns `att` and `ffn`, float16 (rows, width), and log p_LM of each token, float32 (rows,) in nats, or None without `with_log_p`. Row 0
    belongs to the first window's `begin`. Memory: the states of these windows and one batch. Raises KnnlmError if a window is longer than
    the model reads or a state does not fit float16.
    """
    if int((windows[:, 2] - windows[:, 0]).max()) > model.longest_input:
        raise KnnlmError(
            f"config key windows: context + new is more than the {model.longest_input} tokens that the model was trained on."
        )
    offset, rows = int(windows[0, 1]), int(windows[-1, 2] - windows[0, 1])
    att, ffn = (np.empty((rows, model.width), dtype=np.float16) for _ in range(2))
    log_p = np.empty(rows, dtype=np.float32) if with_log_p else None
    batches = list(window_batches(windows, tokens_at_once))
    for batch in progress(batches, "states"):
        batch_att, batch_ffn = model.states(padded_source(tokens, batch))
        places = [
            (row, slice(b - c, e - c), slice(b - offset, e - offset)) for row, (c, b, e) in enumerate(batch.tolist())
        ]
        for row, inside, outside in places:
            att[outside] = batch_att[row, inside].to(torch.float16).cpu().numpy()
            ffn[outside] = batch_ffn[row, inside].to(torch.float16).cpu().numpy()
        if log_p is not None:
            features = torch.cat([batch_ffn[row, inside] for row, inside, _ in places])
            targets = np.concatenate(
                [tokens[outside.start + offset : outside.stop + offset] for _, _, outside in places]
            ).astype(np.int64)
            scores = model.log_probabilities(features, torch.from_numpy(targets)).cpu().numpy()
            sizes = [outside.stop - outside.start for _, _, outside in places]
            for (_, _, outside), part in zip(places, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
                log_p[outside] = part
    if not (np.isfinite(att).all() and np.isfinite(ffn).all()):
        raise KnnlmError(
            "the LM's hidden states do not fit float16 (not finite); train it with a smaller lm.training.learning_rate."
        )
    return att, ffn, log_p
