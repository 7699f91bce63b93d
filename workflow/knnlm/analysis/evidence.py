"""What speaks for an explanation of the kNN's gain: what each component reaches and removes of it, as paired ratios."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from knnlm.analysis.intervals import Confidence, interval, log_perplexities, ratio_interval
from knnlm.analysis.removal import Beside
from knnlm.analysis.tables import BASE, JUDGED_ON, Reader, Split
from knnlm.analysis.units import unit_sums
from knnlm.components.interpolation import interpolate
from knnlm.running.progress import progress

Replicates = dict[str, np.ndarray]  # component -> a number on test, whole and without each unit, (1 + units,)
ENDS = ("", "_low", "_high")
REACHES, REMOVES = ([f"{name}{end}" for end in ENDS] for name in ("reaches", "removes"))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two differences, by their replicates, float64 (1 + units,)."""

    above: np.ndarray
    below: np.ndarray

    @property
    def value(self) -> float:
        """Return the ratio; NaN where what it is measured by is not positive."""
        return float(self.above[0] / self.below[0]) if self.below[0] > 0 else float("nan")

    @property
    def departures(self) -> np.ndarray:
        """Return the replicates of numerator − ratio · denominator, which vary as the ratio does."""
        with np.errstate(invalid="ignore"):
            return self.above - self.value * self.below

    def named(self, name: str, confidence: Confidence) -> dict[str, float]:
        """Return the ratio and both ends of its interval as the columns of a table."""
        low, high = ratio_interval(self.above, self.below, confidence)
        return dict(zip((f"{name}{end}" for end in ENDS), (self.value, float(low), float(high)), strict=True))


@dataclass(frozen=True)
class Evidence:
    """Replicates on test of every component beside the base LM.

    `perplexities` are those of the mixture with the base LM, `left` the nats a word that the kNN, `reference`, still
    adds to it. `with_knn` is the word perplexity of all three.
    """

    reference: str
    perplexities: Replicates
    left: Replicates
    with_knn: dict[str, float]

    def gain(self, name: str, against: str, confidence: Confidence) -> dict[str, float]:
        """Return the word perplexity that `name` is better than `against`, and its interval, as columns of a table."""
        gains = self.perplexities[against] - self.perplexities[name]
        low, high = interval(gains, confidence)
        return {"gain": float(gains[0]), "gain_low": float(low), "gain_high": float(high)}

    def reaches(self, name: str, against: str = BASE) -> Ratio:
        """Return the gain of `name` over `against` as a share of the kNN-LM's gain, in word perplexity."""
        found = self.perplexities
        return Ratio(found[against] - found[name], found[BASE] - found[self.reference])

    def removes(self, name: str, against: str = BASE) -> Ratio:
        """Return how much more of the kNN's own gain is gone beside `name` than beside `against`, in nats a word.

        Against the base LM it is 1 − what the kNN adds beside both / what it adds to the base LM alone.
        """
        return Ratio(self.left[against] - self.left[name], self.left[BASE])


def gathered(components: pd.DataFrame, read: Reader, splits: Sequence[Split], reference: str) -> Evidence:
    """Measure every component on test beside the base LM, at its λ of the table, and with the kNN beside both.

    Only base LM, kNN and one more component are in memory at a time.
    """
    split = next(split for split in splits if split.name == JUDGED_ON)
    weights = components[components["split"] == JUDGED_ON].set_index("component")["lambda"]
    beside, base, sums, left = Beside(read, splits, reference), read(BASE, JUDGED_ON), [], {}
    for name in progress([*weights.index], "what the kNN adds beside each"):
        mixed = interpolate(base, read(name, JUDGED_ON), weights[name])  # (T,)
        sums.append(unit_sums(mixed, split.units.offsets))  # (units,)
        left[name] = beside.left(name)
    perplexities = np.exp(log_perplexities(np.stack(sums), split.unit_words))  # (components, 1 + units)
    found = dict(zip(weights.index, perplexities, strict=True))
    gains = {name: part.gain for name, part in left.items()}
    return Evidence(reference, found, gains, {name: part.ppl_with_knn for name, part in left.items()})
