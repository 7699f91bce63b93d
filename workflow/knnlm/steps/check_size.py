"""Refuse a stage that the training text is too short for as soon as its tokens are counted, not hours later."""

import sys
from collections.abc import Sequence
from pathlib import Path

from knnlm.config import text_limits
from knnlm.errors import KnnlmError
from knnlm.storage.manifests import read_manifest


def main(stage: str, settings: dict, manifest: Path, given: Sequence[int] = ()) -> None:
    """Compare the config's part for one stage with the tokens; the first stage says if those `given` are others.

    `given` is in the order of the splits. Raises KnnlmError, naming the key.
    """
    tokens = read_manifest(manifest)["tokens"]
    differs = text_limits.difference(dict(zip(tokens, given, strict=False)), tokens)
    if differs and stage == next(iter(text_limits.CHECKS)):
        print(f"Warning: {differs}", file=sys.stderr)
    for key, problem in text_limits.problems(settings, tokens["train"], stages=[stage]):
        raise KnnlmError(f"config key {key}: {problem}")
