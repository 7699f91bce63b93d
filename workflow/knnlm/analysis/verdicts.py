"""Which hypothesis explains the kNN-LM: the share of its gain that another component reaches, and the verdict on it.

Components are chosen on valid, judged on test; the reference is the main exact, tuned kNN-LM (docs/paper.md#verdicts).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from knnlm.analysis.intervals import interval, log_perplexities, ratio_interval, simultaneous_level
from knnlm.analysis.tables import BASE, TUNED_ON, Reader, Split, tuned
from knnlm.analysis.units import unit_sums
from knnlm.components.catalogue import main_name, resolved_name
from knnlm.components.interpolation import interpolate
from knnlm.errors import KnnlmError

JUDGED_ON = "test"
SHARE = ["share", "share_low", "share_high"]
INTERVAL = ["gain", "gain_low", "gain_high", *SHARE]
VERDICT_COLUMNS = ["hypothesis", "question", "paper", "component", *INTERVAL, "threshold", "verdict", "agrees"]
SHARE_COLUMNS = ["component", "hypothesis", "family", "h", "metric", "rows", "added_parameters", "ppl_alone", "ppl"]
SHARE_COLUMNS += ["oracle", "gain", *SHARE, "agreement", "helped"]
INPUT_COLUMNS = ["component", "h", "rows", "similarity", "added_parameters", "ppl_alone", "ppl", "oracle", *SHARE]
INPUT_HYPOTHESIS = "input-representation"
PAPER = ("supported", "refuted", "silent")
Table = pd.DataFrame
Replicates = dict[str, np.ndarray]  # component -> its word perplexity, whole and without each unit (1 + units,)


@dataclass(frozen=True)
class Certainty:
    """How sure intervals are to be: their `level`, and the `resamples` and `seed` that make several hold at once."""

    level: float
    resamples: int
    seed: int


def perplexity_replicates(components: Table, read: Reader, splits: Sequence[Split]) -> Replicates:
    """Return the replicates of each component's word perplexity on test, mixed with the base LM at its tuned λ."""
    split = next(split for split in splits if split.name == JUDGED_ON)
    rows, base = components[components["split"] == JUDGED_ON], read(BASE, JUDGED_ON)
    mixtures = (interpolate(base, read(row["component"], JUDGED_ON), row["lambda"]) for row in rows.to_dict("records"))
    sums = np.stack([unit_sums(mixture, split.units.offsets) for mixture in mixtures])  # (components, units)
    return dict(zip(rows["component"], np.exp(log_perplexities(sums, split.unit_words)), strict=True))


def verdict_table(
    entries: dict[str, dict], components: Table, replicates: Replicates, main: dict, rule: dict, certainty: Certainty
) -> Table:
    """Return the table of VERDICT_COLUMNS, a row for each of `entries` whose components were made.

    An entry holds `question`, `paper` (supported, refuted or silent), `share` (its own threshold, or None for that of
    `rule`), `against` (a component, or None for the base LM) and `candidates` (patterns of components, or None for the
    entry's own). The candidate with the lowest perplexity on valid, mixed with the base LM, is judged. Its `gain` is
    the perplexity of `against` minus its own on test, its `share` that gain in units of the kNN-LM's. `rule` is
    {"share": threshold}, `main` {"h", "metric"}. The intervals of all shares cover at once with `certainty.level`.
    What the paper found to matter stands first. Raises KnnlmError if there is no component called like `against`, or
    none that matches a pattern.
    """
    compared, rows = _compared(entries, components, main), []
    gains = {name: replicates[against] - replicates[best] for name, (best, against) in compared.items()}
    level = _level_of_all([*gains.values()], replicates, main, certainty)
    # by name, not in the config's order, which no result may depend on
    for name in sorted(compared, key=lambda name: (PAPER.index(entries[name]["paper"]), name)):
        entry, gain = entries[name], _with_interval(gains[name], replicates, main, level)
        threshold = rule["share"] if entry["share"] is None else entry["share"]
        verdict = judge(gain["share_low"], gain["share_high"], threshold)
        told = {"threshold": threshold, "verdict": verdict, "agrees": agrees(verdict, entry["paper"])}
        row = {"hypothesis": name, "question": entry["question"], "paper": entry["paper"]}
        rows.append(row | {"component": compared[name][0]} | gain | told)
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def _compared(entries: dict[str, dict], components: Table, main: dict) -> dict[str, tuple[str, str]]:
    """Return, for each entry whose components were made, the candidate that is best on valid, and its `against`."""
    known = {split: components[components["split"] == split].set_index("component") for split in (TUNED_ON, JUDGED_ON)}
    not_made, compared = set(entries) - set(components["hypothesis"].dropna()), {}
    for name, entry in entries.items():
        candidates = _candidates(name, entry["candidates"], known[TUNED_ON], main, not_made)
        against = resolved_name(entry["against"] or BASE, main)
        if candidates.empty or (against not in known[JUDGED_ON].index and _of_any(not_made, against)):
            continue
        if against not in known[JUDGED_ON].index:
            raise KnnlmError(f"config key hypotheses.{name}.against: there is no component {against}; correct it.")
        compared[name] = candidates["ppl"].idxmin(), against
    return compared


