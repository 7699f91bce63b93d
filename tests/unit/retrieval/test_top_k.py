"""The running top k against sorting everything at the end."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knnlm.retrieval.top_k import RunningNeighbours, packed, unpacked

SIMILARITIES = st.floats(width=32, allow_nan=False)
IDS = st.integers(-1, 2**31 - 1)


@given(st.lists(st.tuples(SIMILARITIES, IDS), min_size=1, max_size=30))
def test_packed_stand_in_the_order_of_best_first_and_of_equals_the_least_id(pairs):
    similarities, ids = (
        torch.tensor([pair[0] for pair in pairs]),
        torch.tensor([pair[1] for pair in pairs], dtype=torch.int32),
    )
    both = packed(similarities, ids)
    assert all(torch.equal(found, given) for found, given in zip(unpacked(both), (similarities, ids), strict=True))
    found = sorted(range(len(pairs)), key=lambda place: int(both[place]))
    expected = sorted(
        range(len(pairs)), key=lambda place: (-pairs[place][0], np.signbit(pairs[place][0]), pairs[place][1] % 2**32)
    )
    assert [pairs[place] for place in found] == [pairs[place] for place in expected]


@given(k=st.integers(1, 9), parts=st.lists(st.integers(0, 12), min_size=1, max_size=5), data=st.data())
def test_merged_parts_are_the_best_of_all(k, parts, data):
    whole = data.draw(arrays(np.float32, (3, sum(parts)), elements=st.integers(-4, 4).map(float)))  # many ties
    ids = np.tile(np.arange(sum(parts), dtype=np.int32), (3, 1))
    running, begin = RunningNeighbours(4, k), 0
    for width in parts:
        columns = slice(begin, begin := begin + width)
        running.merge(slice(1, 4), torch.from_numpy(whole[:, columns].copy()), torch.from_numpy(ids[:, columns].copy()))
    found_ids, found = running.snapshot()
    have = min(k, sum(parts))
    assert (found_ids[0] == -1).all()
    assert (found_ids[1:, have:] == -1).all()
    assert np.isneginf(found[1:, have:]).all()
    order = np.argsort(-whole, axis=1, kind="stable")[:, :have]
    assert np.array_equal(found[1:, :have], np.take_along_axis(whole, order, 1))
    assert np.array_equal(found_ids[1:, :have], order)
