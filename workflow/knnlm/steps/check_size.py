"""Refuse a number of neighbours that the training text is too short for, as soon as its tokens are counted: before the LM is trained."""

import argparse
from math import floor

from knnlm.artifacts import read_manifest
from knnlm.errors import KnnlmError
from knnlm.steps import run


def main(arguments: argparse.Namespace) -> None:
    """Compare k with the rows of the smallest store."""
    rows = read_manifest(arguments.manifest)["tokens"]["train"]
    fraction, k = min(arguments.settings["fractions"]), arguments.settings["retrieval"]["k"]
    if k > (smallest := floor(fraction * rows)):
        raise KnnlmError(
            f"config key retrieval.k: {k}, but the smallest fraction ({fraction}) of the datastore has {smallest} rows of {rows} training tokens; "
            "lower it, raise the smallest of fractions or give more text."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help='JSON: {"retrieval": {"k"}, "fractions"}')
    parser.add_argument("--manifest", required=True, metavar="JSON", help="manifest of the tokens")
    run(main, parser)
