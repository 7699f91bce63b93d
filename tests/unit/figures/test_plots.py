import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from knnlm.errors import KnnlmError
from knnlm.figures.parts import VARIANTS
from knnlm.figures.plots import draw, save
from knnlm.steps import plot

MAIN = {"h": "att", "metric": "l2"}
BASE = {"valid": 104.25, "test": 99.75}
FRACTIONS = (0.05, 0.5, 1.0)
OPTIMUM = {("faiss", "faiss"): 3.0, ("faiss", "real"): 5.0, ("real", "real"): 5.5}


def gain(variant, fraction, temperature):
    """A gain that rises to an optimum and falls off towards both ends, as kNN-LMs show it."""
    return 10 * (0.5 + 0.5 * fraction) * np.exp(-(np.log10(temperature / OPTIMUM[variant]) ** 2)) + (
        variant == ("real", "real")
    )


def knn_row(variant, split, fraction, h="att", metric="l2", temperature=None, status="optimum"):
    mask, score = variant
    name = f"knn-{h}-{metric}-{'exact' if mask == 'real' else 'approximate'}-{score}" + (
        "" if fraction == 1 else f"-f{fraction}"
    )
    better = gain(variant, fraction, temperature or OPTIMUM[variant]) - 2 * (h == "ffn") - (metric == "ip")
    row = {
        "component": name,
        "family": "knn",
        "h": h,
        "metric": metric,
        "mask": mask,
        "score": score,
        "fraction": fraction,
        "split": split,
    }
    row |= {
        "temperature": temperature or OPTIMUM[variant],
        "temperature_status": status,
        "lambda": 0.25,
        "ppl": BASE[split] - better,
    }
    return row | {"gain": better, "gain_low": better - 1, "gain_high": better + 1.5, "hypothesis": None}


@pytest.fixture(scope="module")
def tables():
    bases = [
        {
            "component": "base",
            "family": "lm",
            "split": split,
            "lambda": 0.0,
            "ppl": ppl,
            "gain": 0.0,
            "hypothesis": None,
        }
        for split, ppl in BASE.items()
    ]
    main = [knn_row(variant, split, fraction) for variant in VARIANTS for fraction in FRACTIONS for split in BASE]
    others = [
        knn_row(variant, split, 1.0, h, metric)
        for variant in VARIANTS
        for h, metric in (("ffn", "l2"), ("att", "ip"))
        for split in BASE
    ]
    alike = [
        row | {"component": "x-1", "family": "x", "hypothesis": "x", "gain": 99.0}
        for row in main
        if row["fraction"] == 1
    ]
    untuned = [knn_row(variant, split, 1.0, temperature=1.0, status="fixed") for variant in VARIANTS for split in BASE]
    grid = np.geomspace(0.1, 100, 13)
    curves = [
        knn_row(variant, split, fraction, temperature=t)
        for variant in VARIANTS
        for fraction in (0.05, 1.0)
        for split in BASE
        for t in grid
    ]
    weights = np.linspace(0, 1, 101)
    lambdas = []
    for row in (row for row in main if row["fraction"] == 1):
        ppl = row["ppl"] + row["gain"] * ((weights - 0.25) / 0.25) ** 2
        ppl[-1] = np.inf
        lambdas += [
            {"component": row["component"], "split": row["split"], "lambda": weight, "ppl": p}
            for weight, p in zip(weights, ppl, strict=True)
        ]
    updates = np.arange(50, 1050, 50)
    losses = [
        {
            "update": u,
            "split": split,
            "loss": 4.5 + 4 * np.exp(-u / 200) + (split == "valid") * (0.3 + 1e-6 * (u - 800) ** 2),
        }
        for u in updates
        for split in ("train", "valid")
    ]
    rows = {
        "components": bases + main + others + untuned + alike,
        "temperature": curves,
        "datastore_size": main,
        "lambda": lambdas,
        "loss": losses,
    }
    return {name: pd.DataFrame(content) for name, content in rows.items()}


MAIN_FIGURES = ("temperature", "datastore_size", "lambda", "loss", "components")


def picture(tables, name):
    return draw(name, tables[name], tables["components"], MAIN)


def curves_of(axes):
    """The drawn curves by variant, without the base line and the single marks."""
    colours = {style["color"]: variant for variant, (_, style) in VARIANTS.items()}
    return {
        colours[line.get_color()]: line.get_xydata()
        for line in axes.lines
        if line.get_color() in colours and len(line.get_xdata()) > 1
    }


def base_of(axes):
    """The height of the horizontal line over the whole width."""
    return [
        line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1] and np.ptp(line.get_ydata()) == 0
    ]


@pytest.mark.parametrize("name", MAIN_FIGURES)
def test_every_axis_has_a_label_and_every_picture_fits_a_paper(tables, name):
    figure = picture(tables, name)
    assert figure.get_size_inches()[0] <= 6.75
    for axes in figure.axes:
        below, left = axes.get_subplotspec().is_last_row(), axes.get_subplotspec().is_first_col()
        assert axes.get_xlabel() or not below
        assert axes.get_ylabel() or not left or name == "components"  # whose rows are named one by one


@pytest.mark.parametrize("name", MAIN_FIGURES)
@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_the_same_table_gives_the_same_bytes(tables, name, kind, tmp_path):
    once, twice = tmp_path / f"once.{kind}", tmp_path / f"twice.{kind}"
    for path in (once, twice):
        save(picture(tables, name), path, 40)
    assert once.read_bytes() == twice.read_bytes()
    assert once.read_bytes().startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[kind])
    assert sorted(os.listdir(tmp_path)) == sorted([once.name, twice.name])


