"""Make the text of the three splits, one line a paragraph, with document boundaries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knnlm.corpus.sources import load, warn
from knnlm.corpus.text import SPLITS
from knnlm.storage.arrays import save_array
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import write_manifest


def main(settings: dict, texts: Sequence[Path], documents: Sequence[Path], manifest: Path) -> None:
    """Read the source that the config names and write its splits; nothing is written before all of it has been read."""
    splits = load(settings["corpus"], settings["seed"], texts[0].parent.parent)
    warn(splits, settings["corpus"])
    for split, text, offsets in zip(SPLITS, texts, documents, strict=True):
        with atomic(text) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for document in splits[split] for line in document)
        first_lines = np.cumsum([0, *map(len, splits[split])], dtype=np.int64)  # (documents+1,)
        save_array(offsets, first_lines)
    write_manifest(manifest, [*texts, *documents], kind="text")
