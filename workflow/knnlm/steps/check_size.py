"""Refuse a stage that the training text is too short for as soon as its tokens are counted, not hours later."""

import sys
from pathlib import Path

from knnlm.config import text_limits
from knnlm.errors import KnnlmError
from knnlm.storage.manifests import read_manifest


def main(stage: str, settings: dict, manifest: Path) -> None:
    """Compare the config's part for one stage with the tokens."""
    tokens = read_manifest(manifest)["tokens"]
    if differs := text_limits.difference(settings.get("corpus", {}).get("token_counts"), tokens):
        print(f"Warning: {differs}", file=sys.stderr)
    for key, problem in text_limits.problems(settings, tokens["train"], stages=[stage]):
        raise KnnlmError(f"config key {key}: {problem}")