def test_temperature_draws_the_table_of_the_main_component(tables):
    elsewhere = tables["temperature"].assign(h="ffn", ppl=1.0)  # other components may stand in the table
    figure = draw("temperature", pd.concat([tables["temperature"], elsewhere]), tables["components"], MAIN)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{split}, {part} of the datastore" for split in BASE for part in ("5 %", "100 %")
    ]
    for axes, (split, fraction) in zip(
        figure.axes, [(split, fraction) for split in BASE for fraction in (0.05, 1.0)], strict=True
    ):
        assert axes.get_xscale() == "log"
        assert base_of(axes) == [BASE[split]]
        drawn = curves_of(axes)
        assert set(drawn) == set(VARIANTS)
        for variant, points in drawn.items():
            np.testing.assert_allclose(points[:, 1], BASE[split] - gain(variant, fraction, points[:, 0]))
        marks = sorted(line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1)
        assert marks == sorted(OPTIMUM.values())


def test_an_optimum_at_the_edge_is_an_open_mark(tables):
    components = tables["components"].assign(
        temperature_status=tables["components"]["temperature_status"].replace("optimum", "edge")
    )
    for source, fill in ((tables["components"], None), (components, (1, 1, 1))):
        figure = draw("temperature", tables["temperature"], source, MAIN)
        for line in (line for line in figure.axes[0].lines if len(line.get_xdata()) == 1):
            assert to_rgb(line.get_markerfacecolor()) == (fill or to_rgb(line.get_color()))


def test_a_bad_temperature_does_not_squash_the_rest(tables):
    table = tables["temperature"].copy()
    table.loc[table["temperature"] < 0.11, "ppl"] = 5000.0
    low, high = draw("temperature", table, tables["components"], MAIN).axes[1].get_ylim()
    best = table.loc[table["split"] == "valid", "ppl"].min()
    assert low < best
    assert BASE["valid"] < high < BASE["valid"] + (BASE["valid"] - best)


def test_datastore_size_hangs_the_interval_of_the_gain_below_the_base_lm(tables):
    figure = picture(tables, "datastore_size")
    for axes, split in zip(figure.axes, BASE, strict=True):
        assert base_of(axes) == [pytest.approx(BASE[split])]
        bars = [path for container in axes.containers for path in container[2][0].get_segments()]
        rows = tables["datastore_size"][tables["datastore_size"]["split"] == split]
        drawn = sorted((bar[:, 1].min(), bar[:, 1].max()) for bar in bars)
        np.testing.assert_allclose(
            drawn, sorted(zip(BASE[split] - rows["gain_high"], BASE[split] - rows["gain_low"], strict=True))
        )
        top = axes.get_ylim()[1]
        assert axes.get_ylim()[0] < min(low for low, _ in drawn)
        assert top > BASE[split]


def test_unknown_intervals_leave_the_curves_standing(tables):
    table = tables["datastore_size"].assign(gain_low=np.nan, gain_high=np.nan)
    figure = draw("datastore_size", table, tables["components"], MAIN)
    assert all(set(curves_of(axes)) == set(VARIANTS) for axes in figure.axes)


def test_lambda_starts_at_the_base_lm_and_marks_the_weight(tables):
    for axes, split in zip(picture(tables, "lambda").axes, BASE, strict=True):
        for points in curves_of(axes).values():
            assert points[0].tolist() == [0, pytest.approx(BASE[split])]
        assert {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1} == {0.25}


def test_loss_marks_the_lowest_validation_loss(tables):
    axes = picture(tables, "loss").axes[0]
    mark = next(line for line in axes.lines if len(line.get_xdata()) == 1)
    valid = tables["loss"][tables["loss"]["split"] == "valid"].set_index("update")["loss"]
    assert mark.get_xdata()[0] == valid.idxmin()
    assert mark.get_ydata()[0] == valid.min()


def test_components_are_sorted_tuned_and_of_the_whole_store(tables):
    axes = picture(tables, "components").axes[0]
    table = tables["components"]
    expected = table[(table["split"] == "test") & (table["fraction"] == 1) & (table["temperature_status"] == "optimum")]
    expected = expected[expected["hypothesis"].isna()].sort_values("gain")
    drawn = sorted((y, x) for container in axes.containers for x, y in container[0].get_xydata())
    np.testing.assert_allclose([x for _, x in drawn], expected["gain"])
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "att, L2, real mask, real score"


def test_one_variant_and_one_fraction_are_enough(tables):
    only = {
        name: table[(table["mask"] == "faiss") & (table["fraction"] == 1)] if "mask" in table else table
        for name, table in tables.items()
    }
    for name in ("temperature", "datastore_size", "components"):
        assert draw(name, only[name], tables["components"], MAIN).axes


def test_mistakes_are_named(tables):
    for figure, table, components, main, message in [
        ("pie", "loss", None, None, "unknown"),
        ("lambda", "lambda", None, None, "--components"),
        ("temperature", "temperature", tables["components"], None, "main"),
        ("temperature", "temperature", tables["components"], {"h": "ffn", "metric": "ip"}, "no row of ffn"),
        ("loss", "lambda", None, None, "no column"),
    ]:
        with pytest.raises(KnnlmError, match=message):
            draw(figure, tables[table], components, main)


def test_the_step_writes_both_pictures(tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("temperature", "components"):
        tables[name].to_csv(f"{name}.csv", index=False)
    files = [Path(name) for name in ("temperature.csv", "made/a.pdf", "made/a.png", "components.csv")]
    plot.main("temperature", {"figures": {"dpi": 50}, "main": MAIN}, *files)
    assert sorted(os.listdir("made")) == ["a.pdf", "a.png"]
    (tmp_path / "components.csv").write_text("")
    with pytest.raises(KnnlmError, match=r"components\.csv: not a readable table"):
        plot.main("temperature", {"figures": {"dpi": 50}, "main": MAIN}, *files)
