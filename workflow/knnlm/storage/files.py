"""Files that later stages trust: atomic writes, arrays that carry their shape and a seal, manifests that vouch for the files of their group."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tokenize import TokenError  # NumPy's parser of a damaged header

import numpy as np

from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic, naming  # noqa: F401 (moved; others import them from here)
from knnlm.storage.seals import seal, seal_of, verified

FORMAT = 2  # raised whenever the layout or meaning of a stored file changes
SOFTWARE = ("numpy", "torch", "faiss", "ve-fairseq")


@contextmanager
def sealed(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name as `atomic` does, and seal what was written there: for the files that `verified` is to know."""
    with atomic(path) as unfinished:
        yield unfinished
        seal(unfinished)


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write `array` as `.npy`, sealed, whole or not at all."""
    with sealed(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def new_array(path: str | Path, dtype: str, shape: tuple[int, ...]) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """Write a `.npy` array of `shape` (slabs, rows, ...) piece by piece, sealed, whole or not at all: for results larger than memory.

    Yields `write(slab, first_row, rows)`; nothing of what it wrote stays in memory. The file takes its place only if the block succeeds.
    Raises ValueError for rows that do not fit and where, at the end, not every row has been written.
    """
    unwritten = np.ones(shape[:2], dtype=bool)
    with sealed(path) as unfinished, open(unfinished, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        header, row_bytes = file.tell(), np.dtype(dtype).itemsize * math.prod(shape[2:])

        def write(slab: int, first_row: int, rows: np.ndarray) -> None:
            places = unwritten[slab, first_row : first_row + len(rows)]
            if rows.shape != (len(places), *shape[2:]):
                raise ValueError(f"{path}: rows of shape {rows.shape} do not fit at row {first_row} of {shape}")
            places[:] = False
            file.seek(header + (slab * shape[1] + first_row) * row_bytes)
            file.write(np.ascontiguousarray(rows, dtype=dtype))

        yield write
        if unwritten.any():
            raise ValueError(f"{path}: {np.count_nonzero(unwritten)} of {unwritten.size} rows were never written")


def load_array(path: str | Path, dtype: str | None = None, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """Memory-map an `.npy` file read-only and check that it is as it was written, and what it should hold.

    `shape` may leave sizes open with None. Raises KnnlmError, naming the file, if it is missing, damaged or of another dtype or shape.
    """
    verified(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, TokenError) as error:
        raise KnnlmError(
            f"{path}: not a readable .npy array ({error}); delete it and rerun the step that makes it."
        ) from None
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise KnnlmError(f"{path}: holds {array.dtype}, expected {dtype}; delete it and rerun the step that makes it.")
    if shape is not None:
        fits = len(shape) == array.ndim and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise KnnlmError(
                f"{path}: has shape {array.shape}, expected {shape}; delete it and rerun the step that makes it."
            )
    return array


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_name(facts: list | dict) -> str:
    """Return a short name, hexadecimal, that belongs to these facts alone."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def software() -> dict[str, str]:
    """Return the versions that a manifest records."""
    found = {"python": platform.python_version()}
    for name in SOFTWARE:
        distributions = ("faiss-cpu", "faiss-gpu") if name == "faiss" else (name,)
        for distribution in distributions:
            try:
                found[distribution] = version(distribution)
            except ModuleNotFoundError:
                continue
    return found


def write_manifest(path: str | Path, files: Iterable[str | Path] = (), **facts: object) -> None:
    """Write what is known of a group of files (rows, dimension, metric, checkpoint, settings ...) as JSON, with its own checksum and those of `files`."""
    path = Path(path)
    hashes = {os.path.relpath(file, path.parent): content_hash(file) for file in files}
    content = json.loads(json.dumps({"format": FORMAT, **facts, "files": hashes, "software": software()}))
    with atomic(path) as unfinished:
        unfinished.write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: str | Path, **expected: object) -> dict:
    """Read a manifest and refuse it, by name, where a fact differs from what is expected of it, or a file of its group is not the one it was written for.

    What a seal tells of such a file is believed here: it is checked when the file is read.
    """
    path = Path(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KnnlmError(f"{path}: the manifest is missing; rerun the step that makes it.") from None
    except (ValueError, OSError):
        facts = None
    if not isinstance(facts, dict):
        raise KnnlmError(f"{path}: not a readable manifest; delete it and rerun the step that makes it.")
    if facts.get("format") != FORMAT:
        have = facts.get("format")
        raise KnnlmError(
            f"{path}: format is {have!r}, of another version, but {FORMAT} is needed here; delete it and rerun the step that makes it."
        )
    if facts.get("sha256") != _digest(facts):
        raise KnnlmError(
            f"{path}: damaged (its content does not have the checksum it tells); delete it and rerun the step that makes it."
        )
    for key, value in expected.items():
        if facts.get(key) != value:
            raise KnnlmError(
                f"{path}: {key} is {facts.get(key)!r}, but {value!r} is needed here; delete it and rerun the step that makes it."
            )
    for name, known in facts["files"].items():
        if content_hash(file := os.path.normpath(path.parent / name)) != known:
            raise KnnlmError(
                f"{file}: not as it was when {path} was written; delete it and rerun the step that makes it."
            )
    return facts


def check_same_model(path: Path, checkpoint: str, other: Path, other_checkpoint: str) -> None:
    """Refuse two manifests whose files were made with different language models."""
    if checkpoint != other_checkpoint:
        raise KnnlmError(
            f"{path}: made with another language model than {other}; delete both and rerun the steps that make them."
        )


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's content: as its seal tells it, or of a file without one by reading it. Raises KnnlmError if it is missing."""
    try:
        return seal_of(path) or sha256(path)
    except FileNotFoundError:
        raise KnnlmError(f"{path}: the file is missing; rerun the step that makes it.") from None


def _digest(facts: dict) -> str:
    """Return the SHA-256 of a manifest's facts, apart from itself."""
    return hashlib.sha256(
        json.dumps({key: facts[key] for key in facts if key != "sha256"}, sort_keys=True).encode()
    ).hexdigest()
