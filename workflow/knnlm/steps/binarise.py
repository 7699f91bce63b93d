"""Turn pieces into token ids in fairseq's binary format (by fairseq's own tool) and, beside it, into NumPy arrays with line and document offsets."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from knnlm.corpus import SPLITS
from knnlm.corpus.dictionary import CONTINUATION, SPECIAL
from knnlm.errors import KnnlmError
from knnlm.running.processes import die_with_parent, reason_in
from knnlm.storage.files import load_array, read_manifest, save_array, write_manifest
from knnlm.storage.locks import locked

UNKNOWN_ID = SPECIAL.index("<unk>")
INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_TYPES = {
    4: np.int32,
    5: np.int64,
    8: np.uint16,
    9: np.uint32,
}  # of the types that the format numbers, those fairseq-preprocess may choose


def preprocess(pieces: Sequence[Path], dictionary: Path, folder: Path, workers: int) -> None:
    """Run fairseq-preprocess on the pieces of train, valid and test; its files go to `folder`. Raises KnnlmError with its last line if it fails."""
    # Links, because fairseq splits a path at its commas.
    for split, path in zip(SPLITS, pieces, strict=True):
        (folder / split).symlink_to(Path(path).resolve())
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.preprocess",
        "--only-source",
        "--dataset-impl",
        "mmap",
        "--workers",
        str(workers),
        "--destdir",
        ".",
    ]
    command += ["--srcdict", str(Path(dictionary).resolve())]
    for split in SPLITS:
        command += [f"--{split}pref", split]
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, encoding="utf-8", preexec_fn=die_with_parent
    )
    if done.returncode:
        raise KnnlmError(
            f"{dictionary}: fairseq-preprocess ended with status {done.returncode}: {reason_in(done.stdout + done.stderr)}"
        )


def read_binary(prefix: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids (T,) and line offsets, int64 (lines+1,), of `prefix`.bin and `prefix`.idx, fairseq's memory-mapped format."""
    with open(f"{prefix}.idx", "rb") as file:
        magic, version, code, lines = struct.unpack("<9sQBQ", file.read(26))
        if magic != INDEX_MAGIC or version != 1 or code not in INDEX_TYPES:
            raise KnnlmError(
                f"{prefix}.idx: not the index format that is known here; install the pinned version of ve-fairseq."
            )
        sizes = np.fromfile(file, dtype=np.int32, count=lines)
    tokens = np.memmap(f"{prefix}.bin", dtype=INDEX_TYPES[code], mode="r")
    return tokens, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def line_sizes(path: str | Path) -> np.ndarray:
    """Return the number of tokens of each line of a piece file, `</s>` included: int64 (lines,)."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        return np.fromiter((len(line.split()) + 1 for line in lines), dtype=np.int64)


def continuation_of(dictionary: str | Path) -> np.ndarray:
    """Return for each token id whether its piece ends in `@@`: bool (V,)."""
    with open(dictionary, encoding="utf-8", newline="\n") as lines:
        pieces = [line.rsplit(" ", 1)[0] for line in lines]
    return np.array([piece.endswith(CONTINUATION) for piece in (*SPECIAL, *pieces)])


@contextmanager
def unfinished_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder in `beside`; in the end it is removed, and in the beginning what an attempt that was killed has left."""
    beside.mkdir(parents=True, exist_ok=True)
    with locked(beside / ".lock"):
        for abandoned in beside.glob(".unfinished.*"):
            shutil.rmtree(abandoned)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".unfinished.") as name:
            yield Path(name)


def main(
    pieces: Sequence[Path],
    of_pieces: Path,
    of_texts: Path,
    dictionary: Path,
    line_documents: Sequence[Path],
    binary: Sequence[Path],
    tokens: Sequence[Path],
    lines: Sequence[Path],
    documents: Sequence[Path],
    continuation: Path,
    manifest: Path,
    threads: int = 1,
) -> None:
    """Write fairseq's files, the arrays and the manifest; nothing is written before all of it has been checked."""
    read_manifest(of_pieces, kind="pieces")
    read_manifest(of_texts, kind="text")
    continues = continuation_of(dictionary)
    facts: dict[str, dict[str, int]] = {name: {} for name in ("tokens", "words", "documents", "unknown")}
    arrays = {continuation: continues}
    sizes = [line_sizes(path) for path in pieces]
    with unfinished_folder(binary[0].parent) as folder:  # beside the finished files, which then only need another name
        preprocess(pieces, dictionary, folder, threads)
        for number, split in enumerate(SPLITS):
            ids, edges = read_binary(folder / split)
            if not np.array_equal(np.diff(edges), sizes[number]) or len(ids) != edges[-1]:
                raise KnnlmError(
                    f"{pieces[number]}: fairseq-preprocess counts other tokens than the text has; delete the file and rerun."
                )
            first_lines = load_array(line_documents[number], dtype="int64", shape=(None,))
            if len(first_lines) < 2 or first_lines[-1] != len(edges) - 1:
                raise KnnlmError(f"{line_documents[number]}: does not fit {pieces[number]}; delete both and rerun.")
            arrays[tokens[number]] = ids.astype(np.int32)
            arrays[lines[number]] = edges
            arrays[documents[number]] = edges[first_lines]
            facts["tokens"][split] = len(ids)
            facts["words"][split] = len(ids) - int(np.count_nonzero(continues[ids]))
            facts["documents"][split] = len(first_lines) - 1
            facts["unknown"][split] = int(np.count_nonzero(ids == UNKNOWN_ID))
        for path, array in arrays.items():
            save_array(path, array)
        for path in binary:
            os.replace(folder / path.name, path)
    files = [*arrays, *binary, dictionary]
    write_manifest(manifest, files, kind="corpus", vocabulary_size=len(continues), **facts)
