"""Which tokens the kNN-LM helps: by four properties of a token and its place, and by word type (the paper's appendix).

A token is helped if the component alone finds it likelier than the base LM; gain is the mixture's log p less that LM's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from knnlm.corpus.dictionary import END_OF_LINE

PROPERTIES = ("training frequency", "place in the word", "tokens into the document", "entropy of successors (nats)")
COLUMNS = ["property", "bin", "low", "high", "tokens", "helped", "gain", "share_of_gain"]
TYPE_COLUMNS = ["effect", "type", "tokens", "train_count", "helped", "gain"]
TYPES_SHOWN = 20
COUNTED_AT_ONCE = 20_000_000  # bigrams of the training text; some hundred MB
POWERS_OF_TEN = [0, *(10**power for power in range(12))]
POWERS_OF_FOUR = [0, *(4**power for power in range(16))]


@dataclass(frozen=True)
class Scored:
    """The tokens of a split, int32 (T,), which are helped, bool (T,), and the gain of each, float64 (T,) in nats."""

    tokens: np.ndarray
    helped: np.ndarray
    gain: np.ndarray


def bigram_counts(tokens: np.ndarray, vocabulary: int) -> csr_array:
    """Return how often each type follows each other one in `tokens`, int (T,): int64 (V, V), sparse."""
    counts = csr_array((vocabulary, vocabulary), dtype=np.int64)
    for begin in range(0, tokens.size - 1, COUNTED_AT_ONCE):
        part = np.asarray(tokens[begin : begin + COUNTED_AT_ONCE + 1])
        counts = counts + csr_array((np.ones(part.size - 1, np.int64), (part[:-1], part[1:])), shape=counts.shape)
    return counts


def successor_entropy(bigrams: csr_array) -> np.ndarray:
    """Return the entropy in nats of what follows each type, by `bigram_counts`: float64 (V,), NaN for nothing."""
    totals = bigrams.sum(axis=1).astype(np.float64)  # (V,), N: how often the first token is followed
    surprise = bigrams.astype(np.float64)  # (V, V), n log n, with n the count of a bigram
    surprise.data *= np.log(surprise.data)
    with np.errstate(divide="ignore", invalid="ignore"):
        # log N − Σ n log n / N, which rounding may let fall below 0
        return np.maximum(np.log(totals) - surprise.sum(axis=1) / totals, 0.0)


def document_positions(documents: np.ndarray) -> np.ndarray:
    """Return the place of each token in its document, from 0, int64 (T,); `documents` are offsets (documents+1,)."""
    return np.arange(documents[-1]) - np.repeat(documents[:-1], np.diff(documents))


def helped_table(scored: Scored, train: np.ndarray, documents: np.ndarray, continuation: np.ndarray) -> pd.DataFrame:
    """Return the table of COLUMNS: the tokens by bins that are not empty, from `low` up to but without `high`.

    `helped` is a fraction of the bin's tokens, `gain` their mean in nats, `share_of_gain` their part of the summed gain
    (NaN unless that is positive). `train`, int (N,), is the training text; `documents` are the split's offsets;
    `continuation`, bool (V,), marks pieces that end in `@@`.
    """
    before, vocabulary = np.roll(scored.tokens, 1), continuation.size  # the token before each, (T,) ...
    before[:1] = END_OF_LINE  # ... and before the first one `</s>`
    frequency = _counts(train, vocabulary)[scored.tokens]
    entropy = successor_entropy(bigram_counts(train, vocabulary))[before]
    nats = np.arange(int(np.nanmax(entropy, initial=0)) + 2)
    binned = (
        (frequency, POWERS_OF_TEN, starmap(_range_label, pairwise(POWERS_OF_TEN))),
        (continuation[before].astype(np.int64), [0, 1, 2], ["start", "inside"]),  # does the piece before it continue?
        (document_positions(documents), POWERS_OF_FOUR, starmap(_range_label, pairwise(POWERS_OF_FOUR))),
        (entropy, nats, [f"{low}–{low + 1}" for low in nats[:-1]]),  # of what follows the token before it
    )
    parts = [_binned(scored, name, *bins) for name, bins in zip(PROPERTIES, binned, strict=True)]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def type_table(scored: Scored, train: np.ndarray, pieces: Sequence[str]) -> pd.DataFrame:
    """Return the table of TYPE_COLUMNS: the word types that are helped most, then those that are hurt most.

    Each part begins with the largest summed gain or loss and has at most TYPES_SHOWN types, all of that sign. `pieces`
    are the texts of all V types, `train` as in `helped_table`.
    """
    vocabulary = len(pieces)
    types = pd.DataFrame({"type": list(pieces), "tokens": _counts(scored.tokens, vocabulary)})
    types["train_count"] = _counts(train, vocabulary)
    types["gain"] = np.bincount(scored.tokens, scored.gain, minlength=vocabulary)
    helped = np.bincount(scored.tokens, scored.helped, minlength=vocabulary)
    types["helped"] = helped / types["tokens"].where(types["tokens"] > 0)
    ordered = types.sort_values("gain", kind="stable")
    helped, hurt = ordered[ordered["gain"] > 0].iloc[::-1], ordered[ordered["gain"] < 0]
    shown = [helped.head(TYPES_SHOWN).assign(effect="helped"), hurt.head(TYPES_SHOWN).assign(effect="hurt")]
    return pd.concat(shown, ignore_index=True)[TYPE_COLUMNS]


def _counts(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Count each type part by part, so that a memory-mapped text is never copied to int64 as a whole."""
    counts = np.zeros(vocabulary, np.int64)
    for begin in range(0, tokens.size, COUNTED_AT_ONCE):
        counts += np.bincount(tokens[begin : begin + COUNTED_AT_ONCE], minlength=vocabulary)
    return counts


def _binned(scored: Scored, name: str, values: np.ndarray, edges: Sequence[int], named: Iterable[str]) -> pd.DataFrame:
    """Return the rows of one property; tokens without a value stand in a last bin called `unseen`, without edges."""
    labels = [*named, "unseen"]
    places = np.where(np.isnan(values), len(labels) - 1, np.searchsorted(edges, values, side="right") - 1)
    of_tokens = (None, scored.helped, scored.gain)
    tokens, helped, gain = (np.bincount(places, weights, minlength=len(labels)) for weights in of_tokens)
    bins = {"property": name, "bin": labels, "low": [*edges[:-1], np.nan], "high": [*edges[1:], np.nan]}
    share = gain / gain.sum() if gain.sum() > 0 else np.nan
    rows = pd.DataFrame(bins | {"tokens": tokens, "helped": helped, "gain": gain, "share_of_gain": share})
    rows = rows[rows["tokens"] > 0]
    return rows.assign(helped=rows["helped"] / rows["tokens"], gain=rows["gain"] / rows["tokens"])


def _range_label(low: int, high: int) -> str:
    """Return the name of the range from `low` up to but without `high`, short if it is large: 10–99, 1k–10k."""
    if high == low + 1:
        return f"{low}"
    return f"{low}–{high - 1}" if high <= 1024 else f"{_short(low)}–{_short(high)}"


def _short(number: int) -> str:
    units = {10**9: "G", 10**6: "M", 10**3: "k"}
    return next((f"{number / unit:.0f}{name}" for unit, name in units.items() if number >= unit), f"{number}")
