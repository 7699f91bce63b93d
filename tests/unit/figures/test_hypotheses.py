import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import (
    ABOUT,
    BASE,
    MAIN,
    QUESTION,
    REFERENCE,
    RULE,
    components_table,
    helped_table,
    kinds_table,
    rows_of,
    verdicts_table,
)

from knnlm.errors import KnnlmError
from knnlm.figures.plots import FIGURES, draw, save
from knnlm.steps import plot

AGAINST = ABOUT | {"against": "many-variant-2", "candidates": ["wide-ffn-[12]", "not-made-*"]}


@pytest.fixture(scope="module")
def components():
    return components_table()


@pytest.fixture(scope="module")
def verdicts():
    return verdicts_table()


@pytest.fixture(scope="module")
def helped():
    return helped_table()


@pytest.fixture(scope="module")
def kinds():
    return kinds_table()


@pytest.fixture(scope="module")
def pictures(components, helped, kinds):
    """Every new picture, by name, drawn again at each call."""
    return {
        "hypothesis-wide": lambda: draw("hypothesis-wide", components, None, MAIN, ABOUT),
        "hypothesis-many": lambda: draw(
            "hypothesis-many", components, None, MAIN, ABOUT | {"name": "many", "question": "Do many?", "x_label": None}
        ),
        "hypothesis-against": lambda: draw("hypothesis-wide", components, None, MAIN, AGAINST),
        "parameters": lambda: draw("parameters", components, components, MAIN),
        "helped_tokens": lambda: draw("helped_tokens", helped, components, MAIN),
        "indexes": lambda: draw("indexes", kinds, components, MAIN),
    }


NAMES = ("hypothesis-wide", "hypothesis-many", "hypothesis-against", "parameters", "helped_tokens", "indexes")


def horizontal(axes):
    return {
        line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1] and np.ptp(line.get_ydata()) == 0
    }


def vertical(axes):
    return {
        line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1] and np.ptp(line.get_xdata()) == 0
    }


def drawn(axes):
    """The points of everything that has error bars, in the order of drawing."""
    return np.concatenate([container[0].get_xydata() for container in axes.containers])


def test_every_figure_is_drawn_by_one_of_these_or_the_main_tests():
    others = {"verdicts", "explanations", "remaining", "temperature", "datastore_size", "lambda", "loss", "components"}
    others |= {"performance", "scaling", "variants"}
    assert set(FIGURES) == others | {name.partition("-")[0] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_fit_a_paper_and_are_the_same_twice(pictures, name, tmp_path):
    for path in (tmp_path / "once.png", tmp_path / "twice.png"):
        picture = pictures[name]()
        save(picture, path, 40)
        assert picture.get_size_inches()[0] <= 6.75
        assert all(axes.get_xlabel() for axes in picture.axes if axes.get_subplotspec().is_last_row())
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "twice.png").read_bytes()


def test_a_hypothesis_has_a_curve_a_series_on_both_splits(pictures, components):
    picture = pictures["hypothesis-wide"]()
    assert picture.get_suptitle().replace("\n", " ") == QUESTION
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["att", "ffn", "judged"]
    for axes, split in zip(picture.axes, BASE, strict=False):
        rows = components[
            (components["split"] == split) & (components["hypothesis"] == "wide") & components["x"].notna()
        ]
        np.testing.assert_allclose(drawn(axes), rows[["x", "ppl"]])
        bars = sorted(
            (bar[:, 1].min(), bar[:, 1].max())
            for container in axes.containers
            for bar in container[2][0].get_segments()
        )
        np.testing.assert_allclose(
            bars, sorted(zip(BASE[split] - rows["gain_high"], BASE[split] - rows["gain_low"], strict=True))
        )
        assert axes.get_xscale() == "log"
        assert horizontal(axes) == {
            BASE[split],
            components.loc[(components["component"] == REFERENCE) & (components["split"] == split), "ppl"].item(),
        }
        assert axes.get_title() == split
        assert axes.get_xlabel() == ABOUT["x_label"]
        ring = [line.get_xydata().tolist() for line in axes.lines if line.get_markersize() == 7]
        assert ring == [rows.loc[rows["component"] == "wide-att-64", ["x", "ppl"]].to_numpy().tolist()]
    low, high = picture.axes[0].get_ylim()
    assert low < BASE["valid"] - 8 < BASE["valid"] < high


