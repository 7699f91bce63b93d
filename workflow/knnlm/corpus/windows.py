"""Sliding context windows: which tokens a language model reads, and which of them it is asked about.

A window is a row (context_begin, begin, end) of token positions: the model reads the context [context_begin, begin) and
is scored on [begin, end). Every token of a text is scored in exactly one window.
"""

import numpy as np


def fixed_windows(tokens: int, context: int, new: int) -> np.ndarray:
    """Cut a text into blocks of `new` tokens, each read behind up to `context` earlier ones; int64 (windows, 3).

    The paper's datastore is made so (fairseq's break mode `none`), but its code leaves out the first and the last
    block, which have less context or fewer tokens (`docs/paper.md#datastore`).
    """
    begins = np.arange(0, tokens, new, dtype=np.int64)
    ends = np.minimum(begins + new, tokens)
    return np.stack([np.maximum(begins - context, 0), begins, ends], axis=1)


def whole_line_windows(lines: np.ndarray, context: int, new: int) -> np.ndarray:
    """Pack whole lines into blocks of at most `new` tokens behind up to `context` earlier ones; int64 (windows, 3).

    The paper evaluates so (fairseq's break mode `complete`, `docs/paper.md#evaluation`). `lines` holds the token offset
    of every line and, last, the number of tokens. A line longer than `new` is cut into pieces of `new` tokens, because
    a language model has a longest input, and shares no block with others.
    """
    cuts = [0]
    for begin, end in zip(lines[:-1].tolist(), lines[1:].tolist(), strict=True):
        if end - cuts[-1] > new and begin > cuts[-1]:
            cuts.append(begin)
        if end - begin > new:
            cuts += [*range(begin + new, end, new), end]
    if cuts[-1] < lines[-1]:
        cuts.append(int(lines[-1]))
    edges = np.asarray(cuts, dtype=np.int64)
    return np.stack([np.maximum(edges[:-1] - context, 0), edges[:-1], edges[1:]], axis=1)


def share_of_windows(windows: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Return part `part` of `parts` consecutive, nearly equal shares of the windows, as one datastore chunk has."""
    edges = np.linspace(0, len(windows), parts + 1).astype(np.int64)
    return windows[edges[part] : edges[part + 1]]
