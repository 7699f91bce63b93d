"""FAISS indexes of the datastore: trained once on a sample, filled chunk by chunk, joined for any part of the store."""

import os
from pathlib import Path
from tempfile import TemporaryFile

import faiss
import numpy as np

from knnlm.datastore.store import Chunk, Datastore, prefix_rows
from knnlm.errors import KnnlmError
from knnlm.storage.files import naming, read_manifest, sealed
from knnlm.storage.seals import verified

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
ROWS_AT_ONCE = 131072
ID_BYTES = 8  # of a row, beside its code


def train_index(factory: str, metric: str, sample: np.ndarray, seed: int) -> faiss.Index:
    """Train an index of `factory` (such as `IVF4096,PQ64`, spec §3) on `sample`, float32 (rows, width)."""
    index = faiss.index_factory(sample.shape[1], factory, METRICS[metric])
    index.cp.seed = seed
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.seed = seed
        index.do_polysemous_training = (
            False  # reorders the codes for a filter that is not used here; takes longer than all the rest
        )
    index.train(sample)
    return index


def fill_index(index: faiss.Index, chunk: Chunk, h: str) -> None:
    """Add one chunk's keys to a trained, empty index under their global ids, in ascending order."""
    keys = chunk.keys_of(h)
    for begin in range(0, chunk.rows, ROWS_AT_ONCE):
        block = keys[begin : begin + ROWS_AT_ONCE].astype(np.float32)
        first = chunk.first_position + begin
        index.add_with_ids(block, np.arange(first, first + len(block)))


def join_indexes(
    trained: faiss.IndexIVF,
    filled: list[faiss.IndexIVF],
    chunks: tuple[Chunk, ...],
    low: float,
    high: float,
    folder: Path,
) -> faiss.IndexIVF:
    """Return one index, to be searched, over the rows between fractions `low` and `high` of every chunk; codes are copied, nothing is encoded again.

    Its lists are in a file without a name in `folder`, memory-mapped: they take no memory that the kernel cannot have back, and the file ends with the
    index, or with the process. Raises OSError, naming the folder, where there is no room for it.
    """
    joined = faiss.clone_index(trained)
    bands = [[chunk.first_position + prefix_rows(fraction, chunk.rows) for fraction in (low, high)] for chunk in chunks]
    bounds = np.array(
        [
            [np.searchsorted(_ids(index, number), band) for number in range(joined.nlist)]
            for index, band in zip(filled, bands, strict=True)
        ]
    )
    sizes = (bounds[..., 1] - bounds[..., 0]).sum(0)
    joined.ntotal = int(sizes.sum())
    if joined.ntotal:
        lists, used = _unnamed_lists(sizes, joined.code_size, folder), np.zeros(joined.nlist, int)
        for index, of_chunk in zip(filled, bounds, strict=True):
            for number in np.flatnonzero(of_chunk[:, 0] < of_chunk[:, 1]).tolist():
                begin, end = of_chunk[number].tolist()
                ids, codes = _ids(index, number)[begin:end], _codes(index, number)[begin:end]
                lists.update_entries(number, int(used[number]), len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
                used[number] += len(ids)
        joined.replace_invlists(lists, True)
        lists.this.disown()  # the index owns them
    return joined


def _unnamed_lists(sizes: np.ndarray, code_size: int, folder: Path) -> faiss.OnDiskInvertedLists:
    """Return inverted lists of given sizes, int (lists,), with nothing in them yet, in a file that is gone when they are."""
    total = int(sizes.sum()) * (code_size + ID_BYTES)
    with naming(folder), TemporaryFile(dir=folder) as file:
        if hasattr(
            os, "posix_fallocate"
        ):  # room now, not when the pages are written: a full disk would end the process without a word
            os.posix_fallocate(file.fileno(), 0, total)
        else:
            file.truncate(total)
        lists = faiss.OnDiskInvertedLists(len(sizes), code_size, f"/dev/fd/{file.fileno()}")
        lists.prefetch_nthread = 0  # reading ahead takes longer than it saves
        lists.totsize = total
        lists.do_mmap()
    sizes = sizes.astype(np.uint64)  # its name keeps it while FAISS reads it
    lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
    return lists


def _ids(index: faiss.IndexIVF, number: int) -> np.ndarray:
    """Return the global ids in one of an index's lists, int64 (rows,), ascending as `fill_index` added them; they share its memory."""
    rows = index.invlists.list_size(number)
    return faiss.rev_swig_ptr(index.invlists.get_ids(number), rows) if rows else np.empty(0, np.int64)


def _codes(index: faiss.IndexIVF, number: int) -> np.ndarray:
    """Return the codes in one of an index's lists, uint8 (rows, code_size), which share its memory."""
    rows = index.invlists.list_size(number)
    return faiss.rev_swig_ptr(index.invlists.get_codes(number), rows * index.code_size).reshape(rows, index.code_size)


def save_index(index: faiss.Index, path: str | Path) -> None:
    """Write an index, sealed, whole or not at all."""
    with sealed(path) as unfinished:
        faiss.write_index(index, str(unfinished))


def load_index(path: str | Path, metric: str, width: int, rows: int) -> faiss.Index:
    """Read an index file; the lists of one that holds rows stay on disk, memory-mapped and read-only, and it is not searched, so it gets no tables for that.

    Raises KnnlmError, naming the file, if it is damaged or of another metric, dimension or number of rows.
    """
    verified(path)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE if rows else 0)
    except RuntimeError:
        raise KnnlmError(f"{path}: not a readable FAISS index; delete it and rerun the step that makes it.") from None
    for name, have, want in (
        ("metric", index.metric_type, METRICS[metric]),
        ("dimension", index.d, width),
        ("rows", index.ntotal, rows),
    ):
        if have != want:
            raise KnnlmError(
                f"{path}: {name} is {have}, but {want} is needed here; delete it and rerun the step that makes it."
            )
    return index


def open_trained(trained_file: Path, h: str, metric: str, width: int, checkpoint: str) -> faiss.Index:
    """Read a trained, empty index. Raises KnnlmError, naming the file, if it is damaged, or not of this metric and these keys of this LM."""
    read_manifest(
        trained_file.with_suffix(".json"), kind="trained index", h=h, metric=metric, width=width, checkpoint=checkpoint
    )
    return load_index(trained_file, metric, width, rows=0)


def open_filled(
    filled_files: list[Path], trained_file: Path, store: Datastore, h: str, metric: str
) -> list[faiss.Index]:
    """Read the filled indexes of a store's chunks. Raises KnnlmError, naming the file, if one is damaged or not of its chunk and the trained index."""
    opened, of_all = (
        [],
        {
            "kind": "filled index",
            "h": h,
            "metric": metric,
            "checkpoint": store.checkpoint,
            "trained": verified(trained_file),
        },
    )
    for path, chunk in zip(filled_files, store.chunks, strict=True):
        read_manifest(path.with_suffix(".json"), **of_all, first_position=chunk.first_position, chunk=chunk.identity)
        opened.append(load_index(path, metric, store.width, chunk.rows))
    return opened
