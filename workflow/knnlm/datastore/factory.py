"""What the factory string of an index says, and what an index takes; imports nothing heavy, as config reads it too."""

import re
from dataclasses import dataclass

from knnlm.errors import KnnlmError

FACTORY = re.compile(r"IVF([1-9]\d*),(?:PQ([1-9]\d*)(?:x8)?|(Flat)|(SQfp16))")
PQ_CENTROIDS = 256  # of one 8-bit code
ID_BYTES = 8  # of a row in an index, beside its code
ROWS_AT_ONCE = 131072  # keys, in float32, that are added to an index together


@dataclass(frozen=True)
class IndexFactory:
    """A FAISS factory string taken apart: inverted lists, bytes stored for each row, sub-quantisers (0 without PQ)."""

    lists: int
    code_bytes: int
    sub_quantisers: int

    @property
    def least_training_rows(self) -> int:
        """The fewest rows on which FAISS can train the index: one for each centroid of its k-means."""
        return max(self.lists, PQ_CENTROIDS if self.sub_quantisers else 1)


def parse_factory(factory: str, width: int) -> IndexFactory:
    """Parse `IVF<lists>,PQ<codes>`, `IVF<lists>,SQfp16` or `IVF<lists>,Flat` for keys of `width` dimensions.

    Raises KnnlmError for any other.
    """
    if not (match := FACTORY.fullmatch(factory)):
        known = "IVF<lists>,PQ<codes>, IVF<lists>,SQfp16 or IVF<lists>,Flat"
        raise KnnlmError(f"config key index.factory: {factory!r} is not an index that is known here; write {known}.")
    lists, codes, flat, _ = match.groups()
    return IndexFactory(int(lists), int(codes) if codes else width * (4 if flat else 2), int(codes or 0))