def test_the_ring_is_on_the_best_of_the_candidates_and_the_square_on_what_it_is_compared_with(pictures, components):
    picture = pictures["hypothesis-against"]()
    named = [text.get_text() for text in picture.legends[0].get_texts()]
    assert named == ["att", "ffn", "judged", f"compared with: {AGAINST['against']}"]
    known = components.set_index(["component", "split"])["ppl"]
    for axes, split in zip(picture.axes, BASE, strict=False):
        marks = {
            line.get_marker(): line.get_xydata().tolist()
            for line in axes.lines
            if line.get_markersize() == 7 and len(line.get_xdata())
        }
        assert marks == {"o": [[2.0, known["wide-ffn-2", split]]]}  # wide-att-64 is better and no candidate
        assert known[AGAINST["against"], split] in horizontal(axes)
    own = draw("hypothesis-wide", components, None, MAIN, AGAINST | {"against": "wide-att-1"})
    marks = {line.get_marker() for line in own.axes[0].lines if line.get_markersize() == 7 and len(line.get_xdata())}
    assert marks == {"o", "s"}
    assert [text.get_text() for text in own.legends[0].get_texts()][2:] == ["judged", "compared with"]


def test_components_without_a_place_on_a_curve_are_not_left_out(pictures):
    axes = pictures["hypothesis-wide"]().axes[2]
    assert drawn(axes).tolist() == [[pytest.approx(0.4), 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain"]
    assert vertical(axes) == {0, 7.9}


@pytest.mark.parametrize(("values", "scale"), [((1, 2, 30), "linear"), ((1, 2, 32), "log"), ((0, 10, 1000), "linear")])
def test_the_axis_is_logarithmic_over_more_than_a_decade_and_a_half(components, values, scale):
    some = components[~components["component"].str.contains("wide-.*-(?:8|64)")].copy()
    some["x"] = some["x"].map(dict(zip((1.0, 2.0, 4.0), values, strict=True)))
    axes = draw("hypothesis-wide", some, None, MAIN, ABOUT).axes[0]
    assert axes.get_xscale() == scale


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0.502401, 0.749, 0.851277), ["0.502", "0.749", "0.851"]),
        ((1, 16, 1024), ["1", "16", "1024"]),
        ((2.9998, 3.0, 3.0003), ["3"]),
        ((1, 1, 1), ["1"]),
    ],
)
def test_places_on_the_axis_are_named_shortly(components, values, names):
    some = components[~components["component"].str.contains("wide-.*-(?:8|64)")].copy()
    some["x"] = some["x"].map(dict(zip((1.0, 2.0, 4.0), values, strict=True)))
    axis = draw("hypothesis-wide", some, None, MAIN, ABOUT).axes[0].xaxis
    assert [axis.get_major_formatter()(value, 0) for value in axis.get_majorticklocs()] == names


def test_many_components_make_a_tall_picture_with_the_best_on_top(pictures, components):
    picture = pictures["hypothesis-many"]()
    (axes,) = picture.axes
    rows = components[(components["split"] == "test") & (components["hypothesis"] == "many")].sort_values("gain")
    np.testing.assert_allclose(
        sorted(drawn(axes).tolist(), key=lambda point: point[1]),
        [[gain, place] for place, gain in enumerate(rows["gain"])],
    )
    assert axes.get_yticklabels()[-1].get_text() == rows["component"].iloc[-1].removeprefix("many-")
    assert picture.get_figheight() > 34 * 0.15


def test_no_parameters_are_a_picture_too(components):
    (axes,) = draw("parameters", components[:4], components[:4], MAIN).axes
    assert horizontal(axes) == {0, 7.9}


def test_parameters_hold_every_component_that_adds_any(pictures, components):
    picture = pictures["parameters"]()
    (axes,) = picture.axes
    rows = components[(components["split"] == "test") & (components["added_parameters"] > 0)]
    np.testing.assert_allclose(drawn(axes), rows[["added_parameters", "gain"]])
    assert axes.get_xscale() == "log"
    assert horizontal(axes) == {0, 7.9}
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["wide", "many"]


