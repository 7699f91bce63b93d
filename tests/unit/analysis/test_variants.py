"""The table over variants, against rows written by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from knnlm.analysis.variants import Tables, questions, variant_table
from knnlm.errors import KnnlmError
from knnlm.steps import variant_table as variant_step
from knnlm.storage.tables import write_table

MAIN = {"h": "att", "metric": "l2"}
KNN = "knn-att-l2-exact-real"


def tables_of(base: float, gain: float, state: str = "converged", **verdicts: float) -> Tables:
    rows = [
        {"component": name, "split": split, "ppl": base + worse - better, "gain": better, "gain_low": better - 1,
         "gain_high": better + 1, "temperature": 7.0, "rows": 100, "lambda": 0.25}
        for name, better in (("base", 0.0), (KNN, gain))
        for split, worse in (("valid", 0.0), ("test", 5.0))
    ]  # fmt: skip
    judged = [
        {"hypothesis": name, "gain": share * gain, "reaches": share, "reaches_low": share - 0.1,
         "reaches_high": share + 0.1, "verdict": "contributes", "why": ""}
        for name, share in verdicts.items()
    ]  # fmt: skip
    return Tables(pd.DataFrame(rows), pd.DataFrame(judged), pd.DataFrame([{"lm_state": state}]))


def test_a_row_has_what_the_variant_s_tables_say():
    varied = pd.DataFrame({"lm.width": [64, 128]}, index=["ladder-a", "ladder-b"])
    found = {"ladder-a": tables_of(200, 20, few=0.5), "ladder-b": tables_of(100, 15, "still falling", other=-0.2)}
    table = variant_table(varied, found, MAIN)
    assert list(table["variant"]) == ["ladder-a", "ladder-b"]
    assert list(table["lm.width"]) == [64, 128]
    assert table[["ppl_valid", "ppl_test", "gain", "gain_low", "gain_high"]].to_numpy().tolist() == [
        [200, 205, 20, 19, 21],
        [100, 105, 15, 14, 16],
    ]
    assert list(table["lm_state"]) == ["converged", "still falling"]
    assert questions(table) == ["few", "other"]
    assert table["few_reaches"].tolist()[0] == 0.5
    assert np.isnan(table["few_reaches"].tolist()[1])
    assert table["other_reaches_low"].tolist()[1] == pytest.approx(-0.3)
    assert "few_why" not in table


def test_tables_without_the_main_component_are_named():
    whole = tables_of(200, 20)
    without = Tables(whole.components.iloc[:-1], whole.verdicts, whole.convergence)
    with pytest.raises(KnnlmError, match=f"^variant a: components.csv has no row of {KNN} on test; remake"):
        variant_table(pd.DataFrame(index=["a"]), {"a": without}, MAIN)


def test_files_go_to_the_variant_in_whose_place_they_stand(tmp_path):
    """Settings are JSON with sorted keys; the names here are not sorted."""
    varied = {"index": ["b", "a", "c"], "columns": ["seed", "k"], "data": [[2, 5], [1, 5], [3, 6]]}
    files = {"components": [], "verdicts": [], "convergence": []}
    for name in varied["index"]:
        for kind, table in vars(tables_of(100 * ord(name), 10, few=0.5)).items():
            files[kind].append(tmp_path / f"{name}-{kind}.csv")
            write_table(files[kind][-1], table)
    settings = json.loads(json.dumps({"main": MAIN, "varied": varied}, sort_keys=True))
    variant_step.main(settings, **files, table=tmp_path / "variants.csv")
    table = pd.read_csv(tmp_path / "variants.csv")
    assert list(table.columns[:3]) == ["variant", "seed", "k"]
    assert table["ppl_valid"].tolist() == [100 * ord(name) for name in table["variant"]]
    assert table["seed"].tolist() == [2, 1, 3]
