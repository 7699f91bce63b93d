"""What the factory string of an index says, what an index takes, and what FAISS can do with it on a GPU.

Imports nothing heavy, as config and cost read it too.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from knnlm.errors import KnnlmError

N = r"[1-9]\d*"
FACTORY = re.compile(
    rf"(?:(?P<transform>OPQ(?P<opq>{N})(?:_(?P<opq_width>{N}))?|PCAR?(?P<pca_width>{N})|RR(?P<rr_width>{N})?),)?"
    rf"IVF(?P<lists>{N})(?P<graph>_HNSW32)?,"
    rf"(?P<codes>PQ(?P<pq>{N})(?P<bits>x8|x4fs)?|Flat|SQ(?:fp16|8|4)|RaBitQ)"
)
KNOWN = "IVF<lists>,<codes> or IVF<lists>_HNSW32,<codes>, where <codes> is PQ<n>, PQ<n>x4fs, Flat, SQfp16, SQ8, SQ4 or "
KNOWN += "RaBitQ, and before it, if you like, OPQ<n>, PCA<width>, PCAR<width> or RR<width> and a comma"
PQ_CENTROIDS = 256  # of one 8-bit code
ID_BYTES = 8  # of a row in an index, beside its code
ROWS_AT_ONCE = 131072  # keys, in float32, that are added to an index together

# Codes but PQ: bytes for a vector of d numbers (FAISS adds two float32 to the bits of RaBitQ), what a comparison takes,
# counted in look-ups of PQ, and whether FAISS has them on a GPU: with SQ8 and SQ4 a search of an H100 for 1,024
# neighbours ended the process (FAISS 1.15.1: an assertion in ivfInterleavedScanImpl).
CODES = {
    "Flat": (lambda d: 4 * d, lambda d: 2 * d, True),
    "SQfp16": (lambda d: 2 * d, lambda d: 2 * d, True),
    "SQ8": (lambda d: d, lambda d: d / 2, False),
    "SQ4": (lambda d: math.ceil(d / 2), lambda d: d / 2, False),
    "RaBitQ": (lambda d: math.ceil(d / 8) + 8, lambda d: d / 8, False),
}
LOOKUPS_OF_FAST_SCAN = 1 / 8  # of a 4-bit code, of which many are looked up at once

# What FAISS 1.15 has on a GPU: GpuIndexIVFPQ::verifyPQSettings_, IVFPQ::isSupportedPQCodeLength, validateKSelect.
GPU_PQ_CODES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
GPU_SHARED_BYTES = 49152  # of a block of threads, which hold the look-up table of one list
GPU_MOST_CHOSEN = 2048  # neighbours, or lists to visit


@dataclass(frozen=True)
class IndexFactory:
    """A FAISS factory string taken apart: inverted lists, bytes stored for each row, sub-quantisers (0 without PQ).

    `codes` is the string's last part, `width` the numbers of a key behind the `transform`, if there is one.
    """

    lists: int
    code_bytes: int
    sub_quantisers: int
    codes: str = ""
    width: int = 0
    transform: str = ""

    @property
    def codewords(self) -> int:
        """Centroids of each sub-quantiser, 0 without PQ."""
        return (16 if self.packed else PQ_CENTROIDS) if self.sub_quantisers else 0

    @property
    def packed(self) -> bool:
        """Whether the rows are packed for a search, in memory and beside the stored ones."""
        return self.codes.endswith("x4fs")

    @property
    def lookups(self) -> float:
        """What the comparison of a query with a row takes, in look-ups of 8-bit codes."""
        if self.sub_quantisers:
            return self.sub_quantisers * (LOOKUPS_OF_FAST_SCAN if self.packed else 1)
        return CODES[self.codes][1](self.width)

    @property
    def least_training_rows(self) -> int:
        """The fewest rows on which FAISS can train the index: one for each centroid of its k-means."""
        of_transform = {"OPQ": PQ_CENTROIDS, "PCA": self.width}.get(self.transform[:3], 1)
        return max(self.lists, self.codewords, of_transform)

    @property
    def half_tables(self) -> bool:
        """Whether a GPU's look-up table of a list fits its shared memory in float16 alone: PQ56, PQ64 and PQ96."""
        return 4 * self.sub_quantisers * self.codewords > GPU_SHARED_BYTES

    def not_on_gpu(self, k: int = 1, nprobe: int = 1) -> str | None:
        """Say why FAISS cannot fill the index on a GPU, or search it for `k` neighbours; None where it can."""
        if self.packed or (self.codes in CODES and not CODES[self.codes][2]):
            return f"FAISS cannot search {self.codes} on a GPU"
        if self.sub_quantisers and self.sub_quantisers not in GPU_PQ_CODES:
            return f"FAISS has no PQ of {self.sub_quantisers} codes on a GPU, only {', '.join(map(str, GPU_PQ_CODES))}"
        for name, wanted in (("neighbours", k), ("lists", nprobe)):
            if wanted > GPU_MOST_CHOSEN:
                return f"{wanted} {name} are more than the {GPU_MOST_CHOSEN} that FAISS chooses on a GPU"
        return None


def parse_factory(factory: str, width: int, key: str = "index.factory") -> IndexFactory:
    """Take the factory string of an index for keys of `width` dimensions apart.

    Raises KnnlmError, naming the config key, for a string that is not known here.
    """
    if not (match := FACTORY.fullmatch(factory)):
        raise KnnlmError(f"config key {key}: {factory!r} is not an index that is known here; write {KNOWN}.")
    inner = int(match["opq_width"] or match["pca_width"] or match["rr_width"] or width)
    pq, four_bits = int(match["pq"] or 0), match["bits"] == "x4fs"
    code_bytes = CODES[match["codes"]][0](inner) if not pq else math.ceil(pq / 2) if four_bits else pq
    codes = match["codes"].removesuffix("x8")
    return IndexFactory(int(match["lists"]), code_bytes, pq, codes, inner, match["transform"] or "")


def unfit(factory: str, width: int, metrics: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with a known factory string for keys of `width` dimensions and for some metric."""
    match, index = FACTORY.fullmatch(factory), parse_factory(factory, width)
    if index.width > width:
        problem = f"{index.transform} makes {index.width} numbers of keys that have {width}"
        yield f"{problem} (lm.architecture.width); it can make fewer, not more: lower it."
    of = f"lm.architecture.width ({width})" if index.width == width else f"the width behind it ({index.width})"
    for codes, kind in ((index.sub_quantisers, "PQ"), (int(match["opq"] or 0), "OPQ")):
        if codes and index.width % codes:
            yield f"{codes} {kind} codes do not divide {of}; choose a divisor of {index.width}."
    if index.transform.startswith("PCA") and "ip" in metrics:
        problem = "PCA moves the keys to their mean, which makes other neighbours by inner product"
        yield f"{problem}; take OPQ or RR in its place, or leave ip out of retrieval.metrics."


def lists_of(factory: str) -> int | None:
    """Return the inverted lists of a factory string, None for one that is not known here."""
    match = FACTORY.fullmatch(factory)
    return int(match["lists"]) if match else None


def with_pq(factory: str, codes: int) -> str:
    """Return a factory string with product codes of so many bytes, and a rotation for them if it has OPQ."""
    match = FACTORY.fullmatch(factory)
    transform = re.sub(rf"OPQ{N}", f"OPQ{codes}", match["transform"] or "")
    return f"{transform}{transform and ','}IVF{match['lists']}{match['graph'] or ''},PQ{codes}"
