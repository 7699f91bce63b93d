"""Tokenise the three splits line by line, or copy text that is tokenised already."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus.text import rewrite
from knnlm.corpus.tokenise import tokenise_stream
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import read_manifest, write_manifest


def main(
    settings: dict, texts: Sequence[Path], of_texts: Path, tokenised: Sequence[Path], manifest: Path, threads: int = 1
) -> None:
    """Write one tokenised line for each line of text."""
    read_manifest(of_texts, kind="text")
    tokeniser = settings["corpus"]["tokeniser"]
    for source, target in zip(texts, tokenised, strict=True):
        if tokeniser == "none":
            with atomic(target) as unfinished:
                shutil.copyfile(source, unfinished)
        else:
            rewrite(source, target, lambda lines: tokenise_stream(lines, threads, tokeniser), "tokenise")
    write_manifest(manifest, tokenised, kind="tokenised text")
