"""The one rule of all verdicts, on the intervals of two numbers: what an explanation reaches, and what it removes.

*Reaches* is the share of the kNN-LM's gain that a component reaches by itself; *removes* is the share of that gain that
is gone when the component stands beside the base LM (docs/paper.md#verdicts).
"""

from dataclasses import dataclass

import numpy as np

EXPLAINS, CONTRIBUTES, HELPS, NOTHING = "explains", "contributes", "helps otherwise", "does nothing"
BETTER, EQUAL, WORSE = "better", "no different", "worse"
OPEN, NOT_TESTED = "inconclusive", "not tested"
VERDICTS = (EXPLAINS, CONTRIBUTES, HELPS, NOTHING, BETTER, EQUAL, WORSE, OPEN, NOT_TESTED)
EXPLANATION, DIFFERENCE = "explanation", "difference"  # what a question asks for
CUT_OFF, TOO_WIDE, UNKNOWN = "its training was cut off", "the interval does not tell", "no interval is known"
FOUND_TO_MATTER, RULED_OUT = (EXPLAINS, CONTRIBUTES, BETTER), (HELPS, NOTHING, EQUAL, WORSE)
Ends = tuple[float, float]


@dataclass(frozen=True)
class Rule:
    """The config's section `verdict`: the share from which a component explains, and the margin of equivalence."""

    explains: float
    margin: float

    def verdict(self, asks: str, reaches: Ends, removes: Ends, cut_off: bool = False) -> tuple[str, str]:
        """Return a verdict of VERDICTS and, where it is inconclusive, why.

        `asks` is EXPLANATION or DIFFERENCE, `reaches` and `removes` are intervals, `cut_off` says that the component
        might do better with more training: then only what explains already is certain. A difference has no *removes*.
        """
        judged = self._difference(reaches) if asks == DIFFERENCE else self._explanation(reaches, removes)
        if cut_off and judged not in (EXPLAINS, BETTER):
            return OPEN, CUT_OFF
        unknown = np.isnan([*reaches, *(removes if asks == EXPLANATION else ())]).any()
        return judged, (UNKNOWN if unknown else TOO_WIDE) if judged == OPEN else ""

    def agrees(self, verdict: str, asks: str, reaches: Ends, paper: str, number: float | None) -> str:
        """Return whether the paper found the same, `yes` or `no`; empty where it has no answer or this run has none.

        Its `number`, a share, is compared with the interval of ours, and else class with class (`size`): it is another
        text. Without a number its answer in words, `supported` or `refuted`, is compared with the verdict, or, where a
        difference is asked for, with whether ours can be better at all.
        """
        if paper == "silent" or verdict == NOT_TESTED or np.isnan(reaches).any():
            return ""
        if number is None:
            matters, ruled_out = verdict in FOUND_TO_MATTER, verdict in RULED_OUT
            if asks == DIFFERENCE:
                matters, ruled_out = reaches[0] > self.margin, reaches[1] <= self.margin
            return _yes(matters == (paper == "supported")) if matters or ruled_out else ""
        low, high = reaches
        sizes = {self.size(asks, low), self.size(asks, high)}
        if low <= number <= high or sizes == {self.size(asks, number)}:
            return "yes"
        return "" if min(sizes) <= self.size(asks, number) <= max(sizes) else "no"

    def size(self, asks: str, share: float) -> int:
        """Return the class of a share: −1 worse, 0 within the margin, 1 beyond it, 2 as much as explains."""
        beyond = int(share > self.margin) - int(share < -self.margin)
        return beyond + int(asks == EXPLANATION and share >= self.explains)

    def _difference(self, reaches: Ends) -> str:
        low, high = reaches
        if low > self.margin:
            return BETTER
        if high < -self.margin:
            return WORSE
        return EQUAL if -self.margin <= low and high <= self.margin else OPEN

    def _explanation(self, reaches: Ends, removes: Ends) -> str:
        """Judge what is removed first; *reaches* tells what a component is good for that removes nothing."""
        if np.isnan([*reaches, *removes]).any():
            return OPEN
        if removes[0] >= self.explains:
            return EXPLAINS
        if removes[0] > self.margin:
            return CONTRIBUTES
        if removes[1] > self.margin:
            return OPEN
        if reaches[0] > self.margin:
            return HELPS
        if reaches[1] < -self.margin:
            return WORSE
        return NOTHING if reaches[1] <= self.margin else OPEN


def _yes(same: bool) -> str:
    return "yes" if same else "no"
