"""The pictures of what explains the gain: every verdict, the plane of both numbers, and the waterfall."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from pictures import MAIN, QUESTION, RULE, remaining_table, shares_table, verdicts_table

from knnlm.errors import KnnlmError
from knnlm.figures.plots import draw, save

TABLES = {"verdicts": verdicts_table, "explanations": shares_table, "remaining": remaining_table}


def picture(name, rows=slice(None)):
    return draw(name, TABLES[name]().iloc[rows], None, MAIN, None, RULE)


@pytest.mark.parametrize("name", TABLES)
def test_pictures_fit_a_paper_and_are_the_same_twice(name, tmp_path):
    for path in (tmp_path / "once.png", tmp_path / "twice.png"):
        made = picture(name)
        save(made, path, 40)
        assert made.get_size_inches()[0] <= 6.75
        assert made.axes[0].get_xlabel()
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "twice.png").read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_they_need_the_rule_and_their_columns(name):
    table = TABLES[name]()
    with pytest.raises(KnnlmError, match="add verdict to the settings"):
        draw(name, table, None, MAIN)
    column = {"verdicts": "removes_low", "explanations": "answers", "remaining": "remaining_high"}[name]
    with pytest.raises(KnnlmError, match=f"no column '{column}'"):
        draw(name, table.drop(columns=column), None, MAIN, None, RULE)


def places(axes, marker):
    """The points of a marker, and the colour of each."""
    lines = [line for line in axes.lines if line.get_marker() == marker and line.get_linestyle() == "None"]
    return [(*point, to_hex(line.get_color())) for line in lines for point in line.get_xydata().tolist()]


def test_verdicts_show_both_numbers_as_far_as_they_are_known():
    (axes,) = picture("verdicts").axes
    left, right = axes.get_xlim()
    assert [x for x, *_ in places(axes, "s")] == [0.6, 0.1, 0.3]  # reaches
    assert [x for x, *_ in places(axes, "o")] == [0.7, 0.0]  # removes; a difference removes nothing
    segments = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) > 0]
    assert [segment.tolist() for segment in segments] == [
        [0.4, 0.8], [0.6, 0.8], [-0.2, 0.2], [-0.01, 0.01], [0.1, right],
    ]  # fmt: skip
    assert [x for x, *_ in [line.get_xydata()[0] for line in axes.lines if line.get_marker() == ">"]] == [right]
    assert left < -0.2
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["explains (paper: supported)", "does nothing", "better (paper: supported)", "inconclusive"]
    questions = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert questions == ["Why?", QUESTION, QUESTION, QUESTION]
    assert axes.yaxis_inverted()
    uprights = {line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]}
    assert uprights == {0, 1, RULE["explains"]}


def test_without_any_verdict_there_is_a_picture_too():
    (axes,) = picture("verdicts", slice(0)).axes
    assert not axes.texts
    (axes,) = picture("explanations", slice(3)).axes  # nothing is named
    assert len(axes.lines) > 2
    (axes,) = picture("remaining", slice(1)).axes  # nothing explains anything
    assert [text.get_text() for text in axes.texts] == ["100%", "100%"]


def test_every_component_is_a_point_of_the_plane_and_those_that_questions_chose_are_named():
    made = picture("explanations")
    (axes,) = made.axes
    table, (low, high) = shares_table().set_index("component"), axes.get_xlim()
    points = {(x, y) for line in axes.lines for x, y in line.get_xydata().tolist() if line.get_linestyle() == "None"}
    for name, row in table.iterrows():
        assert (min(row["reaches"], high), max(row["removes"], low)) in points, name
    texts = [text.get_text() for text in made.legends[0].get_texts()]
    assert texts == ["a component", "a variant of the kNN", "wide", "many, more", "second-seed"]
    assert [point[:2] for point in places(axes, "*")] == [(0.9, 0.4)]  # what any good second model removes
    crosses = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [[pytest.approx(0.7), 0.3], [pytest.approx(0.9), 0.3]] in crosses
    assert [[0.8, pytest.approx(0.25)], [0.8, pytest.approx(0.35)]] in crosses
    assert (axes.get_xlim(), axes.get_ylim()) == ((low, high),) * 2


def test_the_waterfall_falls_from_all_of_the_gain_to_what_nothing_explains():
    (axes,) = picture("remaining").axes
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(bars, [(0, 1), (1, 0.4), (0.4, 0.25), (0, 0.25)])
    assert [text.get_text() for text in axes.texts] == ["100%", "−60%", "−15%", "25%"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["what the kNN adds to the base LM", "first", "second", "what none of them explains"]
    (whiskers,) = axes.containers[-1][2]
    ends = [(low, high) for (low, _), (high, _) in whiskers.get_segments()]
    np.testing.assert_allclose(ends, [(0.3, 0.5), (0.2, 0.35), (0.2, 0.35)])
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("name", TABLES)
def test_a_knn_that_gains_nothing_has_pictures_in_which_nothing_is_known(name, tmp_path, recwarn):
    table = TABLES[name]()
    numbers = table.columns[table.columns.str.startswith(("reaches", "removes", "remaining"))]
    made = draw(
        name,
        table.assign(**dict.fromkeys(numbers, np.nan)).iloc[: 1 if name == "remaining" else None],
        None,
        MAIN,
        None,
        RULE,
    )
    save(made, tmp_path / "unknown.png", 40)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    if name == "remaining":
        assert [text.get_text() for text in made.axes[0].texts] == ["unknown", "unknown"]
