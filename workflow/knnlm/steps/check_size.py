"""Refuse what the training text is too short for as soon as its tokens are counted, not when a stage that needs them comes hours later."""

import argparse

from knnlm.config import text_limits
from knnlm.errors import KnnlmError
from knnlm.running.step import run
from knnlm.storage.files import read_manifest


def main(arguments: argparse.Namespace) -> None:
    """Compare the config's part for one stage with the tokens."""
    tokens = read_manifest(arguments.manifest)["tokens"]["train"]
    for key, problem in text_limits.problems(arguments.stage, arguments.settings, tokens, counted=True):
        raise KnnlmError(f"config key {key}: {problem}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", required=True, choices=text_limits.CHECKS)
    parser.add_argument(
        "--settings",
        required=True,
        help="JSON with the keys of the config that `knnlm.config.text_limits.KEYS` lists for the stage",
    )
    parser.add_argument("--manifest", required=True, metavar="JSON", help="manifest of the tokens")
    run(main, parser)
