import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.corpus.windows import fixed_windows, share_of_windows, whole_line_windows

LINES = st.lists(st.integers(1, 30), min_size=1, max_size=40).map(lambda lengths: np.cumsum([0, *lengths]))
CONTEXT, NEW = st.integers(0, 40), st.integers(1, 20)


def scored(windows):
    return [position for _, begin, end in windows.tolist() for position in range(begin, end)]


@given(st.integers(1, 300), CONTEXT, NEW)
def test_fixed_windows_score_every_token_once_behind_its_context(tokens, context, new):
    windows = fixed_windows(tokens, context, new)
    assert scored(windows) == list(range(tokens))
    assert [end - begin for _, begin, end in windows[:-1]] == [new] * (len(windows) - 1)
    assert [begin - first for first, begin, _ in windows] == [min(context, begin) for _, begin, _ in windows]


def test_fixed_windows_of_the_paper():
    # 1536 new tokens behind 1536; the first window has no context, the last is short.
    assert fixed_windows(5000, 1536, 1536).tolist() == [
        [0, 0, 1536],
        [0, 1536, 3072],
        [1536, 3072, 4608],
        [3072, 4608, 5000],
    ]


@given(LINES, CONTEXT, NEW)
def test_whole_line_windows_score_every_token_once_behind_its_context(lines, context, new):
    windows = whole_line_windows(lines, context, new)
    assert scored(windows) == list(range(lines[-1]))
    assert (windows[:, 2] - windows[:, 1]).max() <= new
    assert [begin - first for first, begin, _ in windows] == [min(context, begin) for _, begin, _ in windows]


@given(LINES, NEW)
def test_only_lines_longer_than_a_block_are_cut(lines, new):
    edges = set(whole_line_windows(lines, 0, new)[:, 1].tolist())
    for begin, end in zip(lines[:-1].tolist(), lines[1:].tolist(), strict=True):
        inside = [edge for edge in sorted(edges) if begin < edge < end]
        if end - begin <= new:
            assert not inside
        else:
            assert inside == list(range(begin + new, end, new))
            assert begin in edges
            assert end in edges | {lines[-1]}


@given(LINES, NEW)
def test_no_block_had_room_for_the_line_behind_it(lines, new):
    windows, length = (
        whole_line_windows(lines, 0, new),
        dict(zip(lines[:-1].tolist(), np.diff(lines).tolist(), strict=True)),
    )
    for _, begin, end in windows[:-1].tolist():
        cut_from_a_longer_line = begin not in length or length[begin] > new
        if not cut_from_a_longer_line:
            assert end - begin + length[end] > new


def test_whole_line_windows_by_hand():
    # Lines of 2, 3, 1, 9, 1 and 2 tokens in blocks of 4: the line of 9 is cut in 4 + 4 + 1 and shares no block.
    windows = whole_line_windows(np.array([0, 2, 5, 6, 15, 16, 18]), 3, 4)
    assert windows.tolist() == [[0, 0, 2], [0, 2, 6], [3, 6, 10], [7, 10, 14], [11, 14, 15], [12, 15, 18]]
    assert windows.dtype == np.int64


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_shares_join_to_the_whole_and_are_nearly_equal(parts):
    windows = fixed_windows(103, 5, 10)
    shares = [share_of_windows(windows, part, parts) for part in range(parts)]
    assert np.array_equal(np.concatenate(shares), windows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
