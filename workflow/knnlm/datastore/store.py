"""The datastore: one (hidden state, next token) pair per training token, in chunks of shuffled rows.

A chunk holds the states of a contiguous stretch of the training text, in random order (`knnlm.datastore.shuffle`)
beside their positions in the text. The global id of a row is the chunk's first position plus the row's number in the
chunk, so ids run from 0 to the number of training tokens, each used once.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.datastore.shuffle import prefix_rows
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import Rows, load_array, rows_in_order, save_array
from knnlm.storage.manifests import read_manifest

NORMS_OF = 10_000  # keys of a chunk whose squared norms are averaged


def save_chunk(
    folder: Path, att: np.ndarray, ffn: np.ndarray, tokens: np.ndarray, first: int, order: np.ndarray
) -> list[Path]:
    """Write the arrays of one chunk in a random `order`, int64 (rows,), and return their files.

    att and ffn: float16 (rows, width), the states of the rows of `tokens`, int32 (all,), from position `first` on.
    """
    rows = slice(first, first + len(order))
    arrays = {"att": att, "ffn": ffn, "values": tokens[rows], "positions": np.arange(rows.start, rows.stop)}
    files = {folder / f"{name}.npy": array for name, array in arrays.items()}
    for path, array in files.items():
        save_array(path, array[order])
    return list(files)


def mean_squared_norms(keys: dict[str, np.ndarray], sample: np.ndarray) -> dict[str, float]:
    """Return the mean ‖k‖² of each array of keys, float16 (rows, width), on the rows of `sample`, int (any,)."""
    rows = sample[:NORMS_OF]
    return {h: float(np.square(of_h[rows].astype(np.float64)).sum(axis=1).mean()) for h, of_h in keys.items()}


@dataclass(frozen=True)
class Chunk:
    """One chunk on disk: keys att and ffn, float16 (rows, width), values, int32 (rows,), positions, int64 (rows,)."""

    folder: Path
    rows: int
    width: int
    first_position: int
    identity: str = ""  # checksum of its manifest, which has those of its arrays

    def keys_of(self, h: str) -> np.ndarray:
        """Return the keys of one input representation (`att` or `ffn`), float16 (rows, width), memory-mapped."""
        return load_array(self.folder / f"{h}.npy", dtype="float16", shape=(self.rows, self.width))

    def keys_in_order(self, h: str) -> AbstractContextManager[Rows]:
        """Open the same keys to be read from first row to last, and checked as they are read (`rows_in_order`)."""
        return rows_in_order(self.folder / f"{h}.npy", dtype="float16", shape=(self.rows, self.width))

    def values_of_rows(self) -> np.ndarray:
        """Return the target token of every row, int32 (rows,), memory-mapped."""
        return load_array(self.folder / "values.npy", dtype="int32", shape=(self.rows,))


@dataclass(frozen=True)
class Datastore:
    """All chunks of one store, in the order of the text."""

    chunks: tuple[Chunk, ...]
    checkpoint: str

    @property
    def manifest(self) -> Path:
        """Manifest of the first chunk, to name the store by."""
        return self.chunks[0].folder / "manifest.json"

    @property
    def rows(self) -> int:
        """Number of (key, value) pairs, which is the number of training tokens."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def identity(self) -> str:
        """What tells this store from any other, of the same LM too."""
        return hashlib.sha256("".join(chunk.identity for chunk in self.chunks).encode()).hexdigest()

    @property
    def width(self) -> int:
        """Dimension of a key."""
        return self.chunks[0].width

    def all_values(self) -> np.ndarray:
        """Return the values of the whole store by global id, int32 (rows,)."""
        found = []
        for chunk in self.chunks:
            with rows_in_order(chunk.folder / "values.npy", dtype="int32", shape=(chunk.rows,)) as values:
                found.append(np.array(values[:]))
        return np.concatenate(found)

    def rows_below(self, fraction: float) -> int:
        """Return how many rows a store of this fraction has."""
        return sum(prefix_rows(fraction, chunk.rows) for chunk in self.chunks)

    @contextmanager
    def keys_in_order(self, h: str) -> Iterator[list[Rows]]:
        """Open the keys of every chunk, each to be read from its first row to its last (`Chunk.keys_in_order`)."""
        with ExitStack() as opened:
            yield [opened.enter_context(chunk.keys_in_order(h)) for chunk in self.chunks]

    def sample(self, h: str, rows: int) -> np.ndarray:
        """Return a uniform sample of about `rows` keys, float32 (that many, width): the same prefix of every chunk."""
        sizes = [prefix_rows(min(1.0, rows / self.rows), chunk.rows) for chunk in self.chunks]
        found = np.empty((sum(sizes), self.width), dtype=np.float32)
        for chunk, part, size in zip(self.chunks, np.split(found, np.cumsum(sizes)[:-1]), sizes, strict=True):
            part[:] = chunk.keys_of(h)[:size]
        return found


def open_datastore(manifests: list[str | Path]) -> Datastore:
    """Open a store by the manifests of its chunks and check that they are one store, whole.

    Raises KnnlmError if a chunk is missing, comes from another LM, or the rows are not exactly the tokens of the text.
    """
    read = [(read_manifest(path, kind="datastore chunk"), Path(path)) for path in manifests]
    read.sort(key=lambda item: item[0]["chunk"])
    (first, first_path), chunks, position, again = read[0], [], 0, "delete the datastore folder and rerun"
    for number, (fact, path) in enumerate(read):
        for key in ("checkpoint", "corpus_tokens", "chunks", "width"):
            if fact[key] != first[key]:
                raise KnnlmError(f"{path}: {key} differs from that of {first_path}; {again}.")
        if fact["chunk"] != number or fact["first_position"] != position:
            raise KnnlmError(f"{path}: chunk {number} of the datastore is not where it belongs; {again}.")
        chunks.append(Chunk(path.parent, fact["rows"], fact["width"], position, fact["sha256"]))
        position += fact["rows"]
    if position != first["corpus_tokens"] or len(chunks) != first["chunks"]:
        found = f"holds {position} rows for {first['corpus_tokens']} training tokens"
        raise KnnlmError(f"{first_path.parent.parent}: {found}; delete it and rerun.")
    return Datastore(tuple(chunks), first["checkpoint"])


def read_squared_norms(manifests: list[str | Path]) -> dict[str, float]:
    """Return the mean squared norm of the keys of a store by h (`att`, `ffn`), as its chunks have noted it.

    Temperatures are compared in units of it. Raises KnnlmError, naming the file, if a chunk has no such note.
    """
    facts = [read_manifest(path, kind="datastore chunk") for path in manifests]
    for fact, path in zip(facts, manifests, strict=True):
        if "squared_norms" not in fact:
            raise KnnlmError(f"{path}: has no norms of its keys; delete the datastore folder and rerun.")
    norms, rows = [fact["squared_norms"] for fact in facts], [fact["rows"] for fact in facts]
    return {h: float(np.average([of_chunk[h] for of_chunk in norms], weights=rows)) for h in norms[0]}
