"""Which hypothesis explains the kNN-LM: the share of its gain that another component reaches, and the verdict on it.

Components are chosen on valid, judged on test; the reference is the main exact, tuned kNN-LM (docs/paper.md#verdicts).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from knnlm.analysis.significance import bootstrap, document_sums, interval
from knnlm.analysis.tables import BASE, TUNED_ON, Reader, Split, tuned
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
Samples = dict[str, np.ndarray]  # component -> its word perplexity on every resample, float64 (resamples,)


def resampled(components: Table, read: Reader, splits: Sequence[Split], resamples: int, seed: int) -> Samples:
    """Return each component's word perplexity, mixed at its tuned λ, on every resample of test, paired between them."""
    split = next(split for split in splits if split.name == JUDGED_ON)
    rows, base = components[components["split"] == JUDGED_ON], read(BASE, JUDGED_ON)
    mixtures = (interpolate(base, read(row["component"], JUDGED_ON), row["lambda"]) for row in rows.to_dict("records"))
    sums = np.stack([document_sums(mixture, split.documents) for mixture in mixtures])  # (components, documents)
    return dict(zip(rows["component"], bootstrap(sums, split.document_words, resamples, seed), strict=True))


def verdict_table(
    entries: dict[str, dict], components: Table, samples: Samples, main: dict, rule: dict, level: float
) -> Table:
    """Return the table of VERDICT_COLUMNS, a row for each of `entries` whose components were made.

    An entry holds `question`, `paper` (supported, refuted or silent), `share` (its own threshold, or None for that of
    `rule`), `against` (a component, or None for the base LM) and `candidates` (patterns of components, or None for the
    entry's own). The candidate with the lowest perplexity on valid, mixed with the base LM, is judged. Its `gain` is
    the perplexity of `against` minus its own on test, its `share` that gain in units of the kNN-LM's. `rule` is
    {"share": threshold}, `main` {"h", "metric"}. What the paper found to matter stands first. Raises KnnlmError if
    there is no component called like `against`, or none that matches a pattern.
    """
    known = {split: components[components["split"] == split].set_index("component") for split in (TUNED_ON, JUDGED_ON)}
    ppl, rows = known[JUDGED_ON]["ppl"], []
    not_made = set(entries) - set(components["hypothesis"].dropna())
    for name, entry in entries.items():
        candidates = _candidates(name, entry["candidates"], known[TUNED_ON], main, not_made)
        against = resolved_name(entry["against"] or BASE, main)
        if candidates.empty or (against not in ppl and _of_any(not_made, against)):
            continue
        if against not in ppl:
            raise KnnlmError(f"config key hypotheses.{name}.against: there is no component {against}; correct it.")
        best = candidates["ppl"].idxmin()
        gain = _with_interval(ppl[against] - ppl[best], samples[against] - samples[best], ppl, samples, main, level)
        threshold = rule["share"] if entry["share"] is None else entry["share"]
        verdict = judge(gain["share_low"], gain["share_high"], threshold)
        told = {"threshold": threshold, "verdict": verdict, "agrees": agrees(verdict, entry["paper"])}
        row = {"hypothesis": name, "question": entry["question"], "paper": entry["paper"], "component": best}
        rows.append(row | gain | told)
    # by name, not in the config's order, which no result may depend on
    rows.sort(key=lambda row: (PAPER.index(row["paper"]), row["hypothesis"]))
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


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


def share_interval(gains: np.ndarray, reference_gains: np.ndarray, level: float) -> tuple[float, float]:
    """Return the percentile interval of the paired ratios gains / reference_gains, float (resamples,).

    The ratio to a gain that is not positive is undefined. It counts against both ends: below everything for the lower,
    above everything for the upper. If the reference's own interval reaches 0, both ends are NaN: no share is known.
    """
    if not interval(reference_gains, level)[0] > 0:
        return np.nan, np.nan
    positive = reference_gains > 0
    shares = np.divide(gains, reference_gains, where=positive, out=np.full(gains.shape, np.nan))
    low, _ = interval(np.where(positive, shares, -np.inf), level)
    _, high = interval(np.where(positive, shares, np.inf), level)
    return float(low), float(high)


def share_table(components: Table, samples: Samples, main: dict, level: float) -> Table:
    """Return the table of SHARE_COLUMNS: every component on test, and its share of the kNN-LM's gain."""
    rows = components[components["split"] == JUDGED_ON].set_index("component", drop=False)
    known = rows["ppl"], samples, main, level
    gains = [_with_interval(gain, samples[BASE] - samples[name], *known) for name, gain in rows["gain"].items()]
    return rows.join(pd.DataFrame(gains, index=rows.index)[SHARE])[SHARE_COLUMNS].reset_index(drop=True)


def input_representation_table(components: Table, shares: Table, entries: dict[str, dict], main: dict) -> Table:
    """Return the table of INPUT_COLUMNS, the paper's Table 2: the exact kNN, and learned embeddings on the same inputs.

    `shares` is what `share_table` made of `components`. The learned embeddings are the candidates of the entry
    `input-representation`, if there is one. They have no metric: their similarity is the inner product.
    """
    test = components[components["split"] == JUDGED_ON]
    exact = (test["mask"] == "real") & (test["score"] == "real") & (test["fraction"] == 1) & tuned(test)
    chosen = [*test.loc[(test["family"] == "knn") & test["hypothesis"].isna() & exact, "component"]]
    if INPUT_HYPOTHESIS in entries:
        patterns, by_name = entries[INPUT_HYPOTHESIS]["candidates"], test.set_index("component")
        chosen += [*_candidates(INPUT_HYPOTHESIS, patterns, by_name, main, set(entries)).index]
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


def _with_interval(
    gain: float, gains: np.ndarray, ppl: pd.Series, samples: Samples, main: dict, level: float
) -> dict[str, float]:
    """Return a gain and its share of the reference's gain with their intervals, under the names of INTERVAL."""
    reference = main_name(main)
    whole = ppl[BASE] - ppl[reference]
    shares = share_interval(gains, samples[BASE] - samples[reference], level)
    values = [gain, *interval(gains, level), gain / whole if whole > 0 else np.nan, *shares]
    return dict(zip(INTERVAL, values, strict=True))
