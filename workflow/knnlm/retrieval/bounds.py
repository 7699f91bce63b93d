"""Discard keys that provably cannot be among the k nearest, by matrix products of low precision.

The similarity of a query q and a key k, shifted by something of the query alone, is q'·k' + bias(k), where q' and k'
are centred. By Cauchy-Schwarz, rounding both to bfloat16 changes the product by no more than

    ‖q'‖ ‖k' − rounded k'‖ + ‖q' − rounded q'‖ ‖rounded k'‖.

Bias, threshold and both terms of this bound are columns of the factors themselves (WIDER of them), so that one product
holds `bound − threshold` for every pair. Its sign bit is the answer: no rounding of the result can change it.
"""

import timeit
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from knnlm.retrieval.blocks import WIDER

# What float32 loses in a sum, relative: at least this, and for long sums so much a term.
LEAST_SLACK, SLACK_OF_A_TERM = 2.0**-14, 2.0**-22
SIGNED = {2: torch.int16, 4: torch.int32}  # the integer whose sign is that of a float of so many bytes


@cache
def product_dtype(device: str) -> torch.dtype:
    """Return the precision in which this device multiplies fastest, bfloat16 or float32; the neighbours are the same.

    A GPU that has bfloat16 is fastest in it. Of processors that have it, some multiply twice as fast in it, some half
    as fast, so a product of each is timed.
    """
    if device != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if not torch.cpu._is_avx512_bf16_supported():
        return torch.float32
    return min(torch.bfloat16, torch.float32, key=_product_seconds)


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the shortest of five times of a product of half a tile of exact search, after one that does not count."""
    left, right = torch.ones(512, 128, dtype=dtype), torch.ones(4096, 128, dtype=dtype)
    products = torch.empty(512, 4096, dtype=dtype)  # as in the search, where no time goes into fresh memory
    return min(timeit.repeat(lambda: torch.mm(left, right.T, out=products), number=1, repeat=6)[1:])


@dataclass(frozen=True)
class Centres:
    """What is taken off keys and queries before they are rounded, float32 (width,); the same for both with `l2`."""

    metric: str
    keys: torch.Tensor
    queries: torch.Tensor

    def shift(self, queries: torch.Tensor) -> torch.Tensor:
        """Return what the factors' similarities leave out of a query, float32 (n,): −‖q'‖²/2 or q · keys' centre."""
        return queries @ self.keys if self.metric == "ip" else (queries - self.queries).square().sum(1) / -2


def slack(width: int) -> float:
    """Return a relative bound on what float32 loses in sums over factors of this width, in any order of the terms."""
    return max(LEAST_SLACK, SLACK_OF_A_TERM * (width + WIDER))


def centres(keys: torch.Tensor, queries: torch.Tensor, metric: str) -> Centres:
    """Return the means of some keys, float32 (m, width), and queries, float32 (n, width).

    Any centres give the same answers; these give the tightest bounds.
    """
    mean = keys.mean(0)
    return Centres(metric, mean, queries.mean(0) if metric == "ip" else mean)


def key_factors(keys: torch.Tensor, centre: Centres, dtype: torch.dtype) -> torch.Tensor:
    """Return the factors of keys, float32 (m, width), in the precision of the product: (m, width + WIDER)."""
    centred, loss = keys - centre.keys, slack(keys.shape[1])  # (m, width)
    norms = torch.linalg.vector_norm(centred, dim=1)  # (m,)
    rounded = centred.to(dtype)
    lost = torch.linalg.vector_norm(rounded.float() - centred, dim=1)  # (m,): what rounding takes off each key
    bias = centred @ centre.queries if centre.metric == "ip" else norms.square() / -2  # (m,)
    bias = bias + loss * (bias.abs() + norms * torch.linalg.vector_norm(centre.queries))
    ones = torch.ones(len(keys), 3, dtype=dtype, device=keys.device)  # they meet the query's threshold
    bounds = torch.stack([lost + loss * norms, norms + lost], 1)  # (m, 2): they meet ‖q'‖ and what q' lost
    return torch.cat([rounded, _in_three(bias, dtype), ones, _rounded_up(bounds, dtype)], 1)


def query_factors(
    queries: torch.Tensor, centre: Centres, thresholds: torch.Tensor, longest_key: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return the factors of queries, float32 (n, width), against thresholds, float32 (n,): (n, width + WIDER).

    A threshold is the similarity, −‖q−k‖² for `l2` and q·k for `ip`, above which a key is wanted; `longest_key` bounds
    the keys' norms.
    """
    centred, shift = queries - centre.queries, centre.shift(queries)  # (n, width), (n,)
    wanted = (thresholds if centre.metric == "ip" else thresholds / 2) - shift  # (n,)
    scale = thresholds.abs() + shift.abs()  # (n,): the size of what float32 adds up
    if centre.metric == "ip":
        scale = scale + torch.linalg.vector_norm(queries, dim=1) * longest_key
    rounded, norms = centred.to(dtype), torch.linalg.vector_norm(centred, dim=1)
    lost = torch.linalg.vector_norm(rounded.float() - centred, dim=1)  # (n,)
    ones = torch.ones(len(queries), 3, dtype=dtype, device=queries.device)  # they meet the key's bias
    threshold = _in_three(slack(queries.shape[1]) * scale - wanted, dtype)  # (n, 3)
    return torch.cat([rounded, ones, threshold, _rounded_up(torch.stack([norms, lost], 1), dtype)], 1)


def wanted_places(products: torch.Tensor) -> torch.Tensor:
    """Return where products of factors, (n, m), are not negative: places in row order, int64 (wanted,).

    On a CPU, NumPy reads the signs, eight at a time.
    """
    signs = products.view(SIGNED[products.element_size()])
    if products.device.type != "cpu":
        return (signs.view(-1) >= 0).nonzero().squeeze(1)
    mask = np.empty((-(-signs.numel() // 8), 8), dtype=bool)
    mask[-1] = False
    np.greater_equal(signs.view(-1).numpy(), 0, out=mask.reshape(-1)[: signs.numel()])
    eights = np.flatnonzero(mask.view(np.uint64) != 0)  # few are wanted
    found = np.flatnonzero(mask[eights])
    return torch.from_numpy(eights[found // 8] * 8 + found % 8)


def _in_three(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return three columns, (n, 3), whose sum is `values`, float32 (n,), but for a part in 2²³."""
    parts, rest = [], values
    for _ in range(3):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, 1)


def _rounded_up(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return values, not negative, rounded to no less than they are."""
    return (values * (1 + 2.0**-7)).to(dtype)
