"""No key nearer than the threshold is discarded: against float64, for keys far from the origin, any scale, ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.retrieval.bounds import centres, key_factors, product_dtype, query_factors, wanted_places

DTYPES = [torch.bfloat16, torch.float32]


def similarities(queries, keys, metric):
    queries, keys = queries.double(), keys.double()
    return (
        queries @ keys.T
        if metric == "ip"
        else -torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist").square()
    )


def wanted(queries, keys, thresholds, metric, dtype):
    """Return which pairs the products keep, bool (n, m)."""
    centre = centres(keys, queries, metric)
    ours = query_factors(queries, centre, thresholds, float(keys.norm(dim=1).max()), dtype)
    products = torch.mm(ours, key_factors(keys, centre, dtype).T)
    kept = torch.zeros(products.numel(), dtype=torch.bool)
    kept[wanted_places(products)] = True
    assert torch.equal(kept.view(products.shape), products >= 0)
    return kept.view(products.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 9), m=st.integers(1, 70), width=st.integers(1, 40), metric=st.sampled_from(["l2", "ip"]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    away=st.sampled_from([0.0, 1.0, 100.0]), rank=st.floats(0, 1), seed=st.integers(0, 999),
)  # fmt: skip
def test_what_is_nearer_than_the_threshold_is_kept(n, m, width, metric, scale, away, rank, seed, dtype):
    random = np.random.default_rng(seed)
    keys, queries = (
        torch.from_numpy(scale * (random.standard_normal((rows, width)) + away)).half().float() for rows in (m, n)
    )
    true = similarities(queries, keys, metric)
    thresholds = true.sort(1).values[:, int(rank * (m - 1))].float()  # a similarity that occurs: ties at the border
    kept = wanted(queries, keys, thresholds, metric, dtype)
    assert kept[true > thresholds[:, None].double()].all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_nearer_is_kept_of_keys_so_wide_that_float32_loses_more(metric, dtype):
    generator = torch.Generator().manual_seed(2)
    keys, queries = ((torch.randn(rows, 16384, generator=generator) + 10).half().float() for rows in (300, 20))
    true = similarities(queries, keys, metric)
    thresholds = true.median(1).values.float()
    assert wanted(queries, keys, thresholds, metric, dtype)[true > thresholds[:, None].double()].all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2.0), (torch.float32, 1.1)])
def test_few_more_are_kept_than_are_nearer(metric, dtype, most):
    """The bounds are tight: where a hundredth of normal keys is wanted, they keep at most twice that."""
    generator = torch.Generator().manual_seed(1)
    keys, queries = torch.randn(20000, 64, generator=generator) + 2, torch.randn(50, 64, generator=generator) + 2
    true = similarities(queries, keys, metric)
    thresholds = true.topk(200).values[:, -1].float()
    assert 199 <= wanted(queries, keys, thresholds, metric, dtype).sum(1).float().mean() <= 200 * most


def test_the_precision_of_products_is_one_that_the_processor_has_and_chosen_once():
    assert product_dtype("cpu") in (DTYPES if torch.cpu._is_avx512_bf16_supported() else [torch.float32])
    assert product_dtype("cpu") is product_dtype("cpu")


def test_places_in_row_order_whatever_the_size():
    products = torch.randn(7, 13, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert np.array_equal(wanted_places(products).numpy(), np.flatnonzero(products.float().numpy() >= 0))
