"""Which hypothesis explains the kNN-LM: the share of its gain that another component reaches, and one rule that turns the share into a verdict.

Components are chosen on valid and judged on test. The reference is the main result's kNN-LM with exact search and tuned temperature.
"""

import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from knnlm.analysis.significance import bootstrap, document_sums, interval
from knnlm.analysis.tables import BASE, TUNED_ON, Reader, Split
from knnlm.components.catalogue import main_name, resolved_name
from knnlm.components.interpolation import interpolate
from knnlm.errors import KnnlmError

JUDGED_ON = "test"
INTERVAL = ["gain", "gain_low", "gain_high", "share", "share_low", "share_high"]
VERDICT_COLUMNS = ["hypothesis", "question", "paper", "component", *INTERVAL, "threshold", "verdict", "agrees"]
MEASURED = [
    "component",
    "hypothesis",
    "family",
    "h",
    "metric",
    "rows",
    "added_parameters",
    "ppl_alone",
    "ppl",
    "oracle",
    "gain",
]
SHARE_COLUMNS = [*MEASURED, "share", "share_low", "share_high", "agreement", "helped"]
INPUT_COLUMNS = [
    "component",
    "h",
    "rows",
    "similarity",
    "added_parameters",
    "ppl_alone",
    "ppl",
    "oracle",
    "share",
    "share_low",
    "share_high",
]
INPUT_HYPOTHESIS = "input-representation"
QUESTION_WIDTH = 44
PAPER = ("supported", "refuted", "silent")


