"""Arrays as `.npy` files that carry dtype and shape, written whole or not at all and checked by every reader."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError  # NumPy's parser raises it for a damaged header

import numpy as np

from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import AGAIN, Check, verified

Shape = tuple[int | None, ...]


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write `array` as `.npy`, whole or not at all. Readers ask for a manifest beside it that knows the file."""
    with atomic(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def new_array(path: str | Path, dtype: str, shape: tuple[int, ...]) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """Write a `.npy` array of `shape` (slabs, rows, ...), which may exceed memory, piece by piece, whole or not at all.

    Yields `write(slab, first_row, rows)`; nothing of what it wrote stays in memory. Raises ValueError for rows that do
    not fit, and at the end if not every row was written.
    """
    unwritten = np.ones(shape[:2], dtype=bool)
    with atomic(path) as unfinished, open(unfinished, "wb") as file:
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
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


def load_array(path: str | Path, dtype: str | None = None, shape: Shape | None = None) -> np.ndarray:
    """Memory-map an `.npy` file read-only, having checked that it is as it was written and holds what it should.

    `shape` may leave sizes open with None. Raises KnnlmError, naming the file, if it is missing, damaged, known to no
    manifest, or of another dtype or shape.
    """
    verified(path)
    return _mapped(path, dtype, shape)


class Rows:
    """An array whose rows are read from the first to the last, again or not, and checked when they are read first."""

    def __init__(self, path: str | Path, dtype: str | None = None, shape: Shape | None = None):
        """Open the file as `load_array` does, but do not read it yet."""
        self.check = Check.beside(path)
        try:
            self.array, self.read = _mapped(path, dtype, shape), 0
        except Exception:  # whatever a damaged header leads NumPy to
            self.check.finish()
            raise
        with open(path, "rb") as file:
            self.check.feed(file.read(self.array.offset))

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows, memory-mapped; those read for the first time are hashed, while they are in memory anyway."""
        begin, (_, end, _) = self.read, rows.indices(len(self.array))
        if end > begin:
            self.check.feed(np.ascontiguousarray(self.array[begin:end]).reshape(-1).view(np.uint8))
            self.read = end
        return self.array[rows]


@contextmanager
def rows_in_order(path: str | Path, dtype: str | None = None, shape: Shape | None = None) -> Iterator[Rows]:
    """Yield the rows of an `.npy` file, to be read from first to last: no reading goes into the check alone.

    Raises KnnlmError as `load_array` does: of damage to the rows at the end of the block, so write results after it.
    """
    rows = Rows(path, dtype, shape)
    yield rows
    rows.check.finish()


def _mapped(path: str | Path, dtype: str | None, shape: Shape | None) -> np.memmap:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, TokenError) as error:
        raise KnnlmError(f"{path}: not a readable .npy array ({error}); {AGAIN}") from None
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise KnnlmError(f"{path}: holds {array.dtype}, expected {dtype}; {AGAIN}")
    sizes = array.shape if shape is None else shape
    if len(sizes) != array.ndim or any(want not in (None, have) for want, have in zip(sizes, array.shape, strict=True)):
        raise KnnlmError(f"{path}: has shape {array.shape}, expected {shape}; {AGAIN}")
    return array
