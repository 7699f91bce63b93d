"""Tokenise the three splits line by line, as WikiText is tokenised, or copy text that already is."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus.tokenise import tokenise_stream
from knnlm.running.progress import progress
from knnlm.storage.files import atomic, read_manifest, write_manifest


def main(
    settings: dict, texts: Sequence[Path], of_texts: Path, tokenised: Sequence[Path], manifest: Path, threads: int = 1
) -> None:
    """Write one tokenised line for each line of text."""
    read_manifest(of_texts, kind="text")
    for text, output in zip(texts, tokenised, strict=True):
        with atomic(output) as unfinished:
            if (tokeniser := settings["corpus"]["tokeniser"]) == "none":
                shutil.copyfile(text, unfinished)
                continue
            with open(text, "rb") as lines:
                total = sum(1 for _ in lines)
            with (
                open(text, encoding="utf-8", newline="\n") as lines,
                open(unfinished, "w", encoding="utf-8", newline="\n") as file,
            ):
                done = progress(tokenise_stream(lines, threads, tokeniser), f"tokenise {text} (lines)", total)
                file.writelines(f"{line}\n" for line in done)
    write_manifest(manifest, tokenised, kind="tokenised text")
