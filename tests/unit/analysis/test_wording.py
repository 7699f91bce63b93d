"""The main result and the verdicts in words, for a terminal and for the report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree
from docutils.nodes import entry, strong
from toy_components import ENTRY, MAIN, RULE, verdicts

from knnlm.analysis.wording import decimals, main_rst, remaining_text, resting, verdict_rst, verdict_text

DEMO = Path(__file__).parents[3] / "results/demo/tables"
BASE = {"ppl": 20.0, "split": "test", "words": 28_782, "documents": 5, "units": 58}


def judged():
    """A table with an awkward question and unknown ends."""
    table = verdicts(
        {
            "new": ENTRY
            | {"question": "Is *p_x* `all` | there is, or does a \\ stand in a long question that must be wrapped?"},
            "other": ENTRY | {"paper": "supported"},
        },
        0.3,
    )
    table.loc[0, ["reaches_low", "reaches_high"]] = np.nan
    table.loc[0, ["verdict", "why", "agrees"]] = "inconclusive", "no interval is known", ""
    return table


def test_the_text_is_aligned_and_fits_a_terminal():
    lines = verdict_text(judged(), RULE, 0.9, BASE).splitlines()
    assert max(map(len, lines)) <= 120
    header = next(line for line in lines if line.startswith("question, "))
    column = header.index("verdict")
    said = [line[column:].split() for line in lines if "%]" in line or "[unknown" in line]
    assert said == [["inconclusive", "supported"], ["better", "refuted", "no"]]
    assert "  no interval is known" in lines
    told = " ".join(lines)
    assert all(
        number in told
        for number in ("50%", "2%", "90%", "2 questions", "5 documents of test", "58 blocks of 496 words")
    )
    assert "No hypothesis" in verdict_text(judged().iloc[:0], RULE, 0.9, BASE)


def test_the_rst_is_a_valid_table_of_every_verdict():
    table = judged()
    strict = {"halt_level": 2, "report_level": 2}
    cells = [
        node.astext()
        for node in publish_doctree(verdict_rst(table, RULE, 0.9, BASE), settings_overrides=strict).findall(entry)
    ]
    assert len(cells) == 4 * 3
    asked = [" ".join(row[["question", "component", "note", "why"]]).split() for _, row in table.iterrows()]
    assert [cell.split() for cell in cells[4::4]] == asked
    said = [
        f" (the paper: {paper})" if agrees == "no" else ""
        for paper, agrees in zip(table["paper"], table["agrees"], strict=True)
    ]
    assert cells[7::4] == [verdict + other for verdict, other in zip(table["verdict"], said, strict=True)]
    emptied = publish_doctree(verdict_rst(table.iloc[:0], RULE, 0.9, BASE), settings_overrides=strict)
    assert not list(emptied.findall(entry)) + list(emptied.findall(strong))


@pytest.mark.parametrize(
    ("perplexity", "gain", "shown"),
    [
        (267.26, 0.5, "0.50 [0.25, 1.00]"),
        (20.0, 0.5, "0.50 [0.25, 1.00]"),
        (2.1, 0.004, "0.004 [0.002, 0.008]"),
        (1.0, 0.0004, "0.0004 [0.0002, 0.0008]"),
    ],
)
def test_the_digits_of_a_gain_follow_the_size_of_the_perplexity(perplexity, gain, shown):
    table = judged().assign(gain=gain, gain_low=gain / 2, gain_high=2 * gain)
    assert shown in verdict_text(table, RULE, 0.9, BASE | {"ppl": perplexity})
    assert shown in verdict_rst(table, RULE, 0.9, BASE | {"ppl": perplexity})


def test_the_first_table_of_the_report_is_the_main_result():
    components = pd.read_csv(DEMO / "components.csv")
    cells = [node.astext() for node in publish_doctree(main_rst(components, MAIN, 0.95)).findall(entry)]
    test = components[components["split"] == "test"].set_index("component")
    knn = test.loc["knn-att-l2-exact-real"]
    gain = f"{knn['gain']:.2f} [{knn['gain_low']:.2f}, {knn['gain_high']:.2f}]"
    weight, temperature = f"{knn['lambda']:.3f}", f"{knn['temperature']:.3g}"
    assert cells[5:10] == ["base LM", f"{test.loc['base', 'ppl']:.2f}", "", "", ""]
    assert cells[-5:] == ["base LM + kNN, exact search", f"{knn['ppl']:.2f}", gain, weight, temperature]
    assert len(cells) == 5 * 5


@pytest.mark.parametrize(
    ("documents", "units", "said", "of_these_alone"),
    [
        (60, 60, "Intervals rest on the 60 documents of test.", False),
        (5, 58, "the 5 documents of test, cut into 58 blocks of 496 words", True),
        (1, 58, "the one document of test, cut into 58 blocks of 496 words", True),
        (1, 1, "The test split is a single unit, so there are no intervals.", False),
    ],
)
def test_what_intervals_rest_on_is_said(documents, units, said, of_these_alone):
    text = resting(BASE | {"documents": documents, "units": units})
    assert said in text
    assert ("not of others" in text) == of_these_alone


def test_what_is_not_known_is_said_in_words():
    table = judged().assign(gain=1.0, gain_low=np.nan, gain_high=np.nan)
    for text in (verdict_text(table, RULE, 0.9, BASE), verdict_rst(table, RULE, 0.9, BASE)):
        assert "1.00 [unknown, unknown]" in text
        assert "nan" not in text
    assert decimals(np.inf) == decimals(np.nan) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["first"], "Beside first the kNN still adds 25% [20%, 35%] of what"),
        (["first", "second"], "Beside first and second the kNN still adds 25%"),
        (["first", "second", "third"], "Beside first, second and third the kNN still adds 25%"),
        ([], "No component of this run takes as much as 2% of"),
    ],
)
def test_what_is_left_is_said_in_one_sentence(names, said):
    table = pd.DataFrame({"component": ["base", *names], "remaining": 0.25})
    table = table.assign(remaining_low=0.2, remaining_high=0.35)
    text = remaining_text(table, RULE)
    assert text.replace("\n", " ").startswith(said)
    assert max(map(len, text.splitlines())) <= 120
    assert remaining_text(table.assign(remaining=np.nan), RULE).startswith("The kNN adds nothing")
