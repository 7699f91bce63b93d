import numpy as np
import pandas as pd
import pytest

from knnlm.figures.plots import draw, save
from knnlm.performance.bench import COLUMNS

PERFORMANCE = pd.DataFrame(
    [
        ["search: product", 60.0, 100.0, "GFLOP/s", 0.6, 0.5, 0.8, 0.5, True],
        ["search: library", 60.0, 50.0, "GFLOP/s", 1.2, 1.1, 1.3, 1.5, False],
        ["training: products", 10.0, 30.0, "tokens/s", 0.33, 0.3, 0.4, np.nan, np.nan],
        ["memory of search: 1×", 110.0, 100.0, "MB", 0.91, 0.91, 0.91, 0.9, True],
    ],
    columns=COLUMNS,
)
STAGES = ["datastore build", "index fill", "exact search", "approximate search"]
SCALING = pd.DataFrame(
    {
        "stage": stage,
        "times": times,
        "rows": 1000 * times,
        "seconds": slower * times**exponent,
        "memory_bytes": 2e8 + times,
        "exponent": exponent,
    }
    for stage, exponent in zip(STAGES, (1, 1.1, 0.9, 0.5), strict=True)
    for times in (1, 2, 4, 8)
    for slower in (1.0, 1.2, 1.4)
)


def test_performance_shows_ratio_spread_and_goal_of_every_speed():
    (axes,) = draw("performance", PERFORMANCE).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "training: products",
        "search: library",
        "search: product",
    ]
    marks = [container[0] for container in axes.containers]
    assert [mark.get_xdata()[0] for mark in marks] == [0.33, 1.2, 0.6]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [
        False,
        True,
        False,
    ]  # open where the goal is not reached
    assert marks[0].get_color() != marks[2].get_color()  # there is no goal
    (whisker,) = axes.containers[2][2][0].get_segments()
    assert whisker[:, 0] == pytest.approx([0.5, 0.8])
    (goals,) = [line for line in axes.lines if line.get_label() == "goal"]
    assert np.array_equal(goals.get_xdata(), [np.nan, 1.5, 0.5], equal_nan=True)


def test_scaling_shows_the_fitted_line_and_its_exponent():
    picture = draw("scaling", SCALING)
    times, memory = picture.axes
    assert [text.get_text() for text in picture.legends[0].get_texts()] == [
        "datastore build, exponent 1.00", "index fill, exponent 1.10", "exact search, exponent 0.90",
        "approximate search, exponent 0.50",
    ]  # fmt: skip
    lines = [line for line in times.lines if line.get_linestyle() != "None"]
    for line, exponent in zip(lines, (1, 1.1, 0.9, 0.5), strict=True):
        assert line.get_ydata() == pytest.approx([1.2, 1.2 * 8**exponent])
    assert len(memory.lines) == 4
    assert memory.lines[0].get_ydata() == pytest.approx([200, 200, 200, 200], abs=1e-3)


@pytest.mark.parametrize(("name", "table"), [("performance", PERFORMANCE), ("scaling", SCALING)])
def test_pictures_fit_a_paper_and_are_the_same_twice(name, table, tmp_path):
    for path in (tmp_path / "once.png", tmp_path / "twice.png"):
        picture = draw(name, table)
        assert picture.get_figwidth() <= 6.75
        save(picture, path, dpi=60)
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "twice.png").read_bytes()
