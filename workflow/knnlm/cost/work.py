"""What a piece of work takes: bytes in memory and on disk, and how much it does of each kind of operation.

The plan, the requests to the scheduler and the hours are read from it. `snakemake performance` measures the rates of
most kinds; `knnlm.cost.hours` and `knnlm.cost.requests` have constants for the others.
"""

from collections import Counter
from dataclasses import dataclass, field

# Operations of one of each kind, a multiply-add counted as two; all other kinds count for none in the plan.
TRAINING = ("training_flops", "training_half_flops")  # the second where a GPU makes them in float16
PRODUCTS = ("states_flops", "exact_flops", "choosing_flops", "head_flops")
OPERATIONS_OF = {
    **dict.fromkeys((*TRAINING, *PRODUCTS, "lookups", "table_operations"), 1),
    "real_score_bytes": 1 / 2,  # a key's number of four bytes is multiplied and added
    "neighbour_terms": 10,  # of the kNN softmax, the exponential included
}


@dataclass(frozen=True)
class Work:
    """What a job, or a stage of the plan, takes."""

    memory_bytes: float = 0  # of its largest process
    disk_bytes: float = 0  # of files that stay
    likely: Counter = field(default_factory=Counter)  # operations by kind
    spare: Counter = field(default_factory=Counter)  # those that rates leave out or only the largest job does
    passing_bytes: float = 0  # of files that are gone when it ends
    rows: int | None = None  # what a stage counts by: tokens, keys, queries, table rows

    def __add__(self, other: "Work") -> "Work":
        """Return both, one after the other; the rows are those of this."""
        memory, passing = max(self.memory_bytes, other.memory_bytes), max(self.passing_bytes, other.passing_bytes)
        disk, likely, spare = self.disk_bytes + other.disk_bytes, self.likely + other.likely, self.spare + other.spare
        return Work(memory, disk, likely, spare, passing, self.rows)

    def share(self, likely: float, most: float) -> "Work":
        """Return a part or a multiple of this work, in the same memory; a job asks time and disk for `most` of it."""
        done = Counter({kind: likely * amount for kind, amount in self.likely.items()})
        more = Counter({kind: most * amount for kind, amount in self.asked_for.items()}) - done
        return Work(self.memory_bytes, most * self.disk_bytes, done, more, self.passing_bytes, self.rows)

    @property
    def asked_for(self) -> Counter:
        """All operations that a job asks time for, by kind."""
        return self.likely + self.spare

    @property
    def flops(self) -> float:
        """All operations of those kinds that the plan counts."""
        return float(sum(OPERATIONS_OF.get(kind, 0) * amount for kind, amount in self.asked_for.items()))
