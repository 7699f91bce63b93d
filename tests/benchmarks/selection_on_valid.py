"""What tuning on valid adds to the uncertainty of a run: λ, τ and the best candidates are chosen again on other valids.

    PYTHONPATH=workflow python tests/benchmarks/selection_on_valid.py results/demo

The blocks of valid are drawn with replacement, everything is tuned on them, and test is measured with it. The table
that is printed compares the spread of the shares over a hundred such valids with their standard error on test.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from knnlm.analysis.candidates import compared
from knnlm.analysis.intervals import log_perplexities, standard_error
from knnlm.analysis.tables import Split
from knnlm.analysis.units import unit_sums
from knnlm.components.catalogue import main_name
from knnlm.components.interpolation import interpolate, optimal_weight, perplexity
from knnlm.components.knn import GoldShare, gold_matches
from knnlm.steps.tables import open_components, read_splits

MAIN = {"h": "att", "metric": "l2"}
ENTRY = {"against": None, "candidates": None}
AROUND = np.exp(np.linspace(-0.5, 0.5, 11))  # temperatures that are tried, in units of the tuned one
BLOCK, VALIDS = 500, 100
KNN = "gain of the kNN-LM"


def temperatures(run: Path, found: pd.Series, splits: list[Split]) -> dict[str, np.ndarray]:
    """Return log p of the main kNN at temperatures around the tuned one, by split: float32 (temperatures, T)."""
    folders = sorted(run.glob("datastore/chunk-*"), key=lambda path: int(path.name.partition("-")[2]))
    values = np.concatenate([np.load(folder / "values.npy") for folder in folders])  # (rows,), by id
    columns = {}
    for split in splits:
        name = run / f"neighbours/{MAIN['h']}-{MAIN['metric']}-exact/{split.name}"
        ids, similarities = (np.load(f"{name}.{part}.npy", mmap_mode="r")[-1] for part in ("ids", "similarities"))
        share = GoldShare(np.array(similarities), gold_matches(ids, values, split.tokens))
        columns[split.name] = np.stack([share(found["temperature"] * times) for times in AROUND])
    return columns


class Tuned:
    """Everything that is tuned on a valid, whose tokens are `picked`, and measured on test."""

    def __init__(self, columns: dict[str, dict[str, np.ndarray]], kinds: pd.DataFrame, splits: list[Split]):
        """Take log p by split and component, (T,), what each component is, and both splits."""
        self.columns, self.kinds = columns, kinds
        self.valid, self.test = splits

    def shares(self, entries: dict, picked: np.ndarray, words: float) -> pd.DataFrame:
        """Return each question's component, its share on test and the standard error; of the kNN, its gain instead."""
        valid = {name: column[picked] for name, column in self.columns["valid"].items()}
        weights = {name: optimal_weight(valid["base"], column) for name, column in valid.items()}
        ppl = {name: perplexity(interpolate(valid["base"], valid[name], weights[name]), words) for name in valid}
        variants = [name for name in ppl if name.startswith("tau-")]
        reference = min(variants, key=ppl.get)
        known = self.kinds.assign(ppl=self.kinds["component"].map(ppl), split="valid")
        pairs = compared(entries, known, MAIN) | {KNN: (reference, "base")}
        base = self.columns["test"]["base"]
        rows, (lm, with_knn) = {}, self._replicates(base, weights, "base", reference)
        for name, pair in pairs.items():
            best, against = (reference if one == main_name(MAIN) else one for one in pair)
            own, other = self._replicates(base, weights, best, against)
            gain = other - own  # (1 + units,)
            found = gain if name == KNN else gain / (lm - with_knn)
            rows[name] = best, found[0], float(standard_error(found))
        return pd.DataFrame(rows, index=["component", "found", "error"]).T

    def _replicates(self, base: np.ndarray, weights: dict[str, float], *names: str) -> np.ndarray:
        """Return the replicates of word perplexity on test of components beside the base LM: (names, 1 + units)."""
        mixed = (interpolate(base, self.columns["test"][name], weights[name]) for name in names)
        sums = np.stack([unit_sums(log_p, self.test.units.offsets) for log_p in mixed])
        return np.exp(log_perplexities(sums, self.test.unit_words))


def main(run: Path) -> None:
    """Print how much the spread over valids widens each share's interval."""
    corpus = run / "corpus/tokens"
    paths = ([corpus / f"{split}{end}.npy" for split in ("valid", "test")] for end in ("", ".documents"))
    splits = read_splits(*paths, corpus / "continuation.npy", BLOCK)
    search = f"{MAIN['h']}-{MAIN['metric']}"
    described = [run / "components/base.json", *sorted(run.glob(f"components/knn-{search}-*.json"))]
    descriptions, read = open_components([*described, *sorted(run.glob("hypotheses/*.json"))], splits)
    kinds = pd.DataFrame(descriptions)
    columns = {split.name: {name: read(name, split.name) for name in kinds["component"]} for split in splits}
    tuned = temperatures(run, kinds.set_index("component").loc[main_name(MAIN)], splits)
    for split, log_p in tuned.items():
        columns[split] |= {f"tau-{times:.2f}": column for times, column in zip(AROUND, log_p, strict=True)}
    config = Path(__file__).parents[2] / "config/hypotheses.yaml"
    entries = {name: ENTRY | entry for name, entry in yaml.safe_load(config.read_text())["hypotheses"].items()}
    judge, valid = Tuned(columns, kinds, splits), splits[0]
    first = judge.shares(entries, np.arange(valid.tokens.size), valid.words)
    generator, again = np.random.default_rng(1), []
    places = np.split(np.arange(valid.tokens.size), valid.units.offsets[1:-1])
    for _ in range(VALIDS):
        drawn = generator.integers(valid.units.size, size=valid.units.size)
        picked = np.concatenate([places[unit] for unit in drawn])
        again.append(judge.shares(entries, picked, valid.unit_words[drawn].sum()))
    print("| question | share | standard error on test | spread over valids | chosen again |\n|---|---|---|---|---|")
    for name, row in first.iterrows():
        found = np.array([table.loc[name, "found"] for table in again], float)
        same = np.mean([table.loc[name, "component"] == row["component"] for table in again])
        print(f"| {name} | {row['found']:.3f} | {row['error']:.4f} | {found.std():.4f} | {same:.0%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
