"""The step that compares the base LMs of several runs."""

import pandas as pd
import pytest

from knnlm.errors import KnnlmError
from knnlm.language_model.training import COLUMNS
from knnlm.steps import lm_search

CURVES = {"a": (6.0, 5.0, 4.5), "b": (6.0, 4.3, 4.4, 4.5), "c": (6.0, 4.401, 4.4, 4.4)}


def curve(folder, name, losses):
    rows = "".join(f"{100 * place},{place},valid,{loss},1,,\n" for place, loss in enumerate(losses, 1))
    (folder / f"{name}.csv").write_text(f"{','.join(COLUMNS)}\n{rows}", encoding="utf-8")
    return folder / f"{name}.csv"


def test_the_lm_of_lowest_loss_on_valid_stands_first(tmp_path, capsys):
    losses = [curve(tmp_path, name, of_name) for name, of_name in CURVES.items()]
    runs = [{"name": f"demo-{name}", "changes": f"seed {name}", "patience": 2} for name in CURVES]
    lm_search.main({"runs": runs}, losses, tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table) == lm_search.COLUMNS
    assert table["run"].tolist() == ["demo-b", "demo-c", "demo-a"]
    assert table["valid_loss"].tolist() == [4.3, 4.4, 4.5]
    assert table["lm_state"].tolist() == ["converged", "converged", "still falling"]
    assert table["ended_by"].tolist() == ["patience", "updates", "updates"]
    assert table["update"].tolist() == [200, 300, 300]
    assert "demo-b" in capsys.readouterr().out


def test_a_damaged_curve_is_named(tmp_path):
    (tmp_path / "loss.csv").write_text("update,loss\n1,2\n", encoding="utf-8")
    runs = [{"name": "demo", "changes": "", "patience": None}]
    with pytest.raises(KnnlmError, match=r"loss\.csv: not a readable table"):
        lm_search.main({"runs": runs}, [tmp_path / "loss.csv"], tmp_path / "table.csv")