def resampled(
    components: pd.DataFrame, read: Reader, splits: Sequence[Split], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return for each component its word perplexity on every resample of test's documents, float64 (resamples,), mixed at its tuned λ.

    The resamples are the same for all (`significance.bootstrap`), so that differences and ratios of samples are paired.
    """
    split = next(split for split in splits if split.name == JUDGED_ON)
    rows, base = components[components["split"] == JUDGED_ON], read(BASE, JUDGED_ON)
    mixtures = (interpolate(base, read(row["component"], JUDGED_ON), row["lambda"]) for row in rows.to_dict("records"))
    sums = np.stack([document_sums(mixture, split.documents) for mixture in mixtures])
    return dict(zip(rows["component"], bootstrap(sums, split.document_words, resamples, seed), strict=True))


def verdict_table(
    entries: dict[str, dict],
    components: pd.DataFrame,
    samples: dict[str, np.ndarray],
    main: dict,
    rule: dict,
    level: float,
) -> pd.DataFrame:
    """Return the table of VERDICT_COLUMNS, a row for each of `entries` whose components were made; `samples` come from `resampled`.

    An entry holds `question`, `paper` (supported, refuted or silent), `share` (its own threshold, or None for that of `rule`), `against` (a
    component, or None for the base LM) and `candidates` (patterns of components, or None for the entry's own). The candidate with the lowest
    perplexity on valid, mixed with the base LM, is judged: its `gain` is the perplexity of `against` minus its own on test, its `share` that gain
    in units of the kNN-LM's. `rule` is {"share": threshold}, `main` {"h", "metric"}. What the paper found to matter stands first. Raises
    KnnlmError if there is no component called like `against`, or none that matches a pattern.
    """
    known = {split: components[components["split"] == split].set_index("component") for split in (TUNED_ON, JUDGED_ON)}
    ppl, rows = known[JUDGED_ON]["ppl"], []
    not_made = set(entries) - set(components["hypothesis"].dropna())
    for name, entry in entries.items():
        candidates = _candidates(name, entry["candidates"], known[TUNED_ON], main, not_made)
        best, against = (
            candidates["ppl"].idxmin() if len(candidates) else None,
            resolved_name(entry["against"] or BASE, main),
        )
        if best is None or (against not in ppl and _of_any(not_made, against)):
            continue
        if against not in ppl:
            raise KnnlmError(f"config key hypotheses.{name}.against: there is no component {against}; correct it.")
        gain = _with_interval(ppl[against] - ppl[best], samples[against] - samples[best], ppl, samples, main, level)
        threshold = rule["share"] if entry["share"] is None else entry["share"]
        verdict = judge(gain["share_low"], gain["share_high"], threshold)
        agrees = (
            ""
            if verdict == "inconclusive" or entry["paper"] == "silent"
            else "yes"
            if verdict == entry["paper"]
            else "no"
        )
        row = {"hypothesis": name, "question": entry["question"], "paper": entry["paper"], "component": best}
        rows.append(row | gain | {"threshold": threshold, "verdict": verdict, "agrees": agrees})
    rows.sort(
        key=lambda row: (PAPER.index(row["paper"]), row["hypothesis"])
    )  # not the config's order, which no result may depend on
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def judge(low: float, high: float, threshold: float) -> str:
    """Return the verdict on a share whose interval is [low, high]; an interval that is not known (NaN) is inconclusive."""
    if low > threshold:
        return "supported"
    return "refuted" if high < threshold else "inconclusive"


def share_interval(gains: np.ndarray, reference_gains: np.ndarray, level: float) -> tuple[float, float]:
    """Return the percentile interval of the paired ratios gains / reference_gains, float (resamples,).

    A ratio to a gain that is not positive is undefined. It counts against both ends: below everything for the lower, above everything for the
    upper. If the reference's own interval reaches 0, nothing can be said of any share, and both ends are NaN.
    """
    if not interval(reference_gains, level)[0] > 0:
        return np.nan, np.nan
    positive = reference_gains > 0
    shares = np.divide(gains, reference_gains, where=positive, out=np.full(gains.shape, np.nan))
    return float(interval(np.where(positive, shares, -np.inf), level)[0]), float(
        interval(np.where(positive, shares, np.inf), level)[1]
    )


def share_table(components: pd.DataFrame, samples: dict[str, np.ndarray], main: dict, level: float) -> pd.DataFrame:
    """Return the table of SHARE_COLUMNS: every component on test, and the share of the kNN-LM's gain over the base LM that it reaches."""
    rows = components[components["split"] == JUDGED_ON].set_index("component", drop=False)
    gains = [
        _with_interval(row.gain, samples[BASE] - samples[row.component], rows["ppl"], samples, main, level)
        for row in rows.itertuples()
    ]
    shares = pd.DataFrame(gains, index=rows.index)[["share", "share_low", "share_high"]]
    return rows.join(shares)[SHARE_COLUMNS].reset_index(drop=True)


def input_representation_table(
    components: pd.DataFrame, shares: pd.DataFrame, entries: dict[str, dict], main: dict
) -> pd.DataFrame:
    """Return the table of INPUT_COLUMNS, the paper's Table 2: the exact kNN over the whole store, and learned embeddings on the same inputs.

    `shares` is what `share_table` made of `components`. The learned embeddings are the candidates of the entry `input-representation`, if there is
    one. A learned embedding has no metric: its similarity is the inner product.
    """
    test = components[components["split"] == JUDGED_ON]
    exact = (
        (test["mask"] == "real")
        & (test["score"] == "real")
        & (test["fraction"] == 1)
        & test["temperature_status"].isin(["optimum", "edge"])
    )
    knn = (test["family"] == "knn") & test["hypothesis"].isna() & exact
    asked = INPUT_HYPOTHESIS in entries
    learned = (
        _candidates(
            INPUT_HYPOTHESIS, entries[INPUT_HYPOTHESIS]["candidates"], test.set_index("component"), main, set(entries)
        ).index
        if asked
        else []
    )
    rows = shares[shares["component"].isin([*test.loc[knn, "component"], *learned])]
    return rows.assign(similarity=rows["metric"].astype(object).fillna("ip"))[INPUT_COLUMNS].reset_index(drop=True)


def rule_text(rule: dict, level: float) -> str:
    """Return the rule of every verdict in plain sentences."""
    return (
        f"A hypothesis is supported if the whole {level:.0%} interval of its share lies above a threshold, refuted if it lies below, and else "
        f"inconclusive. The threshold is {rule['share']:.0%} where an explanation is asked for, and what the hypothesis has as its own `share` (0% where "
        "it asks for any difference). The share is the gain of its best component, chosen on valid, over the base LM or over the component "
        "that it is compared with, as a part of the gain of the kNN-LM with exact search over the base LM, in word perplexity on test: 0% is no gain, "
        "100% the gain of the kNN-LM."
    )


def verdict_text(table: pd.DataFrame, rule: dict, level: float) -> str:
    """Return the verdicts as text for a terminal: the questions wrapped, the component below its question."""
    lines = [
        *textwrap.wrap(rule_text(rule, level), 118),
        "against the paper: yes, no, or nothing where one of the two has no answer.",
        "",
    ]
    if table.empty:
        return "\n".join([*lines, "No hypothesis has a component in this run.", ""])
    cells = [["question, and its best component", "paper", "gain", "share", "verdict", "agrees"]]
    for row in table.to_dict("records"):
        question = [*textwrap.wrap(row["question"], QUESTION_WIDTH), f"  {row['component']}"]
        values = [row["paper"], *_numbers(row), row["verdict"], row["agrees"]]
        cells += [[question[0], *values], *([line, *[""] * len(values)] for line in question[1:]), [""]]
    widths = [max(len(line[column]) for line in cells if len(line) > column) for column in range(len(cells[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in cells
    ]
    return "\n".join(lines) + "\n"


def verdict_rst(table: pd.DataFrame, rule: dict, level: float) -> str:
    """Return the verdicts as reStructuredText: the rule, and a table in which a verdict that is not the paper's says so."""
    paragraph = rule_text(rule, level) + "\n\n"
    if table.empty:
        return paragraph + "No hypothesis has a component in this run.\n"
    header = ["Question, and its best component", "Gain", "Share", "Verdict"]
    lines = [header]
    for row in table.to_dict("records"):
        against = " (the paper: " + row["paper"] + ")" if row["agrees"] == "no" else ""
        question = f"| {_escaped(row['question'])}\n       | ``{row['component']}``"
        lines.append([question, *_numbers(row), f"**{row['verdict']}**{against}"])
    items = [
        "\n".join(f"   {'*' if place == 0 else ' '} - {cell}".rstrip() for place, cell in enumerate(line))
        for line in lines
    ]
    return paragraph + ".. list-table::\n   :header-rows: 1\n   :widths: 46 20 17 17\n\n" + "\n".join(items) + "\n"


def _candidates(
    name: str, patterns: list[str] | None, components: pd.DataFrame, main: dict, not_made: set[str]
) -> pd.DataFrame:
    """Return the rows of an entry's candidates; a pattern that matches none is refused, unless it is of a hypothesis that was not made."""
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
    gain: float, gains: np.ndarray, ppl: pd.Series, samples: dict[str, np.ndarray], main: dict, level: float
) -> dict[str, float]:
    """Return gain and share of the reference's gain with their intervals, under the names of INTERVAL."""
    reference = main_name(main)
    whole = ppl[BASE] - ppl[reference]
    ends = interval(gains, level)
    shares = share_interval(gains, samples[BASE] - samples[reference], level)
    return dict(zip(INTERVAL, [gain, *ends, gain / whole if whole > 0 else np.nan, *shares], strict=True))


def _numbers(row: dict) -> list[str]:
    """Return gain and share with their intervals, to be read."""
    share = ["unknown" if np.isnan(row[name]) else f"{row[name]:.0%}" for name in ("share", "share_low", "share_high")]
    return [
        f"{row['gain']:.2f} [{row['gain_low']:.2f}, {row['gain_high']:.2f}]",
        f"{share[0]} [{share[1]}, {share[2]}]",
    ]


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\*`|_" else letter for letter in text)
