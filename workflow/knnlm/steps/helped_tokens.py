"""Measure which tokens of test the main kNN-LM helps: by properties of a token, and by word type."""

import argparse
from pathlib import Path

import numpy as np

from knnlm.analysis.helped_tokens import Scored, helped_table, read_pieces, type_table
from knnlm.components.catalogue import BASE, main_name
from knnlm.components.columns import checkpoint_of, find_component
from knnlm.components.interpolation import interpolate, optimal_weight
from knnlm.errors import KnnlmError
from knnlm.running.step import run
from knnlm.storage.files import load_array, read_manifest
from knnlm.storage.tables import DIGITS, write_table

SPLITS = ("valid", "test")


def main(arguments: argparse.Namespace) -> None:
    """Tune λ on valid, score test, and write both tables."""
    read_manifest(arguments.corpus, kind="corpus")  # knows the dictionary too
    tokens = {
        split: np.asarray(load_array(path, "int32", (None,)))
        for split, path in zip(SPLITS, arguments.tokens, strict=True)
    }
    continuation, train = (
        load_array(arguments.continuation, "bool", (None,)),
        load_array(arguments.train, "int32", (None,)),
    )
    sizes = {split: array.size for split, array in tokens.items()}
    checkpoint = checkpoint_of(arguments.base)
    _, base = find_component([arguments.base], BASE.component, sizes, checkpoint)
    _, knn = find_component(arguments.components, main_name(arguments.settings["main"]), sizes, checkpoint)
    weight = optimal_weight(base["valid"], knn["valid"])
    gain = interpolate(base["test"], knn["test"], weight) - base["test"]
    scored = Scored(tokens["test"], knn["test"] > base["test"], gain)
    documents = load_array(arguments.documents[SPLITS.index("test")], "int64", (None,))
    if documents[0] != 0 or documents[-1] != scored.tokens.size:
        raise KnnlmError(
            f"{arguments.documents[1]}: does not span the tokens of test; rerun the step that makes the corpus."
        )
    pieces = read_pieces(arguments.dictionary)
    if len(pieces) != continuation.size:
        raise KnnlmError(
            f"{arguments.dictionary}: has {len(pieces)} pieces, {arguments.continuation} {continuation.size}; rerun the corpus steps."
        )
    tables = {
        arguments.table: helped_table(scored, train, np.asarray(documents), np.asarray(continuation)),
        arguments.types_table: type_table(scored, train, pieces),
    }
    for path, table in tables.items():
        write_table(path, table, DIGITS)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("--settings", required=True, help="JSON with main")
    options.add_argument("--corpus", required=True, help="manifest of the corpus")
    options.add_argument("--tokens", required=True, nargs=2, metavar=("VALID", "TEST"))
    options.add_argument("--documents", required=True, nargs=2, metavar=("VALID", "TEST"))
    options.add_argument("--train", required=True, help="token ids of the training text")
    options.add_argument("--continuation", required=True)
    options.add_argument("--base", type=Path, required=True, help="description file of the base LM as a component")
    options.add_argument(
        "--components", type=Path, nargs="+", required=True, help="description files of the kNN components"
    )
    options.add_argument("--dictionary", required=True, help="fairseq's dict.txt")
    options.add_argument("--table", required=True, help="by property")
    options.add_argument("--types-table", required=True, help="the word types helped and hurt most")
    return options


if __name__ == "__main__":
    run(main, parser())
