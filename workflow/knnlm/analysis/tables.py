"""The tables that figures and report are made from: one row per component and split, and the λ curves.

λ of a component is tuned on valid and used on every split. Perplexities are word perplexities; a gain is the base LM's minus the mixture's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from knnlm.analysis.significance import bootstrap, document_sums, interval
from knnlm.components.interpolation import agreement, interpolate, optimal_weight, oracle, perplexity
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress

BASE = "base"
TUNED_ON = "valid"
DESCRIPTION = [
    "component",
    "family",
    "h",
    "metric",
    "mask",
    "score",
    "temperature",
    "fraction",
    "k",
    "added_parameters",
    "temperature_status",
]
HYPOTHESIS = ["rows", "hypothesis", "series", "x"]  # what else is known of a component
COMPONENT_COLUMNS = [
    *DESCRIPTION[:-1],
    *(
        "split",
        "tokens",
        "words",
        "ppl_alone",
        "lambda",
        "ppl",
        "ppl_low",
        "ppl_high",
        "oracle",
        "gain",
        "gain_low",
        "gain_high",
    ),
    DESCRIPTION[-1],
    *HYPOTHESIS,
    *("helped", "agreement"),
]
TEMPERATURE_COLUMNS = ["component", "h", "metric", "mask", "score", "fraction", "temperature", "split", "lambda", "ppl"]
LOSS_COLUMNS = ["update", "epoch", "split", "loss", "perplexity", "learning_rate", "tokens_per_second"]
LAMBDA_POINTS = 101


@dataclass(frozen=True)
class Split:
    """One evaluation split: token ids, token offsets of its documents (documents+1,), words of each document (documents,)."""

    name: str
    tokens: np.ndarray
    documents: np.ndarray
    document_words: np.ndarray

    @classmethod
    def of(cls, name: str, tokens: np.ndarray, documents: np.ndarray, continuation: np.ndarray) -> "Split":
        """Count the words of int32 `tokens` (T,) by document, with bool `continuation` (V,). Raises KnnlmError on offsets that do not fit."""
        return cls(name, tokens, documents, document_sums(~continuation[tokens], documents))

    @property
    def words(self) -> int:
        """Return the number of words of the split, `</s>` included."""
        return int(self.document_words.sum())


Reader = Callable[[str, str], np.ndarray]  # component name, split name -> log p of the gold tokens, float32 (T,), nats


def main_result(components: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the component table that belong to the main result: the base LM and the kNN, without the hypotheses' components."""
    return components[components["hypothesis"].isna() & components["family"].isin(["lm", "knn"])]


def component_table(
    descriptions: Sequence[dict],
    read: Reader,
    splits: Sequence[Split],
    reference: str,
    resamples: int,
    level: float,
    seed: int,
) -> pd.DataFrame:
    """Return the table of COMPONENT_COLUMNS: the base LM first, then every component in the order given, each with a row per split.

    `descriptions` are the components' JSON descriptions, `read` fetches one component's log p, and only one is held at a time beside the
    base LM's. The base LM's row has λ = 0 and gain 0. Intervals are those of a bootstrap over documents, paired between component and
    base LM (`significance`); they are NaN for a split of one document. `helped` is the share of tokens that the component by itself finds
    likelier than the base LM does, `agreement` the share on which it does so exactly where the component called `reference` does (§4.3).
    Raises KnnlmError if there is no base LM or no reference, or a name stands twice.
    """
    names = [description["component"] for description in descriptions]
    if names.count(BASE) != 1 or len(set(names)) < len(names):
        raise KnnlmError(
            f"components: need `{BASE}` and every other name exactly once, found {', '.join(sorted(names))}."
        )
    if reference not in names:
        raise KnnlmError(
            f"components: the reference {reference} is not among them; correct `main` or `retrieval` in the config."
        )
    base = {split.name: read(BASE, split.name) for split in splits}
    log_p_reference = {split.name: read(reference, split.name) for split in splits}
    sums = {split.name: [] for split in splits}
    rows = []
    for description in progress(
        sorted(descriptions, key=lambda description: description["component"] != BASE), "components"
    ):
        name = description["component"]
        log_p = {split.name: read(name, split.name) for split in splits}
        weight = 0.0 if name == BASE else optimal_weight(base[TUNED_ON], log_p[TUNED_ON])
        for split in splits:
            mixture = interpolate(base[split.name], log_p[split.name], weight)
            sums[split.name].append(document_sums(mixture, split.documents))
            measures = {
                "ppl_alone": perplexity(log_p[split.name], split.words),
                "lambda": weight,
                "ppl": perplexity(mixture, split.words),
                "oracle": perplexity(oracle(base[split.name], log_p[split.name]), split.words),
                "helped": (log_p[split.name] > base[split.name]).mean(),
                "agreement": agreement(base[split.name], log_p[split.name], log_p_reference[split.name]),
            }
            known = {key: description[key] for key in (*DESCRIPTION, *HYPOTHESIS)}
            rows.append(known | {"split": split.name, "tokens": split.tokens.size, "words": split.words} | measures)
    table = pd.DataFrame(rows)
    for split in splits:
        samples = bootstrap(np.stack(sums[split.name]), split.document_words, resamples, seed)
        _add_gains_and_intervals(table, (table["split"] == split.name).to_numpy(), samples, level)
    whole_numbers = {
        "k": "Int64",
        "added_parameters": "Int64",
        "rows": "Int64",
    }  # the base LM has none: an integer column with gaps
    numbers = {"temperature": "float64", "fraction": "float64", "x": "float64"}
    return table[COMPONENT_COLUMNS].astype(whole_numbers | numbers)


