"""Make the text of the three splits, one line a paragraph, with document boundaries."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus.sources import document_offsets, lines_of, load, warn
from knnlm.corpus.text import SPLITS
from knnlm.storage.files import atomic, save_array, write_manifest


def main(settings: dict, texts: Sequence[Path], documents: Sequence[Path], manifest: Path) -> None:
    """Read the source that the config names and write its splits; nothing is written before all of it has been read."""
    splits = load(settings["corpus"], settings["seed"], texts[0].parent.parent / "wikitext-103-v1.zip")
    warn(splits, settings["corpus"])
    for split, text, offsets in zip(SPLITS, texts, documents, strict=True):
        with atomic(text) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines_of(splits[split]))
        save_array(offsets, document_offsets(splits[split]))
    write_manifest(manifest, [*texts, *documents], kind="text")
