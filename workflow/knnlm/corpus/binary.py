"""Pieces as token ids: fairseq's binary format, made by fairseq's own tool, and read and checked without it."""

import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from knnlm.corpus.dictionary import CONTINUATION, read_pieces
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError
from knnlm.running.processes import die_with_parent, reason_in
from knnlm.storage.arrays import load_array
from knnlm.storage.locks import locked

MAGIC = b"MMIDIDX\x00\x00"
TYPES = {4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}  # of the format's, those that fairseq-preprocess chooses


def preprocess(pieces: Sequence[Path], dictionary: Path, folder: Path, workers: int) -> None:
    """Run fairseq-preprocess on the pieces of train, valid and test; its files go to `folder`.

    Raises KnnlmError with its last line if it fails.
    """
    for split, path in zip(SPLITS, pieces, strict=True):  # links, because fairseq splits a path at its commas
        (folder / split).symlink_to(Path(path).resolve())
    command = f"-m fairseq_cli.preprocess --only-source --dataset-impl mmap --workers {workers} --destdir .".split()
    command += ["--srcdict", str(Path(dictionary).resolve()), *(f"--{split}pref={split}" for split in SPLITS)]
    pipes = {"capture_output": True, "encoding": "utf-8"}
    done = subprocess.run([sys.executable, *command], cwd=folder, check=False, preexec_fn=die_with_parent, **pipes)
    if done.returncode:
        reason = reason_in(done.stdout + done.stderr)
        raise KnnlmError(f"{dictionary}: fairseq-preprocess ended with status {done.returncode}: {reason}")


def read_binary(prefix: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids (T,), memory-mapped, and line offsets, int64 (lines+1,), of `prefix`.bin and `prefix`.idx."""
    with open(f"{prefix}.idx", "rb") as file:
        magic, version, code, lines = struct.unpack("<9sQBQ", file.read(26))
        if magic != MAGIC or version != 1 or code not in TYPES:
            raise KnnlmError(f"{prefix}.idx: an index of an unknown format; install the pinned version of ve-fairseq.")
        sizes = np.fromfile(file, dtype=np.int32, count=lines)
    tokens = np.memmap(f"{prefix}.bin", dtype=TYPES[code], mode="r")
    return tokens, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def read_split(prefix: Path, pieces: Path, line_documents: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a split's token ids, int32 (T,), and the first token of each line and of each document, int64, ends last.

    `pieces` is the text that fairseq has read; `line_documents` holds the first line of each document, int64
    (documents+1,). Raises KnnlmError where one of them does not fit fairseq's files at `prefix`.
    """
    tokens, lines = read_binary(prefix)
    with open(pieces, encoding="utf-8", newline="\n") as text:
        sizes = np.fromiter((len(line.split()) + 1 for line in text), dtype=np.int64)  # with </s>
    if not np.array_equal(np.diff(lines), sizes) or len(tokens) != lines[-1]:
        raise KnnlmError(f"{pieces}: fairseq-preprocess counted other tokens; delete the file and rerun.")
    first_lines = load_array(line_documents, dtype="int64", shape=(None,))
    if len(first_lines) < 2 or first_lines[-1] != len(lines) - 1:
        raise KnnlmError(f"{line_documents}: does not fit {pieces}; delete both and rerun.")
    return tokens.astype(np.int32), lines, lines[first_lines]


def continuation_of(dictionary: str | Path) -> np.ndarray:
    """Return for each token id whether its piece ends in `@@`: bool (V,)."""
    return np.array([piece.endswith(CONTINUATION) for piece in read_pieces(dictionary)])


@contextmanager
def unfinished_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder in `beside`, removed in the end; at first, remove what attempts that were killed have left."""
    beside.mkdir(parents=True, exist_ok=True)
    with locked(beside / ".lock"):
        for abandoned in beside.glob(".unfinished.*"):
            shutil.rmtree(abandoned)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".unfinished.") as name:
            yield Path(name)
