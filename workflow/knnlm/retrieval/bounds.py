"""Turning rows away for certain with products of low precision: which keys may be nearer to a query than a threshold, and none that is left out is.

The similarity of a query and a key, shifted by something of the query alone, is q'·k' + bias(k), both centred. Rounding them to bfloat16 changes the
product by no more than ‖q'‖ ‖k' − rounded k'‖ + ‖q' − rounded q'‖ ‖rounded k'‖ (Cauchy-Schwarz). Bias, threshold and both terms of the bound are columns
of the factors themselves, so that one product holds bound − threshold for every pair, and its sign bit is the answer: no rounding of the result can
change that. A factor has WIDER columns more than a key.
"""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

WIDER = 8
LEAST_SLACK, SLACK_OF_A_TERM = (
    2.0**-14,
    2.0**-22,
)  # of float32 arithmetic, relative: what a sum loses, and with it all small steps together
SIGNED = {2: torch.int16, 4: torch.int32}  # the integer whose sign is that of a float of so many bytes


@cache
def product_dtype(device: str) -> torch.dtype:
    """Return the precision in which products are fastest on this device, bfloat16 or float32; what is found nearest does not depend on it.

    A GPU that has bfloat16 is fastest in it. Of processors that have it, some multiply twice as fast in it, some half as fast: a product of each is timed.
    """
    built_in = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device != "cpu"
        else torch.cpu._is_avx512_bf16_supported()
    )
    if not built_in:
        return torch.float32
    return torch.bfloat16 if device != "cpu" else min(torch.bfloat16, torch.float32, key=_product_seconds)


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the shortest time that a product of the size of half a tile of exact search took, of five, after one that does not count."""
    left, right, taken = torch.ones(512, 128, dtype=dtype), torch.ones(4096, 128, dtype=dtype), []
    products = torch.empty(512, 4096, dtype=dtype)  # as in the search, where no time goes into fresh memory
    for _ in range(6):
        begin = time.perf_counter()
        torch.mm(left, right.T, out=products)
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


@dataclass(frozen=True)
class Centres:
    """What is taken off keys and queries before they are rounded, float32 (width,); for `l2` both are the same, which leaves distances as they are."""

    metric: str
    keys: torch.Tensor
    queries: torch.Tensor

    def shift(self, queries: torch.Tensor) -> torch.Tensor:
        """Return what the factors' similarities leave out, of each query alone, float32 (n,): half of −‖q'‖² for `l2`, q · centre of keys for `ip`."""
        return queries @ self.keys if self.metric == "ip" else (queries - self.queries).square().sum(1) / -2


def slack(width: int) -> float:
    """Return a relative bound on what float32 loses in sums of products of factors of keys of this width, whatever the order of the terms."""
    return max(LEAST_SLACK, SLACK_OF_A_TERM * (width + WIDER))


def centres(keys: torch.Tensor, queries: torch.Tensor, metric: str) -> Centres:
    """Return the means of some keys, float32 (m, width), and queries, float32 (n, width): any centres give the same answers, these give the best bounds."""
    mean = keys.mean(0)
    return Centres(metric, mean, queries.mean(0) if metric == "ip" else mean)


def key_factors(keys: torch.Tensor, centre: Centres, dtype: torch.dtype) -> torch.Tensor:
    """Return the factors of keys, float32 (m, width), in the precision of the product: (m, width + WIDER)."""
    centred = keys - centre.keys
    norms = torch.linalg.vector_norm(centred, dim=1)
    bias = centred @ centre.queries if centre.metric == "ip" else norms.square() / -2
    rounded = centred.to(dtype)
    lost = torch.linalg.vector_norm(rounded.float() - centred, dim=1)
    ones = torch.ones(len(keys), 3, dtype=dtype, device=keys.device)
    loss = slack(keys.shape[1])
    bias = bias + loss * (bias.abs() + norms * torch.linalg.vector_norm(centre.queries))
    return torch.cat(
        [
            rounded,
            _in_three(bias, dtype),
            ones,
            _rounded_up(torch.stack([lost + loss * norms, norms + lost], 1), dtype),
        ],
        1,
    )


def query_factors(
    queries: torch.Tensor, centre: Centres, thresholds: torch.Tensor, longest_key: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return the factors of queries, float32 (n, width), against thresholds, float32 (n,): (n, width + WIDER).

    A threshold is the similarity, −‖q−k‖² for `l2` and q·k for `ip`, above which a key is wanted; `longest_key` bounds the keys' norms.
    """
    centred, shift = queries - centre.queries, centre.shift(queries)
    wanted = (thresholds if centre.metric == "ip" else thresholds / 2) - shift
    scale = (
        thresholds.abs()
        + shift.abs()
        + (torch.linalg.vector_norm(queries, dim=1) * longest_key if centre.metric == "ip" else 0)
    )
    rounded, norms = centred.to(dtype), torch.linalg.vector_norm(centred, dim=1)
    lost = torch.linalg.vector_norm(rounded.float() - centred, dim=1)
    ones = torch.ones(len(queries), 3, dtype=dtype, device=queries.device)
    return torch.cat(
        [
            rounded,
            ones,
            _in_three(slack(queries.shape[1]) * scale - wanted, dtype),
            _rounded_up(torch.stack([norms, lost], 1), dtype),
        ],
        1,
    )


def wanted_places(products: torch.Tensor) -> torch.Tensor:
    """Return where products of factors, (n, m), are not negative: places in row order, int64. On a CPU NumPy reads the signs, many at a time."""
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
