"""The tables of shares: a jackknife in plain Python, who answers what, and what is left in the end."""

from math import exp, log, sqrt
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from toy_components import ENTRY, MAIN, REFERENCE, confidence, evidence, verdicts

from knnlm.analysis.evidence import gathered
from knnlm.analysis.shares import (
    INPUT_COLUMNS,
    REMAINING_COLUMNS,
    SHARE_COLUMNS,
    input_representation_table,
    remaining_table,
    share_table,
)
from knnlm.components.catalogue import may_explain

NOTHING_JUDGED = pd.DataFrame(columns=["component", "hypothesis", "asks"])


def test_shares_are_those_of_a_jackknife_in_plain_python():
    generator = np.random.default_rng(3)
    base = generator.uniform(50, 200, 7)
    documents = {
        "base": base,
        REFERENCE: base * generator.uniform(0.6, 1.02, 7),
        "new-a": base * generator.uniform(0.8, 1.1, 7),
    }
    components, found = evidence({name: tuple(ppls) for name, ppls in documents.items()})
    table = share_table(components, found, NOTHING_JUDGED, confidence(7, 0.8)).set_index("component")
    assert list(table.reset_index()) == SHARE_COLUMNS
    gains = []  # of the candidate and of the kNN-LM, without each document in turn, and last on all
    for without in range(8):
        left = [place for place in range(7) if place != without]
        ppl = {name: exp(fmean(log(ppls[place]) for place in left)) for name, ppls in documents.items()}
        gains.append((ppl["base"] - ppl["new-a"], ppl["base"] - ppl[REFERENCE]))

    *rests, whole = [above / below for above, below in gains]
    error = sqrt(6 / 7 * sum((rest - fmean(rests)) ** 2 for rest in rests))
    t, shares = stats.t.ppf(0.9, 6), ["reaches", "reaches_low", "reaches_high"]
    assert table.loc["new-a", shares].tolist() == pytest.approx([whole, whole - t * error, whole + t * error])
    assert table.loc[REFERENCE, shares].tolist() == [1, 1, 1]
    assert table.loc["base", shares].tolist() == pytest.approx([0, 0, 0])


def test_input_representation_holds_the_exact_knn_and_the_learned_embeddings():
    components, found = evidence()
    entries = {"input-representation": {"candidates": ["new-a"], "against": "new-b"}}
    shares = share_table(components, found, NOTHING_JUDGED, confidence(2, 0.9))
    table = input_representation_table(components, shares, entries, MAIN)
    assert list(table) == INPUT_COLUMNS
    assert dict(zip(table["component"], table["similarity"], strict=True)) == {
        REFERENCE: "l2",
        "new-a": "ip",
        "new-b": "ip",
    }


def test_a_component_names_the_questions_for_an_explanation_that_chose_it():
    explanation = ENTRY | {"asks": "explanation"}
    entries = {"new": explanation, "twice": explanation | {"candidates": ["new-a"]}, "other": ENTRY}
    components, found = evidence()
    shares = share_table(components, found, verdicts(entries, 0.9), confidence(2, 0.9))
    answers = shares.set_index("component")["answers"]
    assert answers["new-a"] == "new, twice"
    assert answers.drop("new-a").isna().all()


def test_what_is_left_falls_from_all_of_the_gain_and_is_nobody_s_that_holds_the_knn(run):
    _, _, _, splits, read, components = run
    found = gathered(components, read, splits, REFERENCE)
    table = remaining_table(components, found, read, splits, 0.0, confidence(9, 0.9))
    assert list(table) == REMAINING_COLUMNS
    assert table.loc[0, ["component", "remaining", "remaining_low", "remaining_high"]].tolist() == ["base", 1, 1, 1]
    assert all(may_explain(row.component, row.family) for row in table.iloc[1:].itertuples())
    test = components[components["split"] == "test"].set_index("component")["ppl"]
    assert table.loc[0, ["ppl", "ppl_with_knn"]].tolist() == pytest.approx([test["base"], test[REFERENCE]])
    as_explanations = components.assign(family="new")
    table = remaining_table(as_explanations, found, read, splits, 0.02, confidence(9, 0.9))
    assert table["component"].tolist() == ["base", REFERENCE]  # nothing is left beside the kNN itself
    assert table["remaining"].tolist() == pytest.approx([1, 0], abs=1e-6)
