"""Refuse what the training text is too short for as soon as its tokens are counted, not when a stage that needs them comes hours later."""

from pathlib import Path

from knnlm.config import text_limits
from knnlm.errors import KnnlmError
from knnlm.storage.files import read_manifest


def main(stage: str, settings: dict, manifest: Path) -> None:
    """Compare the config's part for one stage with the tokens."""
    tokens = read_manifest(manifest)["tokens"]["train"]
    for key, problem in text_limits.problems(stage, settings, tokens, counted=True):
        raise KnnlmError(f"config key {key}: {problem}")