def _level_of_all(gains: list[np.ndarray], replicates: Replicates, main: dict, certainty: Certainty) -> float:
    """Return the level of each interval with which those of all shares hold at once."""
    whole = replicates[BASE] - replicates[main_name(main)]  # (1 + units,), as each of `gains`
    with np.errstate(divide="ignore", invalid="ignore"):
        departures = [gain - gain[0] / whole[0] * whole for gain in gains]  # of each share from its estimate
    shares = np.stack([np.zeros(whole.shape), *departures])  # there may be no question at all
    return simultaneous_level(shares, certainty.level, certainty.resamples, certainty.seed)


def judge(low: float, high: float, threshold: float) -> str:
    """Return the verdict on a share with the interval [low, high]; one that is not known (NaN) is inconclusive."""
    if low > threshold:
        return "supported"
    return "refuted" if high < threshold else "inconclusive"


def agrees(verdict: str, paper: str) -> str:
    """Return whether a verdict is the paper's, `yes` or `no`; empty where one of the two has no answer."""
    if verdict == "inconclusive" or paper == "silent":
        return ""
    return "yes" if verdict == paper else "no"


def share_table(components: Table, replicates: Replicates, main: dict, level: float) -> Table:
    """Return the table of SHARE_COLUMNS: every component on test, and its share of the kNN-LM's gain."""
    rows = components[components["split"] == JUDGED_ON].set_index("component", drop=False)
    known = replicates, main, level
    gains = [_with_interval(replicates[BASE] - replicates[name], *known) for name in rows.index]
    return rows.join(pd.DataFrame(gains, index=rows.index)[SHARE])[SHARE_COLUMNS].reset_index(drop=True)


def input_representation_table(components: Table, shares: Table, entries: dict[str, dict], main: dict) -> Table:
    """Return the table of INPUT_COLUMNS, the paper's Table 2: the exact kNN, and learned embeddings on the same inputs.

    `shares` is what `share_table` made of `components`. The learned embeddings are what the entry
    `input-representation` compares, if there is one: its candidates, and what they stand against. They have no metric:
    their similarity is the inner product.
    """
    test = components[components["split"] == JUDGED_ON]
    exact = (test["mask"] == "real") & (test["score"] == "real") & (test["fraction"] == 1) & tuned(test)
    chosen = [*test.loc[(test["family"] == "knn") & test["hypothesis"].isna() & exact, "component"]]
    if INPUT_HYPOTHESIS in entries:
        patterns, by_name = entries[INPUT_HYPOTHESIS]["candidates"], test.set_index("component")
        chosen += [*_candidates(INPUT_HYPOTHESIS, patterns, by_name, main, set(entries)).index]
        chosen.append(resolved_name(entries[INPUT_HYPOTHESIS]["against"] or BASE, main))
    rows = shares[shares["component"].isin(chosen)]
    return rows.assign(similarity=rows["metric"].astype(object).fillna("ip"))[INPUT_COLUMNS].reset_index(drop=True)


def _candidates(name: str, patterns: list[str] | None, components: Table, main: dict, not_made: set[str]) -> Table:
    """Return the rows of an entry's candidates; patterns that match none must be of hypotheses that were not made."""
    if patterns is None:
        return components[components["hypothesis"] == name]
    chosen = np.zeros(len(components), dtype=bool)
    for pattern in (resolved_name(pattern, main) for pattern in patterns):
        matches = np.array([fnmatchcase(component, pattern) for component in components.index])
        if not matches.any() and not _of_any(not_made, pattern):
            raise KnnlmError(f"config key hypotheses.{name}.candidates: {pattern} is no component; correct it.")
        chosen |= matches
    return components[chosen]


def _of_any(hypotheses: set[str], component: str) -> bool:
    return any(component.startswith(f"{hypothesis}-") for hypothesis in hypotheses)


def _with_interval(gains: np.ndarray, replicates: Replicates, main: dict, level: float) -> dict[str, float]:
    """Return a gain, by its replicates (1 + units,), and its share of the reference's, under the names of INTERVAL."""
    whole = replicates[BASE] - replicates[main_name(main)]
    share = gains[0] / whole[0] if whole[0] > 0 else np.nan
    values = [gains[0], *interval(gains, level), share, *ratio_interval(gains, whole, level)]
    return dict(zip(INTERVAL, map(float, values), strict=True))
