"""The kNN distribution of the gold token from stored neighbours: arithmetic only, no search (docs/paper.md#knn-lm)."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from knnlm.retrieval.blocks import slices

PAIRS_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}  # of a query and a neighbour: on a CPU they stay in the cache
QUERIES_MATCHED = 512  # so that a block's values stay in the cache
SQUARINGS = 2  # in a row: each doubles the relative error of a term, 6e-8 at first
Ahead = Sequence[Sequence[float]]  # groups of temperatures
Neighbours = dict[str, tuple[np.ndarray, np.ndarray]]  # of each split: ids, int32 (n, k), similarities, float32 (n, k)


def gold_matches(ids: np.ndarray, values: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return where a neighbour's value is the gold token, bool (n, k).

    ids: int (n, k), −1 for none; values: int (rows,) by id; gold: int (n,).
    """
    found = np.empty(ids.shape, dtype=bool)
    for rows in slices(len(ids), QUERIES_MATCHED):
        of_neighbours = values.take(ids[rows], mode="clip")  # (rows, k); −1 reads some row, and is none below
        np.logical_and(of_neighbours == gold[rows, None], ids[rows] >= 0, out=found[rows])
    return found


def missing_share(found: Neighbours) -> float:
    """Return the share of the neighbours of all splits that a search has not found, whose id is −1."""
    return sum(np.count_nonzero(ids < 0) for ids, _ in found.values()) / sum(ids.size for ids, _ in found.values())


class GoldShare:
    """log p_kNN of the gold tokens at any temperature: `GoldShare(similarities, matches)(τ)` (docs/paper.md#knn-lm).

    p_kNN(w|q) = Σ_{j: v_j = w} exp(s_j/τ) / Σ_j exp(s_j/τ) over the k neighbours. All of them count in the denominator,
    few in the numerator: those few are kept apart. It holds n · k float32 on the device.
    """

    def __init__(self, similarities: np.ndarray, matches: np.ndarray, device: str = "cpu", ahead: Ahead = ()):
        """Take similarities, float32 (n, k), −inf for none, and matches, bool (n, k).

        Where a neighbour stands for several words, matches are the gold token's share of it, float32 (n, k). The
        denominators of the temperatures `ahead` are worked out now, each group together: faster, where many are wanted.
        Their last digits depend on the group.
        """
        best = np.maximum(similarities.max(axis=1, keepdims=True), np.finfo(np.float32).min)  # (n, 1)
        distances = np.subtract(similarities, best)  # (n, k) ≤ 0, exact: s/τ would lose its differences to rounding
        places = np.flatnonzero(matches)  # of the gold's neighbours, (m,), query by query
        counts = np.bincount(places // matches.shape[1], minlength=len(matches))  # (n,), which sum to m
        some = np.flatnonzero(counts)  # the queries that have any
        of_gold, nearest = distances.ravel()[places], np.zeros(len(counts), np.float32)  # (m,), (n,)
        nearest[some] = np.maximum.reduceat(of_gold, (np.cumsum(counts) - counts)[some]) if len(some) else 0
        of_gold -= np.repeat(nearest, counts)  # the gold's nearest counts 1, however far it is
        shares = np.ones(1, np.float32) if matches.dtype == bool else matches.ravel()[places]
        parts = (torch.from_numpy(part).to(device) for part in (distances, counts, of_gold, nearest, shares))
        self.distances, self.counts, self.of_gold, self.nearest, self.shares = parts
        self.known = {}
        for group in ahead:
            new = [temperature for temperature in group if temperature not in self.known]
            self.known |= dict(zip(new, self.log_totals(new), strict=True))

    def __call__(self, temperature: float) -> np.ndarray:
        """Return log p_kNN at this temperature, float32 (n,) in nats, −inf where no neighbour has the token."""
        if (log_total := self.known.get(temperature)) is None:
            log_total = self.log_totals([temperature])[0]
        terms = powers_of_e(self.of_gold, temperature).mul_(self.shares).double()  # (m,)
        log_sum = torch.segment_reduce(terms, "sum", lengths=self.counts, unsafe=True).log_()  # (n,), −inf for none
        log_p = log_sum + self.nearest.double() / temperature - log_total
        return torch.where(self.counts > 0, log_p.clamp_(max=0), -torch.inf).float().cpu().numpy()

    def log_totals(self, temperatures: Sequence[float]) -> torch.Tensor:
        """Return log Σ_j exp(distance_j/τ), float32 (temperatures, n), in one pass over the pairs.

        At half a temperature every term is the square of what it was.
        """
        found = self.distances.new_empty(len(temperatures), len(self.distances))
        rows_at_once, chains = PAIRS_AT_ONCE[found.device.type] // self.distances.shape[1], list(halvings(temperatures))
        for rows in slices(len(self.distances), max(1, rows_at_once)):
            for chain in chains:
                terms = powers_of_e(self.distances[rows], temperatures[chain[0]])  # (rows, k)
                for place in chain:
                    terms = terms.square_() if place != chain[0] else terms
                    torch.sum(terms, dim=1, out=found[place, rows])
        return found.log_()


def powers_of_e(exponents: torch.Tensor, divisor: float) -> torch.Tensor:
    """Return exp(exponents / divisor), by powers of two: twice as fast on a CPU as torch's own exp or softmax."""
    return (exponents * (math.log2(math.e) / divisor)).exp2_()


def halvings(temperatures: Sequence[float]) -> Iterator[list[int]]:
    """Yield the places of all temperatures in chains in which each is half of the one before."""
    left = sorted(range(len(temperatures)), key=lambda place: temperatures[place])
    while left:
        chain = [left.pop()]
        while len(chain) <= SQUARINGS:
            half = temperatures[chain[-1]] / 2
            next_one = [place for place in left if math.isclose(temperatures[place], half, rel_tol=1e-12)]
            if not next_one:
                break
            left.remove(next_one[0])
            chain.append(next_one[0])
        yield chain


def log_p_knn(similarities: np.ndarray, matches: np.ndarray, temperature: float, device: str = "cpu") -> np.ndarray:
    """Return log p_kNN of the gold token at one temperature; arguments and result as in GoldShare."""
    return GoldShare(similarities, matches, device)(temperature)


def knn_scorer(
    found: Neighbours, values: np.ndarray, gold: dict[str, np.ndarray], device: str = "cpu",
    ahead: dict[str, Ahead] | None = None,
) -> Callable[[str, float], np.ndarray]:  # fmt: skip
    """Return the function of (split, temperature) that gives log p_kNN of the gold tokens, float32 (n,) in nats.

    values: int32 (rows,) by id; gold: int32 (n,) of each split. `ahead` are groups of temperatures of splits that will
    be asked for.
    """
    shares = {
        split: GoldShare(similarities, gold_matches(ids, values, gold[split]), device, (ahead or {}).get(split, ()))
        for split, (ids, similarities) in found.items()
    }
    return lambda split, temperature: shares[split](temperature)
