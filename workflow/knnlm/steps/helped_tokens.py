"""Measure which tokens of test the main kNN-LM helps: by properties of a token, and by word type."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knnlm.analysis.helped_tokens import Scored, helped_table, type_table
from knnlm.components import catalogue, columns
from knnlm.components.interpolation import interpolate, optimal_weight
from knnlm.corpus.dictionary import read_pieces
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import read_manifest
from knnlm.storage.tables import DIGITS, write_table


def main(
    settings: dict, corpus: Path, tokens: Sequence[Path], documents: Sequence[Path], train: Path, continuation: Path,
    base: Path, components: Sequence[Path], dictionary: Path, table: Path, types_table: Path,
) -> None:  # fmt: skip
    """Tune λ on valid, score test, and write both tables."""
    read_manifest(corpus, kind="corpus")  # knows the dictionary too
    gold = {path.stem: np.asarray(load_array(path, "int32", (None,))) for path in tokens}
    continues, text = load_array(continuation, "bool", (None,)), load_array(train, "int32", (None,))
    sizes = {split: array.size for split, array in gold.items()}
    checkpoint = columns.checkpoint_of(base)
    _, lm = columns.find_component([base], catalogue.BASE.component, sizes, checkpoint)
    _, knn = columns.find_component(components, catalogue.main_name(settings["main"]), sizes, checkpoint)
    gain = interpolate(lm["test"], knn["test"], optimal_weight(lm["valid"], knn["valid"])) - lm["test"]
    scored = Scored(gold["test"], knn["test"] > lm["test"], gain)
    borders = load_array(documents[EVALUATED.index("test")], "int64", (None,))
    if borders[0] != 0 or borders[-1] != scored.tokens.size:
        raise KnnlmError(f"{documents[1]}: does not span the tokens of test; rerun the step that makes the corpus.")
    pieces = read_pieces(dictionary)
    if len(pieces) != continues.size:
        differs = f"has {len(pieces)} pieces, {continuation} {continues.size}"
        raise KnnlmError(f"{dictionary}: {differs}; rerun the corpus steps.")
    write_table(table, helped_table(scored, text, np.asarray(borders), np.asarray(continues)), DIGITS)
    write_table(types_table, type_table(scored, text, pieces), DIGITS)
