"""Turn pieces into token ids: fairseq's binary corpus and arrays, with the offsets of lines and documents."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knnlm.corpus.binary import continuation_of, preprocess, read_split, unfinished_folder
from knnlm.corpus.dictionary import UNKNOWN_ID
from knnlm.corpus.text import SPLITS
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import read_manifest, write_manifest


def main(
    pieces: Sequence[Path], of_pieces: Path, of_texts: Path, dictionary: Path, line_documents: Sequence[Path],
    binary: Sequence[Path], tokens: Sequence[Path], lines: Sequence[Path], documents: Sequence[Path],
    continuation: Path, manifest: Path, threads: int = 1,
) -> None:  # fmt: skip
    """Write fairseq's files, the arrays and the manifest; nothing is written before all of it has been checked."""
    read_manifest(of_pieces, kind="pieces")
    read_manifest(of_texts, kind="text")
    continues = continuation_of(dictionary)
    facts: dict[str, dict[str, int]] = {name: {} for name in ("tokens", "words", "documents", "unknown")}
    arrays = {continuation: continues}
    with unfinished_folder(binary[0].parent) as folder:  # finished files then only need another name
        preprocess(pieces, dictionary, folder, threads)
        for number, split in enumerate(SPLITS):
            ids, of_lines, of_documents = read_split(folder / split, pieces[number], line_documents[number])
            arrays |= {tokens[number]: ids, lines[number]: of_lines, documents[number]: of_documents}
            facts["tokens"][split] = len(ids)
            facts["words"][split] = len(ids) - int(np.count_nonzero(continues[ids]))
            facts["documents"][split] = len(of_documents) - 1
            facts["unknown"][split] = int(np.count_nonzero(ids == UNKNOWN_ID))
        for path, array in arrays.items():
            save_array(path, array)
        for path in binary:
            os.replace(folder / path.name, path)
    files = [*arrays, *binary, dictionary]
    write_manifest(manifest, files, kind="corpus", vocabulary_size=len(continues), **facts)
