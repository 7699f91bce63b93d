"""FAISS indexes of the datastore: trained once on a sample, filled chunk by chunk, joined for any part of the store."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import faiss
import numpy as np

from knnlm.datastore.factory import ID_BYTES, ROWS_AT_ONCE
from knnlm.datastore.placing import Place, back_on_cpu, gpu_place, ivf_of, place_for
from knnlm.datastore.shuffle import prefix_rows
from knnlm.datastore.store import Chunk, Datastore
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.storage.atomic import atomic, naming
from knnlm.storage.manifests import AGAIN, read_manifest, verified

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}


def train_index(factory: str, metric: str, sample: np.ndarray, seed: int, device: str = "cpu") -> faiss.Index:
    """Train an index of `factory` (docs/paper.md#knn-lm), as `IVF4096,PQ64`, on `sample`, float32 (rows, width).

    On a GPU the k-means of the lists and of product codes compare rows with centroids there; all else is the same.
    4-bit codes are trained as fast scan has them, of keys instead of residuals, but stored unpacked.
    """
    index = faiss.index_factory(sample.shape[1], factory.removesuffix("fs"), METRICS[metric])
    ivf, place = ivf_of(index), gpu_place(device)
    ivf.cp.seed = seed
    ivf.by_residual &= not factory.endswith("fs")
    # A quantiser that is not flat is trained by distances, whatever the metric.
    ivf.clustering_index = coarse = place.flat(ivf.d, METRICS["l2"] if ivf.quantizer_trains_alone else ivf.metric_type)
    train_codes(index, sample, seed, place)
    ivf.clustering_index = None
    del coarse  # which FAISS has used all the time
    return index


def train_codes(index: faiss.Index, sample: np.ndarray, seed: int, place: Place) -> None:
    """Train what is not trained yet of an index, the codes at least."""
    if isinstance(ivf := ivf_of(index), faiss.IndexIVFPQ):
        ivf.pq.cp.seed = seed
        ivf.pq.assign_index = fine = place.flat(ivf.pq.dsub, METRICS["l2"])
        # It orders the codes for a filter that we do not use, and takes longer than all the rest.
        ivf.do_polysemous_training = False
        index.train(sample)
        ivf.pq.assign_index = None
        del fine  # which FAISS has used all the time
    else:
        index.train(sample)


def fill_index(index: faiss.Index, chunks: Sequence[Chunk], h: str, device: str = "cpu") -> None:
    """Add the keys of chunks to a trained, empty index under their global ids, in ascending order.

    Raises KnnlmError, naming the file, if the keys turn out damaged: at the end, when the index holds some of them.
    Raises ValueError for an index that has rows: on a GPU it would have them twice.
    """
    if index.ntotal:
        raise ValueError(f"the index has {index.ntotal} rows already")
    place = place_for(index, device)
    filled = place.filled(index, sum(chunk.rows for chunk in chunks))
    for chunk in progress(chunks, f"filling an index with {h}"):
        with chunk.keys_in_order(h) as keys:
            for begin in range(0, chunk.rows, ROWS_AT_ONCE):
                block = keys[begin : begin + ROWS_AT_ONCE].astype(np.float32)  # (rows, width)
                first = chunk.first_position + begin
                filled.add_with_ids(block, np.arange(first, first + len(block)))
    back_on_cpu(filled, index)


def join_indexes(
    trained: faiss.Index, filled: list[faiss.Index], chunks: tuple[Chunk, ...],
    low: float, high: float, folder: Path,
) -> faiss.Index:  # fmt: skip
    """Return one index, to be searched, over the rows between fractions `low` and `high` of every chunk.

    Codes are copied, nothing is encoded again. The lists are memory-mapped from a file without a name in `folder`: the
    kernel can take their memory back, and the file ends with the index or the process. Raises OSError, naming the
    folder, if there is no room for it.
    """
    whole, filled = faiss.clone_index(trained), [ivf_of(index) for index in filled]
    joined = ivf_of(whole)
    numbers = range(joined.nlist)
    bands = [[chunk.first_position + prefix_rows(fraction, chunk.rows) for fraction in (low, high)] for chunk in chunks]
    # (chunks, lists, 2): where the band begins and ends in each list, whose ids ascend
    of_chunks = zip(filled, bands, strict=True)
    edges = np.array([[np.searchsorted(_list(index, n)[0], band) for n in numbers] for index, band in of_chunks])
    sizes = (edges[..., 1] - edges[..., 0]).sum(0)  # (lists,)
    whole.ntotal = joined.ntotal = int(sizes.sum())
    if joined.ntotal:
        lists, used = _unnamed_lists(sizes, joined.code_size, folder), np.zeros(joined.nlist, int)
        for index, of_chunk in zip(filled, edges, strict=True):
            for number in np.flatnonzero(of_chunk[:, 0] < of_chunk[:, 1]).tolist():
                band = slice(*of_chunk[number].tolist())
                ids, codes = (entries[band] for entries in _list(index, number))
                lists.update_entries(number, int(used[number]), len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
                used[number] += len(ids)
        joined.replace_invlists(lists, True)
        lists.this.disown()  # the index owns them
    return whole


def _unnamed_lists(sizes: np.ndarray, code_size: int, folder: Path) -> faiss.OnDiskInvertedLists:
    """Return empty inverted lists with room for `sizes` rows, int (lists,), in a file that ends with them."""
    total = int(sizes.sum()) * (code_size + ID_BYTES)
    with naming(folder), TemporaryFile(dir=folder) as file:
        # Take the room now: if the disk were full when pages are written, the process would end without a word.
        if hasattr(os, "posix_fallocate"):
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


def _list(index: faiss.IndexIVF, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a list's global ids, int64 (rows,), ascending, and codes, uint8 (rows, code_size), in its own memory."""
    lists, shape = index.invlists, (index.invlists.list_size(number), index.code_size)
    if shape[0] == 0:
        return np.empty(0, np.int64), np.empty(shape, np.uint8)
    codes = faiss.rev_swig_ptr(lists.get_codes(number), shape[0] * shape[1]).reshape(shape)
    return faiss.rev_swig_ptr(lists.get_ids(number), shape[0]), codes


def save_index(index: faiss.Index, path: str | Path) -> None:
    """Write an index, whole or not at all. Readers ask for a manifest beside it that knows the file."""
    with atomic(path) as unfinished:
        faiss.write_index(index, str(unfinished))


def load_index(path: str | Path, metric: str, width: int, rows: int) -> faiss.Index:
    """Read an index file. The lists of one that holds rows stay on disk, memory-mapped and read-only.

    Such an index is joined and not searched, so it gets no tables for searching. Raises KnnlmError, naming the file, if
    it is damaged or of another metric, dimension or number of rows.
    """
    verified(path)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE if rows else 0)
    except RuntimeError:
        raise KnnlmError(f"{path}: not a readable FAISS index; {AGAIN}") from None
    found = {"metric": index.metric_type, "dimension": index.d, "rows": index.ntotal}
    for name, want in (("metric", METRICS[metric]), ("dimension", width), ("rows", rows)):
        if found[name] != want:
            raise KnnlmError(f"{path}: {name} is {found[name]}, but {want} is needed here; {AGAIN}")
    return index


def open_trained(trained_file: Path, h: str, metric: str, width: int, checkpoint: str) -> faiss.Index:
    """Read a trained, empty index; raises KnnlmError, naming the file, if it is not of these keys, LM and metric."""
    facts = {"kind": "trained index", "h": h, "metric": metric, "width": width, "checkpoint": checkpoint}
    read_manifest(trained_file.with_suffix(".json"), **facts)
    return load_index(trained_file, metric, width, rows=0)


def open_filled(files: list[Path], trained_file: Path, store: Datastore, h: str, metric: str) -> list[faiss.Index]:
    """Read the filled indexes of a store's chunks; raises KnnlmError, naming the file, if one is not of its chunk."""
    facts = {"kind": "filled index", "h": h, "metric": metric, "checkpoint": store.checkpoint}
    facts["trained"], opened = verified(trained_file), []
    for path, chunk in zip(files, store.chunks, strict=True):
        read_manifest(path.with_suffix(".json"), **facts, first_position=chunk.first_position, chunk=chunk.identity)
        opened.append(load_index(path, metric, store.width, chunk.rows))
    return opened
