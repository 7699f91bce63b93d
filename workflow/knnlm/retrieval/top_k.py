"""The k best rows so far for each query, while a store is searched in parts."""

import numpy as np
import torch

Snapshot = tuple[float, np.ndarray, np.ndarray]  # fraction of the store; ids, int32, and similarities, float32: (n, k)


class RunningNeighbours:
    """The k best rows so far for each of n queries, best first; id −1 and similarity −inf where there are fewer.

    ids: int32 (n, k); similarities: float32 (n, k), larger is closer.
    """

    def __init__(self, queries: int, k: int, device: str = "cpu"):
        """Begin with no neighbours at all."""
        self.ids = torch.full((queries, k), -1, dtype=torch.int32, device=device)
        self.similarities = torch.full((queries, k), -torch.inf, device=device)

    def merge(self, rows: slice, similarities: torch.Tensor, ids: torch.Tensor) -> None:
        """Merge candidates of the queries `rows`, float32 and int32 (len, m), in any order; −inf and −1 for none."""
        self.merge_packed(rows, packed(similarities, ids))

    def merge_packed(self, rows: slice, candidates: torch.Tensor) -> None:
        """Merge candidates of the queries `rows`, int64 (len, m), `packed`."""
        k = self.ids.shape[1]
        both = torch.cat([packed(self.similarities[rows], self.ids[rows]), candidates], 1)  # (len, k + m)
        if both.device.type == "cpu":
            best = both.numpy()  # NumPy is several times as fast as torch
            best.partition(k - 1, axis=1)
            best[:, :k].sort(axis=1)
        else:
            both = both.sort(dim=1).values
        self.similarities[rows], self.ids[rows] = unpacked(both[:, :k])

    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and similarities as they are now; on a CPU they share memory with the running result."""
        return self.ids.cpu().numpy(), self.similarities.cpu().numpy()


def packed(similarities: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return similarities, float32, and ids, int32, as int64 of the same shape, which ascend from best to worst.

    The upper half is the similarity's bits, changed so that they order as an integer. The lower half is the id: of
    equal similarities the least id is the best, and −1 the worst.
    """
    return (~_in_order(similarities.view(torch.int32))).long() << 32 | ids.long() & 0xFFFFFFFF


def unpacked(both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return similarities and ids of what `packed` has made of them."""
    return _in_order(~(both >> 32).int()).view(torch.float32), both.int()


def _in_order(bits: torch.Tensor) -> torch.Tensor:
    """Turn the bits of float32 into an int32 of the same order, and back."""
    return bits ^ (bits >> 31 & 0x7FFFFFFF)
