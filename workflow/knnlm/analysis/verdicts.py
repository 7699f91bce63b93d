"""The verdict on every question, from what its best component reaches and removes of the kNN's gain (docs/paper.md).

Components are chosen on valid, judged on test; the reference is the main exact, tuned kNN-LM (docs/paper.md#verdicts).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from knnlm.analysis.candidates import compared
from knnlm.analysis.evidence import REACHES, REMOVES, Evidence, Ratio
from knnlm.analysis.intervals import Confidence, simultaneous
from knnlm.analysis.rule import EXPLANATION, NOT_TESTED, Rule

GAIN = ["gain", "gain_low", "gain_high"]
VERDICT_COLUMNS = ["hypothesis", "question", "asks", "component", "against", "ppl", "ppl_with_knn", *GAIN]
VERDICT_COLUMNS += [*REACHES, *REMOVES, "verdict", "why", "note", "paper", "paper_reaches", "agrees"]
PAPER = ("supported", "refuted", "silent")
Table = pd.DataFrame


@dataclass(frozen=True)
class Certainty:
    """How sure intervals are to be, each by itself, and the `resamples` and `seed` that make several hold at once."""

    confidence: Confidence
    resamples: int
    seed: int


def verdict_table(
    entries: dict[str, dict], components: Table, evidence: Evidence, facts: Table, main: dict, rule: dict,
    certainty: Certainty,
) -> Table:  # fmt: skip
    """Return the table of VERDICT_COLUMNS, a row for each of `entries` whose components were made.

    An entry holds `question`, `asks` (explanation or difference), `paper` (supported, refuted or silent) with
    `paper_reaches` or `paper_perplexity`, `against` (a component, or None for the base LM), `candidates` (patterns of
    components, or None for the entry's own) and the `facts` that its `note` tells. The candidate with the lowest
    perplexity on valid, mixed with the base LM, is judged. Its `gain` is the perplexity of `against` minus its own on
    test; *reaches* and *removes* are differences from those of `against` as well. `facts` has hypothesis, component,
    quantity and value as text: a true `cut_off` of either component, or a sentence `not_tested`, limits the verdict.
    `rule` is the config's section `verdict`, `main` {"h", "metric"}. All intervals of *reaches* and *removes* cover at
    once with the level of `certainty`. What the paper found to matter stands first. Raises KnnlmError as `compared`
    does.
    """
    pairs, judge, rows = compared(entries, components, main), Rule(rule["explains"], rule["margin"]), []
    ratios = {name: _ratios(entries[name], evidence, *pair) for name, pair in pairs.items()}
    of_all = [ratio for of_one in ratios.values() for ratio in of_one.values()]
    confidence = _confidence_of_each(of_all, evidence, certainty)
    # by name, not in the config's order, which no result may depend on
    for name in sorted(pairs, key=lambda name: (PAPER.index(entries[name]["paper"]), name)):
        entry, (best, against) = entries[name], pairs[name]
        row = {"hypothesis": name, "component": best, "against": against, "ppl": evidence.perplexities[best][0]}
        row |= {key: entry[key] for key in ("question", "asks", "paper")} | dict.fromkeys(REMOVES, np.nan)
        row |= {"ppl_with_knn": evidence.with_knn[best]} | evidence.gain(best, against, confidence)
        for number, ratio in ratios[name].items():
            row |= ratio.named(number, confidence)
        rows.append(row | _judged(judge, entry, row, _Facts(facts, name), rule))
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def papers_share(entry: dict, rule: dict) -> float | None:
    """Return the share of the gain that the paper's component reaches, given as such or by its perplexity, or None."""
    if entry["paper_perplexity"] is None:
        return entry["paper_reaches"]
    base, knn = rule["paper_base"], rule["paper_knn"]
    return (base - entry["paper_perplexity"]) / (base - knn)


@dataclass(frozen=True)
class _Facts:
    """What the step of a hypothesis has measured beside its components."""

    table: Table
    hypothesis: str

    def of(self, component: str, quantity: str) -> str:
        """Return the value for a component, else that for the whole hypothesis, else an empty text."""
        rows = self.table[self.table["quantity"] == quantity]
        of_all = (rows["hypothesis"] == self.hypothesis) & (rows["component"] == "")
        for chosen in (rows[rows["component"] == component], rows[of_all]):
            if len(chosen):
                return str(chosen["value"].iloc[0])
        return ""


def _ratios(entry: dict, evidence: Evidence, best: str, against: str) -> dict[str, Ratio]:
    reaches = {"reaches": evidence.reaches(best, against)}
    return reaches | ({"removes": evidence.removes(best, against)} if entry["asks"] == EXPLANATION else {})


def _confidence_of_each(ratios: list[Ratio], evidence: Evidence, certainty: Certainty) -> Confidence:
    """Return the confidence of each interval with which those of all ratios hold at once."""
    nothing = np.zeros_like(evidence.left[evidence.reference])  # there may be no question at all
    # nats and perplexities have scales of their own, of which rounding is told apart
    with np.errstate(divide="ignore", invalid="ignore"):
        departures = np.stack([nothing, *(ratio.departures / ratio.below[0] for ratio in ratios)])
    return simultaneous(departures, certainty.confidence, certainty.resamples, certainty.seed)


def _judged(judge: Rule, entry: dict, row: dict, facts: _Facts, rule: dict) -> dict[str, object]:
    """Return the columns that say what follows from a row's numbers."""
    reaches, removes = ((row[f"{name}_low"], row[f"{name}_high"]) for name in ("reaches", "removes"))
    cut_off = [name for name in (row["component"], row["against"]) if facts.of(name, "cut_off").lower() == "true"]
    verdict, why = judge.verdict(row["asks"], reaches, removes, bool(cut_off))
    if sentence := facts.of(row["component"], "not_tested"):
        verdict, why = NOT_TESTED, sentence
    elif cut_off and why and (ends := facts.of(cut_off[0], "cut_off_at")):
        why = f"{why} at {ends}"
    share = papers_share(entry, rule)
    agrees = judge.agrees(verdict, row["asks"], reaches, entry["paper"], share)
    found = {quantity: facts.of(row["component"], quantity) for quantity in entry["facts"]}
    note = ", ".join(f"{quantity}: {_short(value)}" for quantity, value in found.items() if value)
    return {"verdict": verdict, "why": why, "note": note, "paper_reaches": share, "agrees": agrees}


def _short(value: str) -> str:
    """Return a number in as many digits as one reads, and any other text as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
