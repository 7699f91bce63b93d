import pandas as pd
import pytest

from knnlm.analysis import significance


def test_mean_and_spread_over_seeds_by_hand():
    first = pd.DataFrame({"component": ["base", "knn"], "split": "test", "ppl": [10.0, 8.0], "gain": [0.0, 2.0]})
    second = pd.DataFrame({"component": ["base", "knn"], "split": "test", "ppl": [12.0, 9.0], "gain": [0.0, 3.0]})
    table = significance.over_seeds([first, second], ["component", "split"]).set_index("component")
    assert list(table["seeds"]) == [2, 2]
    assert table.loc["knn", "ppl_mean"] == 8.5
    assert table.loc["knn", "gain_std"] == pytest.approx(0.5**0.5)
    assert (table.loc["knn", "ppl_min"], table.loc["knn", "ppl_max"]) == (8.0, 9.0)
    assert "reaches_mean" not in table


def test_verdicts_of_seeds_are_counted_and_a_row_that_one_seed_lacks_is_kept():
    key = ["hypothesis", "question", "paper"]
    first = pd.DataFrame(
        [["a", "A?", "refuted", 0.1, "does nothing"], ["b", "B?", "silent", None, "inconclusive"]],
        columns=[*key, "reaches", "verdict"],
    )
    second = pd.DataFrame([["a", "A?", "refuted", 0.3, "contributes"]], columns=[*key, "reaches", "verdict"])
    third = pd.DataFrame([["a", "A?", "refuted", 0.2, "contributes"]], columns=[*key, "reaches", "verdict"])
    table = significance.over_seeds([first, second, third], key).set_index("hypothesis")
    assert table.loc["a", ["seeds", "verdicts"]].tolist() == [3, "does nothing 1, contributes 2"]
    assert table.loc["a", "reaches_mean"] == pytest.approx(0.2)
    assert table.loc["b", "seeds"] == 1
    assert pd.isna(table.loc["b", "reaches_mean"])