def test_helped_tokens_has_a_column_of_bars_for_each_property(pictures, helped):
    picture = pictures["helped_tokens"]()
    panels = np.array(picture.axes).reshape(3, 4)
    for column, (name, rows) in zip(panels.T, helped.groupby("property", sort=False), strict=True):
        heights = [[bar.get_height() for bar in axes.patches] for axes in column]
        np.testing.assert_allclose(heights[0], rows["helped"])
        np.testing.assert_allclose(heights[1], rows["gain"])
        np.testing.assert_allclose(heights[2], [*rows["tokens"] / rows["tokens"].sum(), *rows["share_of_gain"]])
        assert np.average(rows["gain"], weights=rows["tokens"]) == pytest.approx(max(horizontal(column[1])))
        assert [label.get_text() for label in column[2].get_xticklabels()] == rows["bin"].tolist()
        assert column[2].get_xlabel().replace("\n", " ") == name


def test_kinds_of_index_stand_in_every_panel_beside_exact_search(pictures, components, kinds):
    picture = pictures["indexes"]()
    exact = components[(components["component"] == REFERENCE) & (components["split"] == "test")]["ppl"].item()
    assert [text.get_text() for text in picture.legends[0].get_texts()] == list(kinds["index"])
    for axes, column in zip(picture.axes, ("bytes_a_row", "recall", "queries_a_second"), strict=True):
        assert horizontal(axes) == {exact}
        points = [tuple(line.get_xydata()[0]) for line in axes.lines[1:]]
        np.testing.assert_array_equal(points, kinds[[column, "ppl"]])


def test_unknown_intervals_leave_the_points_standing(components, tmp_path):
    unknown = components.assign(gain_low=np.nan, gain_high=np.nan)
    for name in ("hypothesis-wide", "parameters"):
        picture = draw(name, unknown, unknown, MAIN, ABOUT)
        save(picture, tmp_path / "a.png", 40)
        assert np.isfinite(picture.axes[0].get_ylim()).all()
        assert len(drawn(picture.axes[0])) > 9


def test_mistakes_are_named(components):
    for name, table, main, about, message in [
        ("hypothesis-wide", components, MAIN, None, "add hypothesis to the settings"),
        ("hypothesis-wide", components, None, ABOUT, "add main"),
        ("hypothesis-none", components, MAIN, ABOUT | {"name": "none"}, "no component of this hypothesis"),
        (
            "hypothesis-wide",
            components[components["component"] != REFERENCE],
            MAIN,
            ABOUT,
            "0 rows of knn-att-l2-exact-real on valid",
        ),
        ("parameters-x", components, MAIN, None, "unknown"),
        ("parameters", components, MAIN, None, "--components"),
    ]:
        with pytest.raises(KnnlmError, match=message):
            draw(name, table, None, main, about)


def test_the_step_draws_a_hypothesis_and_the_verdicts_from_their_files(components, verdicts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    components.to_csv("components.csv", index=False)
    verdicts.to_csv("verdicts.csv", index=False)
    shared = {"figures": {"dpi": 50}, "main": MAIN}
    for figure, table, extra in (
        ("hypothesis-wide", "components.csv", {"hypothesis": ABOUT}),
        ("verdicts", "verdicts.csv", {"verdict": RULE}),
    ):
        made = Path(f"made/{figure}.pdf"), Path(f"made/{figure}.png")
        plot.main(figure, shared | extra, Path(table), *made, components=Path("components.csv"))
    assert sorted(os.listdir("made")) == ["hypothesis-wide.pdf", "hypothesis-wide.png", "verdicts.pdf", "verdicts.png"]


def test_dollar_signs_are_no_mathematics(components, verdicts, tmp_path):
    """`$` twice in a text would be read as a formula, and a wrong formula ends in a traceback."""
    odd = r"Is it $\wrong{ for $5?"
    named = pd.concat([components, pd.DataFrame(rows_of(f"wide-{odd}", 1.0, "wide"))])
    for figure, table, about in (
        ("hypothesis-wide", named, ABOUT | {"question": odd, "x_label": odd}),
        ("verdicts", verdicts.assign(question=odd), None),
    ):
        picture = draw(figure, table, components, MAIN, about, RULE)
        save(picture, tmp_path / f"{figure}.png", 40)
        texts = [text for axes in picture.axes for text in (axes.xaxis.label, *axes.get_yticklabels())] + (
            [picture._suptitle] if picture._suptitle else []
        )
        assert {text.get_text().replace(r"\$", "$").replace("\n", " ") for text in texts} >= {odd}
