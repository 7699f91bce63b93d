"""The temperature is found on losses whose minimum is known, and on rugged ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.components.catalogue import Component
from knnlm.components.temperature import bottom, mixed_loss, tune_temperature, tuned


def valley(bottom):
    return lambda temperature: 3 + (np.log(temperature) - np.log(bottom)) ** 2


@pytest.mark.parametrize("bottom", [0.02, 0.55, 1.0, 17.3, 900.0])
def test_the_optimum_is_found_inside_the_grid_and_beyond_it(bottom):
    temperature, status = tune_temperature(valley(bottom), [0.3, 1.0, 3.0, 10.0, 30.0], 0.01, 1e4)
    assert status == "optimum"
    assert temperature == pytest.approx(bottom, rel=2e-3)


@pytest.mark.parametrize("lopsided", [lambda x: np.exp(x) - x, lambda x: np.cosh(x) + 0.2 * x**3, np.cosh])
def test_few_evaluations_find_the_bottom_of_a_lopsided_valley(lopsided):
    tried = []

    def loss(place):
        tried.append(place)
        return lopsided(place)

    found = bottom(loss, *((place, lopsided(place)) for place in (-0.3, 0.05, 0.2)))
    assert found == pytest.approx(0, abs=1e-3)
    assert len(tried) <= 8


def test_a_level_loss_has_its_bottom_in_the_middle():
    assert bottom(lambda place: 1.0, (-1.0, 1.0), (0.0, 1.0), (1.0, 1.0)) == 0.0


@pytest.mark.parametrize(("bottom", "end"), [(1e-4, 0.01), (1e7, 1e4)])
def test_the_end_of_the_range_is_reported(bottom, end):
    assert tune_temperature(valley(bottom), [1.0, 3.0, 10.0], 0.01, 1e4) == (end, "edge")


@given(st.dictionaries(st.integers(-4, 9), st.floats(0, 10), min_size=1), st.integers(0, 10**6))
@settings(deadline=None)
def test_nothing_on_the_grid_is_better_than_what_is_returned(heights, seed):
    # A rugged loss: piecewise linear between random heights, and wiggles.
    grid = [2.0**exponent for exponent in heights]
    places, levels = np.array(sorted(heights)), np.array([heights[place] for place in sorted(heights)])
    phase = seed / 1000

    def loss(temperature):
        place = np.log2(temperature)
        return float(np.interp(place, places, levels) + 0.3 * np.sin(5 * place + phase) + 0.01 * abs(place))

    temperature, status = tune_temperature(loss, grid, 0.01, 1e4)
    assert 0.01 <= temperature <= 1e4
    assert status in ("optimum", "edge")
    assert loss(temperature) <= min(loss(point) for point in grid) + 1e-12


def test_the_loss_is_that_of_the_best_mixture_and_the_component_gets_its_minimum():
    """A component whose log p is highest at τ = 2, beside a base LM at log ½: λ is 1 there, and 0 far from it."""
    base, calls = np.log(np.full(4, 0.5)), []

    def log_p_at(temperature):
        calls.append(temperature)
        return np.full(4, -0.1 - (np.log(temperature) - np.log(2)) ** 2)

    loss = mixed_loss(log_p_at, base)
    assert loss(2.0) == (pytest.approx(0.1), 1.0)
    assert loss(100.0) == (pytest.approx(np.log(2)), 0.0)
    assert loss(2.0)[1] == 1.0
    assert calls == [2.0, 100.0]  # each temperature once
    search = {"grid": [1.0, 1.5, 2.25, 3.0], "low": 0.1, "high": 10.0}
    found = tuned(Component("x", "knn"), loss, search)
    assert found.temperature == pytest.approx(2, rel=2e-3)
    assert found.temperature_status == "optimum"
    assert 1.5 not in calls  # every third point of the grid
