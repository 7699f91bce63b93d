"""A figure whose table somebody edited, cut short or emptied ends in one sentence that names the table."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from pictures import RULE

from knnlm.errors import KnnlmError
from knnlm.figures.catalogue import FIGURES
from knnlm.figures.plots import EMPTY_WITHOUT_HYPOTHESES
from knnlm.steps import plot, redraw

DEMO = Path(__file__).parents[3] / "results" / "demo" / "tables"
MAIN = {"h": "att", "metric": "l2"}
HYPOTHESIS = "sparsification"
ABOUT = {"name": HYPOTHESIS, "question": "Why?", "x_label": "k'", "against": None, "candidates": None}
DRAWN = FIGURES | {f"hypothesis-{HYPOTHESIS}": "components"}


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> Path:
    """Every table of the demo that is drawn."""
    folder = tmp_path_factory.mktemp("tables")
    for name in set(FIGURES.values()):
        shutil.copy(DEMO / f"{name}.csv", folder)
    return folder


def sentence(function, *arguments) -> str:
    """Return the one sentence in which a call ends."""
    with pytest.raises(KnnlmError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert message.endswith("remake the tables.")
    return message


def drawn(tables: Path, path: Path, figure: str):
    """Draw a figure from the table at `path`; `tables` has that of the components."""
    about = ABOUT if figure.startswith("hypothesis-") else None
    components = plot.read_csv(tables / "components.csv")
    return plot.drawn(path, figure, plot.read_csv(path), components, MAIN, about, RULE)


def edited(tables: Path, folder: Path, name: str, lines) -> Path:
    """Write a copy of a table whose lines are changed, and return its path."""
    path = folder / f"{name}.csv"
    path.write_text("".join(lines((tables / f"{name}.csv").read_text().splitlines(keepends=True))))
    return path


@pytest.mark.parametrize("figure", DRAWN)
def test_a_table_without_a_column_is_named_or_the_column_is_not_needed(figure, tables, tmp_path):
    name = DRAWN[figure]
    whole, needed = pd.read_csv(tables / f"{name}.csv"), []
    for column in whole:
        whole.drop(columns=column).to_csv(tmp_path / f"{name}.csv", index=False)
        try:
            drawn(tables, tmp_path / f"{name}.csv", figure)
        except KnnlmError as error:
            assert str(error).startswith(f"{tmp_path}/{name}.csv: figure {figure}: there is no column ")
            assert column in str(error)
            needed.append(column)
    assert needed or figure == "parameters"  # which is drawn from components.csv


@pytest.mark.parametrize("figure", DRAWN)
def test_a_table_of_a_header_alone_is_named_but_where_there_need_be_no_hypothesis(figure, tables, tmp_path):
    path = edited(tables, tmp_path, DRAWN[figure], lambda lines: lines[:1])
    if figure in EMPTY_WITHOUT_HYPOTHESES:
        assert drawn(tables, path, figure).axes
    else:
        assert (
            sentence(drawn, tables, path, figure)
            == f"{path}: figure {figure}: its table has no rows; remake the tables."
        )


@pytest.mark.parametrize("name", sorted(set(FIGURES.values())))
def test_a_column_of_numbers_that_has_a_word_is_named(name, tables, tmp_path):
    whole = pd.read_csv(tables / f"{name}.csv", dtype=object)
    for column in plot.NUMBERS & set(whole):
        changed = whole.copy()
        changed.loc[len(changed) // 2, column] = "many"
        changed.to_csv(tmp_path / f"{name}.csv", index=False)
        assert sentence(plot.read_csv, tmp_path / f"{name}.csv").startswith(
            f"{tmp_path}/{name}.csv: the column {column} has 'many', which is no number; "
        )


def test_all_that_is_drawn_as_a_number_is_known_as_one(tables):
    """What is left out is in tables alone."""
    shown_only = {
        "k",
        "words",
        "documents",
        "units",
        "missing",
        "temperature_per_squared_norm",
        "ppl_with_knn",
        "paper_reaches",
        "ppl_alone",
        "ppl_low",
        "ppl_high",
        "oracle",
        "agreement",
        "epoch",
        "perplexity",
        "learning_rate",
        "tokens_per_second",
    }
    read = [pd.read_csv(tables / f"{name}.csv").dropna(axis="columns", how="all") for name in FIGURES.values()]
    numeric = {column for table in read for column, kind in table.dtypes.items() if kind.kind in "if"}
    assert numeric - plot.NUMBERS == shown_only | {"low", "high"}


def test_redraw_names_a_table_that_does_not_tell_the_hypotheses(tables, tmp_path):
    shutil.copytree(tables, tmp_path / "tables")
    pd.read_csv(tables / "components.csv").drop(columns="hypothesis").to_csv(
        tmp_path / "tables" / "components.csv", index=False
    )
    settings = {"main": MAIN, "verdict": RULE, "figures": {"dpi": 40}, "tables": FIGURES, "hypotheses": {}}
    said = sentence(redraw.main, settings, [tmp_path])
    assert said == f"{tmp_path}/tables/components.csv: there is no column 'hypothesis'; remake the tables."
    assert not (tmp_path / "figures").exists()
