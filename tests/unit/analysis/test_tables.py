import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from stores import known

from knnlm.analysis.tables import (
    COMPONENT_COLUMNS,
    DESCRIPTION,
    HYPOTHESIS,
    Split,
    component_table,
    datastore_size_table,
    lambda_table,
    main_variants,
)
from knnlm.analysis.wording import summary
from knnlm.components.catalogue import BASE, Component
from knnlm.components.columns import save_components
from knnlm.errors import KnnlmError
from knnlm.steps import tables as tables_step
from knnlm.storage.arrays import load_array, save_array

CONTINUATION = np.array([False] * 4 + [True] * 3 + [False] * 5)
OFFSETS = {
    "valid": np.array([0, 100, 180, 300, 360, 400]),
    "test": np.array([0, 50, 90, 140, 200, 260, 330, 400, 450, 500]),
}
VARIANTS = [("approximate", "faiss", "faiss"), ("approximate", "faiss", "real"), ("exact", "real", "real")]
FRACTIONS = [0.05, 0.5, 1.0]
REFERENCE = "knn-att-l2-exact-real"
ENTRY = {"question": "Do zero rows matter?", "paper": "silent", "share": None, "against": "{main}", "candidates": None}
SETTINGS = {
    "seed": 1,
    "corpus": {"tokeniser": "moses"},
    "significance": {"resamples": 400, "level": 0.9},
    "main": {"h": "att", "metric": "l2"},
    "fractions": FRACTIONS,
}
SETTINGS |= {"verdict": {"share": 0.25}, "hypotheses": {"padding": ENTRY, "not-run": ENTRY}}
TABLES = (
    "components", "temperature", "datastore_size", "lambda", "loss", "verdicts", "shares", "input_representation",
    "facts",
)  # fmt: skip
TEXTS = ("summary.txt", "verdicts.txt", "verdicts.rst")


def describe(name, **facts):
    return dict.fromkeys([*DESCRIPTION, *HYPOTHESIS]) | {"component": name, "family": "lm"} | facts


def descriptions():
    """A base LM, the three main variants at three fractions, tuned and not, and one component of another h."""
    made = [describe("base")]
    for search, mask, score in VARIANTS:
        knn = {"family": "knn", "mask": mask, "score": score, "k": 64, "added_parameters": 0}
        for fraction in FRACTIONS:
            suffix = "" if fraction == 1 else f"-f{fraction:g}"
            name, main = (
                f"knn-att-l2-{search}-{score}{suffix}",
                knn | {"h": "att", "metric": "l2", "fraction": fraction},
            )
            made.append(describe(name, temperature=4.5, temperature_status="optimum", **main))
        made.append(
            describe(f"knn-att-l2-{search}-{score}-untuned", temperature=1.0, temperature_status="fixed", **main)
        )
    other = knn | {"h": "ffn", "metric": "ip", "fraction": 1.0}
    made.append(describe("knn-ffn-ip-exact-real", temperature=100.0, temperature_status="edge", **other))
    padded = main | {
        "family": "padding",
        "hypothesis": "padding",
        "temperature": 4.5,
        "temperature_status": "optimum",
    }  # looks like the main component
    return [
        *made,
        describe("padding-0.1", rows=1100, series="exact", x=10.0, **padded),
        describe("padding-0.2", **padded | {"family": "knn"}),
    ]


@pytest.fixture(scope="module")
def run():
    """Random log p of a kNN component: often worse than the base LM, at times much better, some without mass."""
    generator, parts = np.random.default_rng(0), descriptions()
    tokens = {split: generator.integers(2, 12, offsets[-1]).astype(np.int32) for split, offsets in OFFSETS.items()}
    log_p = {}
    for split, offsets in OFFSETS.items():
        base = -generator.exponential(4, offsets[-1])
        log_p["base", split] = base.astype(np.float32)
        for part in parts[1:]:
            component = np.minimum(base + generator.normal(-0.5, 2, offsets[-1]), -1e-3)
            component[generator.random(offsets[-1]) < 0.05] = -np.inf
            log_p[part["component"], split] = component.astype(np.float32)
    splits = [Split.of(split, tokens[split], offsets, CONTINUATION) for split, offsets in OFFSETS.items()]

    def read(component, split):
        return log_p[component, split]

    return parts, log_p, tokens, splits, read, component_table(parts, read, splits, REFERENCE, 400, 0.9, 1)


