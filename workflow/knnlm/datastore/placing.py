"""Where an index is filled and searched: on the GPUs of a job, which share its rows, or on the CPU.

An index is stored as FAISS's CPU has it, whatever it is searched on. FAISS's own copy to several GPUs deals out the
rows, and each search merges what the GPUs have found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np

from knnlm.datastore.factory import IndexFactory, parse_factory

SCALARS = {"SQ8": "QT_8bit", "SQ4": "QT_4bit", "SQfp16": "QT_fp16"}
ROWS_IN_TURN = 1  # FAISS's number for dealing out rows by their ids


def ivf_of(index: faiss.Index) -> faiss.Index:
    """Return the index of inverted lists behind an index's transform, or the index itself where it has none."""
    if not isinstance(index, faiss.IndexPreTransform):
        return index
    ivf = faiss.downcast_index(index.index)
    ivf.referenced_objects = [index]  # which owns it, and would take it along
    return ivf


def through(index: faiss.Index, vectors: np.ndarray) -> np.ndarray:
    """Return vectors, float32 (n, width), as an index transforms them for its inverted lists, float32 (n, d)."""
    if not isinstance(index, faiss.IndexPreTransform):
        return vectors
    for place in range(index.chain.size()):
        vectors = faiss.downcast_VectorTransform(index.chain.at(place)).apply(vectors)
    return vectors


def described(index: faiss.Index) -> IndexFactory:
    """Return what the factory string of a CPU index would say of its lists and codes."""
    ivf = ivf_of(index)
    if isinstance(ivf, faiss.IndexIVFPQ):
        codes = f"PQ{ivf.pq.M}{'x4fs' if ivf.pq.nbits == 4 else ''}"
    elif isinstance(ivf, faiss.IndexIVFScalarQuantizer):
        codes = next(codes for codes, kind in SCALARS.items() if getattr(faiss.ScalarQuantizer, kind) == ivf.sq.qtype)
    else:
        codes = "RaBitQ" if isinstance(ivf, faiss.IndexIVFRaBitQ) else "Flat"
    return parse_factory(f"IVF{ivf.nlist},{codes}", ivf.d)


@dataclass(frozen=True)
class Place:
    """The CPU, or FAISS's memory and streams of each GPU, which live as long as the indexes that were copied there."""

    gpus: Sequence["faiss.StandardGpuResources"] = field(default=())

    def searched(self, index: faiss.Index) -> faiss.Index:
        """Return an index of rows as it is searched: copied to the GPUs, or on the CPU with 4-bit codes packed."""
        return self._copied(index) if self.gpus else packed(index)

    def filled(self, index: faiss.Index, rows: int) -> faiss.Index:
        """Return an empty, trained index as it is filled with so many rows."""
        return self._copied(index, rows) if self.gpus else index

    def flat(self, width: int, metric: int) -> faiss.Index | None:
        """Return an index that assigns vectors to centroids, which k-means moves; None where FAISS's own does."""
        return self._copied(faiss.IndexFlat(width, metric), shared=False) if self.gpus else None

    def _copied(self, index: faiss.Index, rows: int = 0, shared: bool = True) -> faiss.Index:
        options = faiss.GpuMultipleClonerOptions()
        options.shard, options.shard_type, options.use_cuvs = shared, ROWS_IN_TURN, False
        options.indicesOptions = faiss.INDICES_64_BIT  # ids go along
        options.useFloat16CoarseQuantizer, options.usePrecomputed = False, False
        options.allowCpuCoarseQuantizer = True  # of a graph of centroids
        options.reserveVecs = rows
        options.useFloat16 = isinstance(ivf_of(index), faiss.IndexIVF) and described(index).half_tables
        return faiss.index_cpu_to_gpu_multiple_py(list(self.gpus), index, options)


def gpu_place(device: str) -> Place:
    """Return the place of a step on `device`, `cpu` or `cuda`, on all GPUs that the process sees."""
    gpus = range(faiss.get_num_gpus()) if device != "cpu" else ()
    return Place([faiss.StandardGpuResources() for _ in gpus])


def place_for(index: faiss.Index, device: str, k: int = 1, nprobe: int = 1) -> Place:
    """Return where an index is filled, or searched for `k` neighbours in `nprobe` lists, by a step on `device`.

    What FAISS cannot do on a GPU is done on the CPU, and a line says so.
    """
    if device != "cpu" and (problem := described(index).not_on_gpu(k, nprobe)):
        print(f"index {described(index).codes}: on the CPU, as {problem}", flush=True)
        return Place()
    return gpu_place(device)


def packed(index: faiss.Index) -> faiss.Index:
    """Return an index of 4-bit codes in blocks of 32, as FAISS scans them fast, in memory; any other as it is.

    Codes are stored unpacked, so that any rows can be cut out of them.
    """
    ivf = ivf_of(index)
    if not (isinstance(ivf, faiss.IndexIVFPQ) and ivf.pq.nbits == 4):
        return index
    blocks = faiss.IndexIVFPQFastScan(ivf)
    if ivf is not index:
        blocks = faiss.IndexPreTransform(faiss.downcast_VectorTransform(index.chain.at(0)), blocks)
    blocks.referenced_objects = [*getattr(blocks, "referenced_objects", []), index]  # whose centroids it uses
    return blocks


def back_on_cpu(copy: faiss.Index, empty: faiss.Index) -> None:
    """Put the rows of a filled copy of an empty index into it; the ids of every list ascend."""
    if copy is empty:
        return
    empty.merge_from(faiss.index_gpu_to_cpu(copy), 0)
    lists, code_size = ivf_of(empty).invlists, ivf_of(empty).code_size
    for number in range(ivf_of(empty).nlist):
        if size := lists.list_size(number):
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * code_size).reshape(size, code_size)
            if (ids[1:] < ids[:-1]).any():  # several GPUs had a part each
                order = np.argsort(ids)
                ids[:], codes[:] = ids[order], codes[order]
