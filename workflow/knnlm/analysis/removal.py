"""What is left of the kNN's gain beside other components: *removes*, and the order in which they remove most.

A component that reaches the kNN's gain need not explain it: the kNN may add just as much beside both. So the kNN is
mixed a second time, with base LM and component together, and what it still adds is compared with what it adds to the
base LM alone. Gains are in nats, since differences of perplexity shrink by themselves as perplexity falls
(docs/paper.md#verdicts).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from knnlm.analysis.intervals import log_perplexities
from knnlm.analysis.tables import BASE, JUDGED_ON, TUNED_ON, Reader, Split
from knnlm.analysis.units import unit_sums
from knnlm.components.interpolation import perplexity
from knnlm.components.mixture import mixture, simplex_weights


@dataclass(frozen=True)
class Left:
    """What the kNN still adds beside the base LM and further components, all weights tuned on valid, as seen on test.

    `gain` has the replicates of the nats a word that the kNN adds, float64 (1 + units,) (`intervals`).
    `ppl` and `ppl_with_knn` are the word perplexities of both mixtures, `gain_on_valid` the nats a token on valid.
    """

    gain: np.ndarray
    ppl: float
    ppl_with_knn: float
    gain_on_valid: float


@dataclass
class Beside:
    """The base LM, the kNN and the components that are held beside them, as log p by split, float32 (T,) each, in nats.

    Only these columns are in memory; one more is read at a time.
    """

    read: Reader
    splits: Sequence[Split]
    reference: str
    held: list[str] = field(default_factory=list)
    columns: dict[tuple[str, str], np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Read the base LM and the kNN, the component `reference`."""
        for name in (BASE, self.reference, *self.held):
            self._load(name)

    def hold(self, name: str) -> None:
        """Keep one more component in every mixture."""
        self._load(name)
        self.held.append(name)

    def left_on_valid(self, name: str | None = None) -> float:
        """Return the nats a token that the kNN adds on valid, beside what is held and the component `name`."""
        return self._tuned(name)[2]

    def left(self, name: str | None = None) -> Left:
        """Return what the kNN adds beside what is held and the component `name`, judged on test."""
        *weights, gain_on_valid = self._tuned(name)
        split = next(split for split in self.splits if split.name == JUDGED_ON)
        column = self._stacked(JUDGED_ON, name)
        of_without, of_both = mixture(column[:-1], weights[0]), mixture(column, weights[1])  # (T,) each
        sums = np.stack([unit_sums(log_p, split.units.offsets) for log_p in (of_without, of_both)])  # (2, units)
        nats = log_perplexities(sums, split.unit_words)  # (2, 1 + units), per word
        with np.errstate(invalid="ignore"):  # neither has mass for a token: NaN
            gain = nats[0] - nats[1]
        ppl, ppl_with_knn = perplexity(of_without, split.words), perplexity(of_both, split.words)
        return Left(gain, ppl, ppl_with_knn, gain_on_valid)

    def _load(self, name: str) -> None:
        for split in self.splits:
            self.columns[name, split.name] = self.read(name, split.name)

    def _stacked(self, split: str, name: str | None) -> np.ndarray:
        """Return log p of the base LM, what is held, the component `name` and, last, the kNN: (components, T)."""
        names = [BASE, *self.held, *([name] if name not in (None, BASE) else []), self.reference]
        held = self.columns
        columns = (held[part, split] if (part, split) in held else self.read(part, split) for part in names)
        return np.stack(list(columns)).astype(np.float64)

    def _tuned(self, name: str | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the best weights on valid without the kNN and with it, and the nats a token that it adds there."""
        columns = self._stacked(TUNED_ON, name)
        without, both = simplex_weights(columns[:-1]), simplex_weights(columns)
        return without, both, float(mixture(columns, both).mean() - mixture(columns[:-1], without).mean())


def in_order(beside: Beside, names: Sequence[str], least: float, most: int) -> Iterator[tuple[str, Left]]:
    """Yield the components in the order in which they remove most together, and what the kNN adds beside all so far.

    Each step tries every one of `names` beside those before it and takes the one that leaves the kNN the smallest gain
    on valid. It ends after `most` steps, or where the best removes less than `least` of the kNN's own gain on valid; it
    does not begin where the kNN has none.
    """
    whole = before = beside.left_on_valid()
    remaining = list(names) if whole > 0 else []
    while remaining and len(beside.held) < most:
        left = {name: beside.left_on_valid(name) for name in remaining}
        best = min(left, key=left.get)
        if not before - left[best] >= least * whole:
            return
        before = left[best]
        remaining.remove(best)
        beside.hold(best)
        yield best, beside.left()