def test_one_row_per_component_and_split_base_first(run):
    parts, _, _, _, _, table = run
    assert list(table) == COMPONENT_COLUMNS
    assert list(zip(table["component"], table["split"], strict=True)) == [
        (part["component"], split) for part in parts for split in OFFSETS
    ]


def test_rows_are_what_plain_arithmetic_gives(run):
    _, log_p, tokens, _, _, table = run
    for row in table.to_dict("records"):
        base, own = (np.exp(np.float64(log_p[name, row["split"]])) for name in ("base", row["component"]))
        words = sum(not CONTINUATION[token] for token in tokens[row["split"]])
        assert (row["tokens"], row["words"]) == (len(base), words)
        with np.errstate(divide="ignore"):
            assert row["ppl"] == pytest.approx(
                np.prod(((1 - row["lambda"]) * base + row["lambda"] * own) ** (-1 / words)), rel=1e-9
            )
            assert row["ppl_alone"] == pytest.approx(np.exp(-np.log(own).sum() / words), rel=1e-9)
        assert row["oracle"] == pytest.approx(np.exp(-np.log(np.maximum(base, own)).sum() / words), rel=1e-9)


def test_the_weight_is_tuned_on_valid_and_used_on_test(run):
    _, log_p, _, _, _, table = run
    for component, rows in table.groupby("component"):
        assert rows["lambda"].nunique() == 1
        base, own = (np.exp(np.float64(log_p[name, "valid"])) for name in ("base", component))
        best = minimize_scalar(
            lambda weight: -np.log((1 - weight) * base + weight * own).sum(),  # noqa: B023
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert component == "base" or rows["lambda"].iloc[0] == pytest.approx(best.x, abs=1e-4)


def test_gains_and_intervals(run):
    table = run[-1]
    for _, rows in table.groupby("split"):
        base = rows.iloc[0]
        assert (base["ppl_alone"], base["lambda"], base["gain"], base["gain_low"], base["gain_high"]) == (
            base["ppl"],
            0,
            0,
            0,
            0,
        )
        np.testing.assert_allclose(rows["gain"], base["ppl"] - rows["ppl"])
        assert (rows["ppl_low"] < rows["ppl"]).all()
        assert (rows["ppl"] < rows["ppl_high"]).all()
        others = rows.iloc[1:]
        assert (others["gain_low"] < others["gain"]).all()
        assert (others["gain"] < others["gain_high"]).all()


def test_intervals_are_those_of_a_plain_paired_bootstrap(run):
    parts, log_p, tokens, splits, read, _ = run
    name, offsets = parts[1]["component"], OFFSETS["test"]
    table = component_table(parts[:2], read, splits, name, 4000, 0.9, 1)
    row = table[(table["component"] == name) & (table["split"] == "test")].iloc[0]
    base, own = (np.exp(np.float64(log_p[part, "test"])) for part in ("base", name))
    mixture, is_word = np.log((1 - row["lambda"]) * base + row["lambda"] * own), ~CONTINUATION[tokens["test"]]
    generator, gains = np.random.default_rng(99), []
    for _ in range(4000):
        drawn = np.concatenate(
            [np.arange(offsets[d], offsets[d + 1]) for d in generator.integers(0, len(offsets) - 1, len(offsets) - 1)]
        )
        words = is_word[drawn].sum()
        gains.append(np.exp(-np.log(base[drawn]).sum() / words) - np.exp(-mixture[drawn].sum() / words))
    np.testing.assert_allclose(
        [row["gain_low"], row["gain_high"]], np.quantile(gains, [0.05, 0.95]), atol=0.05 * np.ptp(gains)
    )


def test_a_split_of_one_document_has_no_intervals(run):
    parts, _, tokens, _, read, _ = run
    splits = [Split.of(split, tokens[split], np.array([0, tokens[split].size]), CONTINUATION) for split in OFFSETS]
    table = component_table(parts[:3], read, splits, parts[1]["component"], 50, 0.9, 1)
    assert table[["ppl_low", "ppl_high", "gain_low", "gain_high"]].isna().all(axis=None)
    assert table[["ppl", "gain"]].notna().all(axis=None)


def test_a_missing_or_doubled_component_is_refused(run):
    parts, _, _, splits, read, _ = run
    for wrong in (parts[1:], [*parts, parts[-1]]):
        with pytest.raises(KnnlmError, match="base"):
            component_table(wrong, read, splits, REFERENCE, 10, 0.9, 1)
    with pytest.raises(KnnlmError, match="the reference knn-att-l2-exact-real is not among them"):
        component_table([part for part in parts if part["component"] != REFERENCE], read, splits, REFERENCE, 10, 0.9, 1)


def test_helped_and_agreement_are_counted_token_by_token(run):
    _, log_p, _, _, _, table = run
    for row in table.to_dict("records"):
        base, own, reference = (log_p[name, row["split"]].tolist() for name in ("base", row["component"], REFERENCE))
        helped = [a > b for a, b in zip(own, base, strict=True)]
        same = [h == (a > b) for h, a, b in zip(helped, reference, base, strict=True)]
        assert row["helped"] == sum(helped) / len(helped)
        assert row["agreement"] == sum(same) / len(same)
    assert set(table.loc[table["component"] == REFERENCE, "agreement"]) == {1.0}


def test_what_is_known_of_a_hypothesis_component_stands_in_the_table_and_not_in_the_main_result(run):
    table = run[-1]
    assert list(table)[-7:] == [*HYPOTHESIS, "helped", "agreement"]
    row = table[table["component"] == "padding-0.1"].iloc[0]
    assert (row["rows"], row["hypothesis"], row["series"], row["x"]) == (1100, "padding", "exact", 10.0)
    shown = summary(table, 0.9).splitlines()
    main = table[
        (table["split"] == "test") & table["hypothesis"].isna() & (table["fraction"].isna() | (table["fraction"] == 1))
    ]
    assert len(shown) == 5 + len(main)


def test_datastore_size_table_holds_the_tuned_main_variants_at_every_fraction(run):
    table = datastore_size_table(run[-1], "att", "l2", FRACTIONS)
    assert list(table) == COMPONENT_COLUMNS
    assert len(table) == len(VARIANTS) * len(FRACTIONS) * len(OFFSETS)
    assert set(table["temperature_status"]) == {"optimum"}
    assert set(table["h"]) == {"att"}
    some = run[-1][~((run[-1]["fraction"] == 0.5) & (run[-1]["mask"] == "real"))]
    assert set(datastore_size_table(some, "att", "l2", FRACTIONS)["mask"]) == {"faiss"}
    with pytest.raises(KnnlmError, match="at every fraction"):
        datastore_size_table(run[-1], "att", "l2", [0.1, *FRACTIONS])
    with pytest.raises(KnnlmError, match="none is made from ffn"):
        datastore_size_table(run[-1], "ffn", "l2", FRACTIONS)


def test_lambda_curves_run_from_the_base_lm_to_the_component_alone(run):
    _, _, _, splits, read, components = run
    names = main_variants(components, "att", "l2")
    assert names == [f"knn-att-l2-{search}-{score}" for search, _, score in VARIANTS]
    table = lambda_table(names, read, splits)
    known = components.set_index(["component", "split"])
    for (name, split), curve in table.groupby(["component", "split"]):
        np.testing.assert_array_equal(curve["lambda"], np.arange(101) / 100)
        assert curve["ppl"].iloc[0] == pytest.approx(known.loc[("base", split), "ppl"])
        assert curve["ppl"].iloc[-1] == known.loc[(name, split), "ppl_alone"] == np.inf
        if split == "valid":
            assert curve["ppl"].min() >= known.loc[(name, split), "ppl"] * (1 - 1e-12)
            assert curve["lambda"].iloc[curve["ppl"].argmin()] == pytest.approx(
                known.loc[(name, split), "lambda"], abs=0.01
            )


@pytest.fixture
def folder(run, tmp_path, monkeypatch):
    """The files of a run that the step reads, in the current folder."""
    monkeypatch.chdir(tmp_path)
    parts, log_p, tokens, _, _, _ = run
    for file, members in (("base.json", parts[:1]), ("knn.json", parts[1:])):
        columns = {split: [log_p[part["component"], split] for part in members] for split in OFFSETS}
        save_components(tmp_path / file, [Component(**part) for part in members], columns, "abc")
    for split, offsets in OFFSETS.items():
        save_array(tmp_path / f"tokens-{split}.npy", tokens[split])
        save_array(tmp_path / f"documents-{split}.npy", offsets)
    save_array(tmp_path / "continuation.npy", CONTINUATION)
    known(*tmp_path.glob("tokens-*.npy"), *tmp_path.glob("documents-*.npy"), tmp_path / "continuation.npy")
    header = "component,h,metric,mask,score,fraction,temperature,split,lambda,ppl\n"
    (tmp_path / "a.temperature.csv").write_text(
        header + "knn-att-l2-exact-real,att,l2,real,real,1.0,0.10,valid,0.123456789012345,99.5\n"
    )
    (tmp_path / "b.temperature.csv").write_text(
        header + "knn-ffn-ip-exact-real,ffn,ip,real,real,1.0,0.10,test,0.2,inf\n"
    )
    (tmp_path / "loss.csv").write_text(
        "update,epoch,split,loss,perplexity,learning_rate,tokens_per_second\n50,1,train,5.0,148.4131591,0.001,9000\n"
    )
    (tmp_path / "padding.facts.csv").write_text(
        "hypothesis,component,quantity,value\npadding,padding-0.1,recall,0.50\npadding,,rows,7\n"
    )
    return tmp_path


def step(output, settings=SETTINGS, facts=("padding.facts.csv",)):
    """Make the tables of the files in the current folder."""
    files = {
        "descriptions": ["base.json", "knn.json"],
        "tokens": ["tokens-valid.npy", "tokens-test.npy"],
        "documents": ["documents-valid.npy", "documents-test.npy"],
        "temperatures": ["a.temperature.csv", "b.temperature.csv"],
        "facts": facts,
    }
    paths = {name: [Path(path) for path in of_name] for name, of_name in files.items()}
    tables_step.main(
        settings, **paths, continuation=Path("continuation.npy"), loss=Path("loss.csv"), folder=Path(output)
    )


@pytest.mark.parametrize(
    ("tokeniser", "said"), [("moses", "punctuation marks count"), ("characters", "Chinese"), ("none", "spaces")]
)
def test_summary_and_report_say_what_a_word_is(tokeniser, said, run, folder):
    step("words", SETTINGS | {"corpus": {"tokeniser": tokeniser}})
    for name in ("summary.txt", "verdicts.rst"):
        text = (folder / "words" / name).read_text(encoding="utf-8").partition(".. verdicts")[0]
        (sentence,) = [line for line in text.splitlines() if "the end of a line" in line]
        assert said in sentence


def test_the_step_writes_the_same_tables_twice(run, folder):
    for output in ("once", "twice"):
        step(output)
    once, twice = (
        {path.name: path.read_bytes() for path in (folder / output).iterdir()} for output in ("once", "twice")
    )
    assert once == twice
    assert once.keys() == {*TEXTS, *(f"{table}.csv" for table in TABLES)}
    base = run[-1].iloc[1]
    assert f"{base['tokens']:,} tokens" in once["summary.txt"].decode()
    assert f" {base['ppl']:.2f} " in once["summary.txt"].decode()
    written = (
        pd.read_csv(folder / "once/components.csv", dtype={"k": "Int64", "added_parameters": "Int64", "rows": "Int64"})
        .set_index(["component", "split"])
        .sort_index()
    )
    expected = run[-1].set_index(["component", "split"]).sort_index()
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-9)
    assert written.loc[("knn-ffn-ip-exact-real", "test"), "temperature_status"] == "edge"
    assert (folder / "once/loss.csv").read_text() == (folder / "loss.csv").read_text()
    temperature = (folder / "once/temperature.csv").read_text()
    assert "0.10,valid,0.123456789012345,99.5\n" in temperature
    assert "test,0.2,inf\n" in temperature
    assert temperature.count("component") == 1
    assert (folder / "once/facts.csv").read_text() == (folder / "padding.facts.csv").read_text()