def _add_gains_and_intervals(table: pd.DataFrame, rows: np.ndarray, samples: np.ndarray, level: float) -> None:
    """Fill in the columns made from differences and resamples; row i of `samples` belongs to the i-th of `rows`, the base LM being first."""
    perplexities = table.loc[rows, "ppl"]
    with np.errstate(invalid="ignore"):
        table.loc[rows, "gain"] = perplexities.iloc[0] - perplexities
        gains = samples[0] - samples
    table.loc[rows, "ppl_low"], table.loc[rows, "ppl_high"] = interval(samples, level)
    table.loc[rows, "gain_low"], table.loc[rows, "gain_high"] = interval(gains, level)


def main_variants(components: pd.DataFrame, h: str, metric: str) -> list[str]:
    """Return the names of the main component's variants: tuned, the whole store, every mask and score."""
    components = main_result(components)
    chosen = (
        (components["h"] == h) & (components["metric"] == metric) & (components["fraction"] == 1) & _tuned(components)
    )
    return list(dict.fromkeys(components.loc[chosen, "component"]))


def datastore_size_table(components: pd.DataFrame, h: str, metric: str, fractions: Sequence[float]) -> pd.DataFrame:
    """Return the rows of the component table that belong to the main component's tuned variants which exist at every fraction of the store.

    Raises KnnlmError if there is none.
    """
    components = main_result(components)
    rows = components[(components["h"] == h) & (components["metric"] == metric) & _tuned(components)]
    whole = rows.groupby(["mask", "score"]).filter(lambda variant: set(fractions) <= set(variant["fraction"]))
    if whole.empty:
        raise KnnlmError(
            f"components: none is made from {h} keys with the metric {metric} at every fraction; see `main` and `fractions` in the config."
        )
    return whole.sort_values(["mask", "score", "fraction"], kind="stable")


def lambda_table(names: Sequence[str], read: Reader, splits: Sequence[Split]) -> pd.DataFrame:
    """Return (component, split, lambda, ppl) for λ = 0, 0.01 ... 1: λ = 0 is the base LM, λ = 1 the component alone (possibly inf)."""
    rows = []
    for name in names:
        for split in splits:
            base, log_p = read(BASE, split.name), read(name, split.name)
            rows += [
                {
                    "component": name,
                    "split": split.name,
                    "lambda": weight,
                    "ppl": perplexity(interpolate(base, log_p, weight), split.words),
                }
                for weight in np.linspace(0, 1, LAMBDA_POINTS).round(10)
            ]
    return pd.DataFrame(rows, columns=["component", "split", "lambda", "ppl"])


def summary(components: pd.DataFrame, level: float) -> str:
    """Return the main result as text: the base LM and every component on the whole store, as measured on test."""
    components = main_result(components)
    test = components[(components["split"] == "test") & (components["fraction"].isna() | (components["fraction"] == 1))]
    first = test.iloc[0]
    shown = pd.DataFrame({column: test[column].fillna("") for column in ("component", "h", "metric", "mask", "score")})
    shown.loc[test["component"] == BASE, "h"] = "base LM"
    shown["temperature"] = [f"{value:.3g}" if value == value else "" for value in test["temperature"]]
    shown["tuned"] = test["temperature_status"].map({"optimum": "yes", "edge": "edge!", "fixed": "no"}).fillna("")
    shown["lambda"] = [f"{value:.3f}" for value in test["lambda"]]
    shown["ppl"] = [f"{value:.2f}" for value in test["ppl"]]
    shown["gain"] = [
        f"{gain:.2f} [{low:.2f}, {high:.2f}]" for gain, low, high in test[["gain", "gain_low", "gain_high"]].to_numpy()
    ]
    shown["oracle"] = [f"{value:.2f}" for value in test["oracle"]]
    heading = (
        f"Word perplexity on test ({first['tokens']:,} tokens, {first['words']:,} words), base LM and base LM + kNN; lower is better.\n"
        f"gain: base LM's perplexity minus the mixture's, with its {level:.0%} interval over documents. λ is tuned on valid, and so is the\n"
        "temperature where it says so.\n\n"
    )
    return heading + shown.drop(columns="component").to_string(index=False) + "\n"


def _tuned(components: pd.DataFrame) -> pd.Series:
    return components["temperature_status"].isin(["optimum", "edge"])
