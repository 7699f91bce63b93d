"""Make the text of the three splits, one line a paragraph, with document boundaries."""

import sys
from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus import SPLITS, sources
from knnlm.storage.files import atomic, save_array, write_manifest


def main(settings: dict, texts: Sequence[Path], documents: Sequence[Path], manifest: Path) -> None:
    """Read the source that the config names and write its splits; nothing is written before all of it has been read."""
    folder = texts[0].parent.parent
    splits = sources.load(settings["corpus"], settings["seed"], folder / "wikitext-103-v1.zip")
    if shared := sources.duplicates(splits):
        problem = f"documents that stand in more than one split: {shared}; numbers on valid and test will look better than they are"
        print(f"Warning: {problem}; remove them from all splits but one.", file=sys.stderr)
    for split in SPLITS[1:]:  # valid and test
        if len(splits[split]) == 1:
            lost = "no intervals, so that every verdict will be inconclusive" if split == "test" else "no intervals"
            print(
                f"Warning: documents in the {split} split: 1; its numbers will have {lost}; {remedy(settings['corpus'], split)}.",
                file=sys.stderr,
            )
    for split, text, offsets in zip(SPLITS, texts, documents, strict=True):
        with atomic(text) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(sources.lines_of(splits[split]))
        save_array(offsets, sources.document_offsets(splits[split]))
    write_manifest(manifest, [*texts, *documents], kind="text")


def remedy(settings: dict, split: str) -> str:
    """Say which key of the config's `corpus` gives a split more documents, which intervals are made by resampling of."""
    if settings["source"] == "sotu":
        return "lower corpus.sotu.period"
    if settings["source"] == "text" and settings["text"]["folder"] is not None:
        return f"raise corpus.text.{split}_fraction"
    return "set corpus.text.document_separator to what divides the text into documents, or give a text of more"
