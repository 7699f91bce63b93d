"""When a training stops, which learning rate it keeps, and whether its budget cut it off: by hand-made losses."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.components.recipes import FLAT, Watch, best_rate, cut_off, rates_of, rises_at_end

LOSSES = st.lists(st.floats(0, 10), min_size=1, max_size=12)


def stops(losses, patience):
    """Return after which pass a watch stops, None if it does not, and its best pass."""
    watch = Watch(patience)
    for number, loss in enumerate(losses, 1):
        watch.improves(loss)
        if watch.has_stopped:
            return number, watch.best_pass
    return None, watch.best_pass


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([5.0, 4.0, 3.0], 1, (None, 3)),
        ([5.0, 4.0, 4.5, 3.0], 1, (3, 2)),
        ([5.0, 4.0, 4.5, 3.0], 2, (None, 4)),
        ([5.0, 4.0, 4.5, 4.2, 3.0], 2, (4, 2)),
        ([5.0, 4.0, 4.0 - FLAT / 2, 3.0], 1, (3, 3)),  # so small a step is none, but it is kept
        ([5.0, math.nan, 4.0], 1, (2, 1)),
    ],
)
def test_patience_stops_where_a_hand_made_curve_says(losses, patience, expected):
    assert stops(losses, patience) == expected


@given(LOSSES, st.integers(1, 4))
def test_the_best_pass_is_the_first_lowest(losses, patience):
    made, best = stops(losses, patience)
    seen = losses[:made]
    assert best == seen.index(min(seen)) + 1


@given(LOSSES)
def test_the_start_is_kept_unless_a_pass_is_lower(losses):
    watch = Watch(3, loss=5.0)
    told = [watch.improves(loss) for loss in losses]
    assert any(told) == (min(losses) < 5)
    assert watch.lowest == min(5.0, *losses)
    assert watch.passes == len(losses)


def test_rates_are_one_or_several():
    assert rates_of({"learning_rates": 0.1}) == [0.1]
    assert rates_of({"learning_rates": [0.3, 0.1, 0.3]}) == [0.1, 0.3]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({0.1: 5.0, 0.3: 4.0, 1.0: 6.0}, (0.3, None)),
        ({0.1: 3.0, 0.3: 4.0, 1.0: 6.0}, (0.1, "the lowest learning rate")),
        ({0.1: 5.0, 0.3: 4.0, 1.0: 3.0}, (1.0, "the highest learning rate")),
        ({0.1: 5.0, 0.3: 4.0, 1.0: 4.0 - FLAT / 2}, (1.0, None)),
        ({0.1: 5.0, 0.3: math.nan, 1.0: math.nan}, (0.1, "the lowest learning rate")),
        ({0.1: 5.0, 0.3: 4.0}, (0.3, "the highest learning rate")),
        ({0.3: 4.0}, (0.3, "the only learning rate")),
    ],
)
def test_the_best_rate_and_whether_it_is_at_an_end(losses, expected):
    assert best_rate(losses) == expected


@pytest.mark.parametrize(
    ("losses", "rises"),
    [
        ({1: 4.0, 2: 3.0, 4: 2.5}, True),
        ({4: 2.5, 1: 4.0, 2: 3.0}, True),
        ({1: 4.0, 2: 3.0, 4: 3.0 - FLAT / 2}, False),
        ({1: 4.0, 2: 3.0, 4: 3.5}, False),
        ({1: 4.0}, False),
    ],
)
def test_a_curve_that_is_best_at_its_largest_size(losses, rises):
    assert rises_at_end(losses) is rises


def test_the_facts_name_every_end_that_was_met():
    assert cut_off(None, None) == {"cut_off": False}
    assert cut_off("the last pass", None) == {"cut_off": True, "cut_off_at": "the last pass"}
    assert cut_off("the last pass", "the only learning rate")["cut_off_at"] == "the last pass, the only learning rate"
