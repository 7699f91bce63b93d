"""All hypotheses on `tiny`: what every one leaves behind, a new one from CONTRIBUTING.md, and several seeds."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from knnlm.analysis.rule import VERDICTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / "config/hypotheses.yaml").read_text())["hypotheses"]
WITH_STEP = [name for name, entry in ENTRIES.items() if "family" in entry]


@pytest.fixture(scope="module")
def tables(finished):
    folder = finished.folder / "results/tiny/tables"
    return {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}


def test_every_question_has_a_verdict(tables):
    verdicts = tables["verdicts"].set_index("hypothesis")
    assert set(verdicts.index) == set(ENTRIES)
    assert verdicts["verdict"].isin(VERDICTS).all()
    known = verdicts[["gain", "gain_low", "gain_high", "reaches", "reaches_low", "reaches_high"]]
    assert known.notna().all(axis=None)
    assert (verdicts["removes"].notna() == (verdicts["asks"] == "explanation")).all()
    assert (verdicts["gain"].between(verdicts["gain_low"], verdicts["gain_high"])).all()


@pytest.mark.parametrize("name", WITH_STEP)
def test_a_hypothesis_has_components_on_both_splits_and_a_figure(name, tables, finished):
    rows = tables["components"][tables["components"]["hypothesis"] == name]
    assert rows["split"].value_counts().nunique() == 1
    assert set(rows["split"]) == {"valid", "test"}
    assert (rows.loc[rows["split"] == "valid", "gain"] >= -1e-6).all()
    assert (finished.folder / f"results/tiny/figures/hypothesis-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_share_of_the_reference_is_the_whole(tables):
    row = tables["shares"].set_index("component").loc["knn-att-l2-exact-real"]
    assert row[["reaches", "removes", "agreement"]].tolist() == pytest.approx([1, 1, 1])


def test_words_cut_to_all_words_and_no_zero_rows_change_nothing(tables):
    ppl = tables["components"].query("split == 'test'").set_index("component")["ppl"]
    types = int(tables["components"].query("hypothesis == 'sparsification'")["rows"].iloc[0])
    assert ppl[f"sparsification-top-{types}"] == pytest.approx(ppl["base"], rel=1e-3)  # stored states are float16
    for name in ("padding-exact-0", "neighbours-exact-k64"):  # equal components have equal temperatures
        assert ppl[name] == pytest.approx(ppl["knn-att-l2-exact-real"], rel=1e-9)


def test_training_on_hard_labels_is_the_base_lm(tables):
    ppl = tables["components"].query("split == 'test'").set_index("component")["ppl_alone"]
    assert ppl["soft-labels-hard"] == ppl["base"]


def test_what_has_not_memorised_its_text_is_not_tested(tables):
    facts = tables["facts"].query("hypothesis == 'memorisation' and quantity == 'not_tested'").set_index("component")
    assert set(facts.index) == {"memorisation-updates-10", "memorisation-last"}
    row = tables["verdicts"].set_index("hypothesis").loc["memorisation"]
    assert (row["component"], row["against"], row["verdict"]) == (
        "memorisation-last", "memorisation-control-last", "not tested",
    )  # fmt: skip
    assert row["why"] == facts.loc["memorisation-last", "value"]


def test_an_ensemble_is_at_least_as_good_on_valid_as_its_members(tables):
    ppl = tables["components"].query("split == 'valid'").set_index("component")["ppl"]
    assert ppl["second-seed-and-knn-second-seed-knn"] <= min(ppl["second-seed-lm"], ppl["knn-att-l2-exact-real"]) * (
        1 + 1e-6
    )


def test_nothing_of_a_hypothesis_is_left_in_a_training_neighbours_file_but_k(finished):
    """Nothing of size types x tokens is stored for the soft labels."""
    tokens = np.load(finished.folder / "results/tiny/corpus/tokens/train.npy")
    types = len(np.load(finished.folder / "results/tiny/corpus/tokens/continuation.npy"))
    for path in (finished.folder / "results/tiny/hypotheses/soft-labels.checkpoints").rglob("*"):
        assert path.is_dir() or path.stat().st_size < tokens.size * types


def test_the_verdicts_are_on_the_first_page_of_the_report(finished):
    finished("--report", "results/tiny/report.html")
    report = (finished.folder / "results/tiny/report.html").read_text()
    assert "Do more output embeddings for every word type explain the gain?" in report
    assert "hypothesis-clustering.png" in report


def rules_of(output: str) -> set[str]:
    return set(re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE))


def test_the_example_of_contributing_runs_and_nothing_else_does(finished, tmp_path):
    project = finished.copied(tmp_path / "project")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n# (workflow/\S+\.py)\n(.*?)```", text, flags=re.DOTALL)
    (entry,) = re.findall(r"```yaml\n# config/unigram.yaml\n(.*?)```", text, flags=re.DOTALL)
    (project.folder / code[0]).write_text(code[1])
    overlay = yaml.safe_load((project.folder / "config/tiny.yaml").read_text())
    overlay["hypotheses"] |= yaml.safe_load(entry)["hypotheses"]
    (project.folder / "config/mine.yaml").write_text(yaml.safe_dump(overlay))
    output = project(config="config/mine.yaml").stdout
    rules = rules_of(output)
    drawing = {rule for rule in rules if rule.startswith("plot_")} | {"front_picture"}
    assert rules - drawing == {"hypothesis", "tables", "all"}
    assert output.count("rule hypothesis:") == 1
    components = pd.read_csv(project.folder / "results/tiny/tables/components.csv")
    row = components[(components["component"] == "unigram-added-1") & (components["split"] == "test")].iloc[0]
    tokens = {split: np.load(project.folder / f"results/tiny/corpus/tokens/{split}.npy") for split in ("train", "test")}
    counts = np.bincount(tokens["train"], minlength=int(row["added_parameters"])) + 1
    expected = np.exp(-np.log(counts[tokens["test"]] / counts.sum()).sum() / row["words"])
    assert row["ppl_alone"] == pytest.approx(expected, rel=1e-5)
    assert "unigram" in set(pd.read_csv(project.folder / "results/tiny/tables/verdicts.csv")["hypothesis"])
    assert (project.folder / "results/tiny/figures/hypothesis-unigram.pdf").exists()


def test_several_seeds_are_runs_of_their_own_and_tables_of_mean_and_spread(new_project):
    project = new_project("seeds")
    overlay = yaml.safe_load((project.folder / "config/tiny.yaml").read_text()) | {"seeds": [1, 2]}
    overlay["hypotheses"] = {name: {"enabled": name in ("temperature", "sparsification")} for name in ENTRIES}
    overlay["hypotheses"]["sparsification"] = {"settings": {"k": [16]}}
    overlay["retrieval"] |= {"h": ["att"], "metrics": ["l2"]}
    (project.folder / "config/seeds.yaml").write_text(json.dumps(overlay))
    project(config="config/seeds.yaml")
    table = pd.read_csv(project.folder / "results/tiny/tables/components_over_seeds.csv").set_index(
        ["component", "split"]
    )
    each = [
        pd.read_csv(project.folder / f"results/tiny-seed-{seed}/tables/components.csv").set_index(
            ["component", "split"]
        )
        for seed in (1, 2)
    ]
    row = ("sparsification-top-16", "test")
    assert each[0].loc[row, "ppl"] != each[1].loc[row, "ppl"]
    assert table.loc[row, "ppl_mean"] == pytest.approx(np.mean([one.loc[row, "ppl"] for one in each]))
    assert table.loc[row, "ppl_std"] == pytest.approx(np.std([one.loc[row, "ppl"] for one in each], ddof=1))
    assert "Nothing to be done" in project("-n", config="config/seeds.yaml").stdout
    del overlay["seeds"]
    long = overlay | {"variants": {f"seed-{seed}": {"seed": seed} for seed in (1, 2)}}
    (project.folder / "config/variants.yaml").write_text(json.dumps(long))
    assert "Nothing to be done" in project("-n", config="config/variants.yaml").stdout
    over = pd.read_csv(project.folder / "results/tiny/tables/variants.csv")
    assert list(over["variant"]) == ["tiny-seed-1", "tiny-seed-2"]
    assert list(over["seed"]) == [1, 2]
    assert list(over["ppl_test"]) == [one.loc[("base", "test"), "ppl"] for one in each]
    assert (project.folder / "results/tiny/figures/variants.png").read_bytes().startswith(b"\x89PNG")
    assert not (project.folder / "results/tiny-seed-1/lm").exists()  # the main run's own seed
