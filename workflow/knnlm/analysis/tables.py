"""The tables that figures and report are made from: one row per component and split, and the λ curves.

λ is tuned on valid and used on every split. Perplexities are of words; a gain is the base LM's minus the mixture's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from knnlm.analysis.intervals import Confidence, interval, log_perplexities
from knnlm.analysis.units import Units, resampling_units, unit_sums
from knnlm.components.interpolation import agreement, interpolate, optimal_weight, oracle, perplexity
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress

BASE = "base"
TUNED_ON, JUDGED_ON = "valid", "test"
SCALED = "temperature_per_squared_norm"  # in units of the mean ‖k‖² of the keys, so that LMs can be compared
DESCRIPTION = ["component", "family", "h", "metric", "mask", "score"]
DESCRIPTION += ["temperature", SCALED, "fraction", "k", "added_parameters"]
HYPOTHESIS = ["temperature_status", "rows", "missing", "hypothesis", "series", "x"]  # what else is known of a component
COMPONENT_COLUMNS = [*DESCRIPTION, "split", "tokens", "words", "documents", "units", "ppl_alone", "lambda"]
COMPONENT_COLUMNS += ["ppl", "ppl_low", "ppl_high", "oracle", "gain", "gain_low", "gain_high"]
COMPONENT_COLUMNS += [*HYPOTHESIS, "helped", "agreement"]
COLUMN_TYPES = dict.fromkeys(["k", "added_parameters", "rows"], "Int64")  # the base LM has none of these
COLUMN_TYPES |= dict.fromkeys(["temperature", "fraction", "missing", "x"], "float64")
LOSS_COLUMNS = ["update", "epoch", "split", "loss", "perplexity", "learning_rate", "tokens_per_second"]
INDEX_QUANTITIES = ["recall", "bytes_a_row", "queries_a_second"]
INDEX_COLUMNS = ["component", "index", "split", *INDEX_QUANTITIES, "ppl", "gain", "gain_low", "gain_high"]
LAMBDA_COLUMNS = ["component", "split", "lambda", "ppl"]
LAMBDA_POINTS = 101


@dataclass(frozen=True)
class Split:
    """One evaluation split: token ids, int32 (T,), its resampling units, and the words of each, float64 (units,)."""

    name: str
    tokens: np.ndarray
    units: Units
    unit_words: np.ndarray

    @classmethod
    def of(cls, name: str, tokens: np.ndarray, documents: np.ndarray, continuation: np.ndarray, block: int) -> "Split":
        """Divide `tokens`, int32 (T,), into resampling units and count the words of each.

        `documents` are token offsets, int64 (documents+1,); `continuation`, bool (V,), marks pieces that end no word;
        `block` is the length in words of a unit where there are too few documents (`units`).
        """
        ends_word = ~continuation[tokens]
        units = resampling_units(ends_word, documents, block)
        return cls(name, tokens, units, unit_sums(ends_word, units.offsets))

    @property
    def words(self) -> int:
        """Return the number of words of the split, `</s>` included."""
        return int(self.unit_words.sum())

    def confidence(self, level: float) -> Confidence:
        """Return what intervals of this split need to cover with probability `level`."""
        return Confidence.of(self.unit_words, level)


Reader = Callable[[str, str], np.ndarray]  # component name, split name -> log p of the gold tokens, float32 (T,), nats


def main_result(components: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main result: the base LM and the kNN, without the hypotheses' components."""
    return components[components["hypothesis"].isna() & components["family"].isin(["lm", "knn"])]


def tuned(components: pd.DataFrame) -> pd.Series:
    """Return which rows of the component table have a temperature that was tuned, bool (rows,)."""
    return components["temperature_status"].isin(["optimum", "edge"])


