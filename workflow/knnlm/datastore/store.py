"""The datastore: one (hidden state, next token) pair per training token, in chunks of shuffled rows.

Chunk c holds the states of a contiguous stretch of the training text. Its rows stand in random order and remember their corpus position, so
the first f·n rows of every chunk are a uniform sample of fraction f. The global id of a row is the chunk's first corpus position plus the row's
number in the chunk: ids run from 0 to the number of training tokens, each used once.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnlm.errors import KnnlmError
from knnlm.storage.files import load_array, read_manifest, save_array


def shuffled_order(rows: int, seed: int, chunk: int) -> np.ndarray:
    """Return the random order of a chunk's rows, int64 (rows,): row i of the chunk is state order[i] of the text."""
    return np.random.default_rng([seed, chunk]).permutation(rows)


def prefix_rows(fraction: float, rows: int) -> int:
    """Return how many rows of a chunk belong to a store of this fraction, rounded down."""
    return math.floor(fraction * rows + 1e-9)


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


@dataclass(frozen=True)
class Chunk:
    """One chunk on disk: `att` and `ffn` keys, float16 (rows, width); values, int32 (rows,); positions, int64 (rows,)."""

    folder: Path
    rows: int
    width: int
    first_position: int
    identity: str = ""  # checksum of its manifest, which has those of its arrays

    @property
    def manifest(self) -> Path:
        """Manifest of the chunk."""
        return self.folder / "manifest.json"

    def keys_of(self, h: str) -> np.ndarray:
        """Return the keys of one input representation (`att` or `ffn`), memory-mapped."""
        return load_array(self.folder / f"{h}.npy", dtype="float16", shape=(self.rows, self.width))

    def values_of_rows(self) -> np.ndarray:
        """Return the target token of every row, memory-mapped."""
        return load_array(self.folder / "values.npy", dtype="int32", shape=(self.rows,))


@dataclass(frozen=True)
class Datastore:
    """All chunks of one store, in the order of the text."""

    chunks: tuple[Chunk, ...]
    checkpoint: str

    @property
    def manifest(self) -> Path:
        """Manifest of the first chunk, to name the store by."""
        return self.chunks[0].manifest

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
        return np.concatenate([chunk.values_of_rows() for chunk in self.chunks])

    def sample(self, h: str, rows: int) -> np.ndarray:
        """Return a uniform sample of about `rows` keys, float32: the same prefix of every chunk."""
        sizes = [prefix_rows(min(1.0, rows / self.rows), chunk.rows) for chunk in self.chunks]
        found = np.empty((sum(sizes), self.width), dtype=np.float32)
        for chunk, part, size in zip(self.chunks, np.split(found, np.cumsum(sizes)[:-1]), sizes, strict=True):
            part[:] = chunk.keys_of(h)[:size]
        return found


def open_datastore(manifests: list[str | Path]) -> Datastore:
    """Open a store by the manifests of its chunks and check that they are one store, whole.

    Raises KnnlmError if a chunk is missing, comes from another LM, or the rows are not exactly the tokens of the training text.
    """
    facts = sorted(
        ((read_manifest(path, kind="datastore chunk"), Path(path)) for path in manifests),
        key=lambda item: item[0]["chunk"],
    )
    first, first_path = facts[0]
    chunks, position = [], 0
    for number, (fact, path) in enumerate(facts):
        for key in ("checkpoint", "corpus_tokens", "chunks", "width"):
            if fact[key] != first[key]:
                raise KnnlmError(
                    f"{path}: {key} differs from that of {first_path}; delete the datastore folder and rerun."
                )
        if fact["chunk"] != number or fact["first_position"] != position:
            raise KnnlmError(
                f"{path}: chunk {number} of the datastore is not where it belongs; delete the datastore folder and rerun."
            )
        chunks.append(Chunk(path.parent, fact["rows"], fact["width"], position, fact["sha256"]))
        position += fact["rows"]
    if position != first["corpus_tokens"] or len(chunks) != first["chunks"]:
        raise KnnlmError(
            f"{first_path.parent.parent}: holds {position} rows for {first['corpus_tokens']} training tokens; delete it and rerun."
        )
    return Datastore(tuple(chunks), first["checkpoint"])