def test_the_step_asks_every_hypothesis_and_needs_none(run, folder):
    step("some")
    verdicts = pd.read_csv(folder / "some/verdicts.csv")
    assert verdicts["hypothesis"].tolist() == ["padding"]
    test = run[-1][run[-1]["split"] == "test"].set_index("component")
    assert verdicts["gain"][0] == pytest.approx(test.loc[REFERENCE, "ppl"] - test.loc[verdicts["component"][0], "ppl"])
    assert "Do zero rows matter?" in (folder / "some/verdicts.txt").read_text()
    assert "Do zero rows matter?" in (folder / "some/verdicts.rst").read_text()
    shares = pd.read_csv(folder / "some/shares.csv").set_index("component")
    assert set(shares.index) == set(test.index)
    assert set(pd.read_csv(folder / "some/input_representation.csv")["component"]) == {
        REFERENCE,
        "knn-ffn-ip-exact-real",
    }
    step("none", SETTINGS | {"hypotheses": {}}, facts=())
    for table in ("verdicts", "facts"):
        assert len((folder / f"none/{table}.csv").read_text().splitlines()) == 1
    assert "No hypothesis" in (folder / "none/verdicts.txt").read_text()


def save_known(path, array):
    save_array(path, array)
    known(path)


def save_base(folder, log_p, checkpoint="abc"):
    """Write the base LM as a component anew, with this log p of test."""
    columns = {"valid": load_array(folder / "base.valid.npy"), "test": [log_p]}
    save_components(
        folder / "base.json",
        [BASE],
        {split: [np.array(column) for column in columns[split]] for split in columns},
        checkpoint,
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: save_base(folder, np.zeros(7)), "base.test.npy: has shape (1, 7), expected (1, 500)"),
        (lambda folder: save_base(folder, np.full(500, np.nan)), "component base, test: not log-probabilities"),
        (
            lambda folder: save_base(folder, np.zeros(500), "another"),
            "knn.json: checkpoint is 'abc', but 'another' is needed here",
        ),
        (
            lambda folder: save_array(folder / "base.test.npy", np.zeros((1, 500), np.float32)),
            "base.test.npy: not as it was when base.json was written",
        ),
        (
            lambda folder: save_known(folder / "documents-test.npy", np.array([0, 50])),
            "documents-test.npy: document offsets",
        ),
        (
            lambda folder: save_known(folder / "continuation.npy", np.zeros(5, bool)),
            "tokens-valid.npy: holds ids beyond",
        ),
        (
            lambda folder: (folder / "loss.csv").write_text("update,loss\n1,2\n"),
            "loss.csv: has the columns update, loss",
        ),
        (
            lambda folder: (folder / "base.json").write_text('[{"component": "other"}]'),
            "base.json: not a readable manifest",
        ),
        (lambda folder: (folder / "b.temperature.csv").write_text(""), "b.temperature.csv: not a readable table"),
        (
            lambda folder: (folder / "padding.facts.csv").write_text("component,value\n"),
            "padding.facts.csv: has the columns component, value",
        ),
    ],
)
def test_the_step_names_a_damaged_file_and_writes_nothing(folder, damage, message):
    damage(folder)
    with pytest.raises(KnnlmError, match=re.escape(message)):
        step("tables")
    assert not (folder / "tables").exists()