def component_table(
    descriptions: Sequence[dict], read: Reader, splits: Sequence[Split], reference: str, level: float,
    squared_norms: dict[str, float] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the table of COMPONENT_COLUMNS: the base LM first, then every component in the order given, by split.

    `descriptions` are the components' JSON descriptions. `read` fetches one component's log p; only one is held at a
    time beside the base LM's. The base LM's row has λ = 0 and gain 0. Intervals cover with probability `level` each;
    that of a gain is of the paired difference (`intervals`), and a split of one unit has NaN. `squared_norms` are the
    mean ‖k‖² of the store's keys by h (`SCALED` is NaN without). Raises KnnlmError if there is no base LM or no
    component `reference`, or a name stands twice.
    """
    _check_names([description["component"] for description in descriptions], reference)
    base = {split.name: read(BASE, split.name) for split in splits}
    log_p_reference = {split.name: read(reference, split.name) for split in splits}
    sums = {split.name: [] for split in splits}
    rows = []
    for known in progress(sorted(descriptions, key=lambda known: known["component"] != BASE), "components"):
        name = known["component"]
        log_p = {split.name: read(name, split.name) for split in splits}  # (T,) each
        weight = 0.0 if name == BASE else optimal_weight(base[TUNED_ON], log_p[TUNED_ON])
        told = known | {SCALED: _scaled_temperature(known, squared_norms or {})}
        for split in splits:
            own, beside = log_p[split.name], base[split.name]
            mixture = interpolate(beside, own, weight)  # (T,)
            sums[split.name].append(unit_sums(mixture, split.units.offsets))  # (units,)
            measures = {
                "ppl_alone": perplexity(own, split.words),
                "lambda": weight,
                "ppl": perplexity(mixture, split.words),
                "oracle": perplexity(oracle(beside, own), split.words),
                "helped": (own > beside).mean(),  # the share of tokens
                # the share on which both, the component and the reference, help or do not (docs/paper.md#evaluation)
                "agreement": agreement(beside, own, log_p_reference[split.name]),
            }
            facts = {key: told[key] for key in (*DESCRIPTION, *HYPOTHESIS)}
            sizes = {"split": split.name, "tokens": split.tokens.size, "words": split.words}
            sizes |= {"documents": split.units.documents, "units": split.units.size}
            rows.append(facts | sizes | measures)
    table = pd.DataFrame(rows)
    for split in splits:
        nats = log_perplexities(np.stack(sums[split.name]), split.unit_words)  # (components, 1 + units)
        _add_gains_and_intervals(table, (table["split"] == split.name).to_numpy(), nats, split.confidence(level))
    return table[COMPONENT_COLUMNS].astype(COLUMN_TYPES)


def _scaled_temperature(known: dict, squared_norms: dict[str, float]) -> float:
    """Return τ in units of the keys' mean ‖k‖², NaN for what is compared with no keys or has no temperature."""
    if known["metric"] is None or known["temperature"] is None or known["h"] not in squared_norms:
        return math.nan
    return known["temperature"] / squared_norms[known["h"]]


def index_table(components: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Return what kinds of index cost and bring: INDEX_COLUMNS, a row for each component with `bytes_a_row` and split.

    `facts` has hypothesis, component, quantity and value as text. An index is named by its factory string, one that has
    the lists of the stored one by its codes alone. A search that nobody timed has no queries a second.
    """
    wanted = facts[facts["quantity"].isin(INDEX_COLUMNS)]
    wide = wanted.pivot(index="component", columns="quantity", values="value").astype(float)
    wide = wide.reindex(columns=INDEX_QUANTITIES).dropna(subset="bytes_a_row")
    table = components.merge(wide, left_on="component", right_index=True)
    names = [row.component.removeprefix(f"{row.hypothesis}-") for row in table.itertuples()]
    kinds = [name.removeprefix("index-").replace("codes-", "PQ").replace("-", ",") for name in names]
    return table.assign(index=kinds)[INDEX_COLUMNS]


def _check_names(names: list[str], reference: str) -> None:
    """Raise KnnlmError unless the base LM, the reference and every other name are there, each once."""
    if names.count(BASE) != 1 or len(set(names)) < len(names):
        found = ", ".join(sorted(names))
        raise KnnlmError(f"components: need `{BASE}` and every other name exactly once, found {found}.")
    if reference not in names:
        correct = "correct `main` or `retrieval` in the config"
        raise KnnlmError(f"components: the reference {reference} is not among them; {correct}.")


def _add_gains_and_intervals(table: pd.DataFrame, rows: np.ndarray, nats: np.ndarray, confidence: Confidence) -> None:
    """Fill in the columns of differences and intervals; row i of `nats` is the i-th of `rows`, the base LM first."""
    perplexities, replicates = table.loc[rows, "ppl"], np.exp(nats)
    with np.errstate(invalid="ignore"):
        table.loc[rows, "gain"] = perplexities.iloc[0] - perplexities
        gains = replicates[0] - replicates
    # symmetric in nats, so that a perplexity's lower end stays positive
    table.loc[rows, "ppl_low"], table.loc[rows, "ppl_high"] = map(np.exp, interval(nats, confidence))
    table.loc[rows, "gain_low"], table.loc[rows, "gain_high"] = interval(gains, confidence)


def _main_variants(components: pd.DataFrame, h: str, metric: str) -> pd.DataFrame:
    """Return the rows of the main component's variants: tuned, every mask and score, every fraction of the store."""
    rows = main_result(components)
    return rows[(rows["h"] == h) & (rows["metric"] == metric) & tuned(rows)]


def main_variants(components: pd.DataFrame, h: str, metric: str) -> list[str]:
    """Return the names of the main component's variants over the whole store: tuned, every mask and score."""
    rows = _main_variants(components, h, metric)
    return list(dict.fromkeys(rows.loc[rows["fraction"] == 1, "component"]))


def datastore_size_table(components: pd.DataFrame, h: str, metric: str, fractions: Sequence[float]) -> pd.DataFrame:
    """Return the rows of the main component's tuned variants that exist at every fraction; KnnlmError if none does."""
    variants = _main_variants(components, h, metric).groupby(["mask", "score"])
    whole = variants.filter(lambda variant: set(fractions) <= set(variant["fraction"]))
    if whole.empty:
        wanted = f"none is made from {h} keys with the metric {metric} at every fraction"
        raise KnnlmError(f"components: {wanted}; see `main` and `fractions` in the config.")
    return whole.sort_values(["mask", "score", "fraction"], kind="stable")


def lambda_table(names: Sequence[str], read: Reader, splits: Sequence[Split]) -> pd.DataFrame:
    """Return LAMBDA_COLUMNS for λ = 0, 0.01 … 1: 0 is the base LM, 1 the component alone (perhaps inf)."""
    rows = []
    for name, split in product(names, splits):
        base, log_p = read(BASE, split.name), read(name, split.name)
        for weight in np.linspace(0, 1, LAMBDA_POINTS).round(10):
            rows.append((name, split.name, weight, perplexity(interpolate(base, log_p, weight), split.words)))
    return pd.DataFrame(rows, columns=LAMBDA_COLUMNS)
