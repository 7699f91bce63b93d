"""The step that makes the tables of a run: what it writes, twice the same, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import BLOCK, CONTINUATION, FRACTIONS, OFFSETS, REFERENCE
from stores import known
from toy_components import ENTRY, RULE

from knnlm.analysis import findings
from knnlm.analysis.tables import LOSS_COLUMNS
from knnlm.components.catalogue import BASE, Component
from knnlm.components.columns import save_components
from knnlm.errors import KnnlmError
from knnlm.language_model.convergence import CONVERGENCE_COLUMNS
from knnlm.steps import tables as tables_step
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import write_manifest

ENTRY = ENTRY | {"question": "Do zero rows matter?", "paper": "silent", "against": "{main}"}
SETTINGS = {
    "seed": 1,
    "corpus": {"tokeniser": "moses"},
    "lm": {"training": {"patience": None}},
    "significance": {"block": BLOCK, "resamples": 400, "level": 0.9},
    "main": {"h": "att", "metric": "l2"},
    "fractions": FRACTIONS,
}
SETTINGS |= {"verdict": RULE, "hypotheses": {"padding": ENTRY, "not-run": ENTRY}}
TABLES = (
    "components", "temperature", "datastore_size", "lambda", "loss", "verdicts", "shares", "remaining",
    "input_representation", "facts", "indexes", "block_lengths", "convergence",
)  # fmt: skip
TEXTS = ("summary.txt", "verdicts.txt", "verdicts.rst", "convergence.rst", "intervals.rst")


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
        "50,1,valid,5.20,181.27,,\n100,2,valid,5.10,164.0,,\n150,3,valid,5.05,156.0,,\n"
    )
    (tmp_path / "padding.facts.csv").write_text(
        "hypothesis,component,quantity,value\npadding,padding-0.1,recall,0.50\npadding,,rows,7\n"
    )
    for number, rows in enumerate((100, 300)):
        norms = {"att": 4.0 + number, "ffn": 20.0}
        write_manifest(tmp_path / f"chunk-{number}.json", kind="datastore chunk", rows=rows, squared_norms=norms)
    return tmp_path


def step(output, settings=SETTINGS, facts=("padding.facts.csv",)):
    """Make the tables of the files in the current folder."""
    files = {
        "descriptions": ["base.json", "knn.json"],
        "tokens": ["tokens-valid.npy", "tokens-test.npy"],
        "documents": ["documents-valid.npy", "documents-test.npy"],
        "temperatures": ["a.temperature.csv", "b.temperature.csv"],
        "chunks": ["chunk-0.json", "chunk-1.json"],
        "facts": facts,
    }
    paths = {name: [Path(path) for path in of_name] for name, of_name in files.items()}
    tables_step.main(
        settings, **paths, continuation=Path("continuation.npy"), loss=Path("loss.csv"), folder=Path(output)
    )


def test_the_page_of_findings_is_made_of_the_tables_as_they_are(run, folder):
    """Its numbers are those of the tables, whatever columns these have by now."""
    step("results/sotu/tables")
    (verdict,) = pd.read_csv("results/sotu/tables/verdicts.csv").to_dict("records")
    left = pd.read_csv("results/sotu/tables/remaining.csv")
    page = findings.page(Path("results"))
    (row,) = [
        line for line in page.splitlines() if f"| `{verdict['component']}` |" in line and verdict["verdict"] in line
    ]
    assert f"| {verdict['reaches']:.0%} [".replace("%", " %").replace("-", "−") in row
    assert page.count("\n| sotu | `") == 1 + len(left)
    assert "unknown" not in page.partition("## All claims")[0].partition("| sotu |")[2]


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
    keys = (
        expected["h"].map({"att": 4.75, "ffn": 20.0}).where(expected["metric"].notna())
    )  # of chunks of 100 and 300 rows
    expected["temperature_per_squared_norm"] = expected["temperature"] / keys
    assert written["temperature_per_squared_norm"].notna().sum() > 0
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-9)
    assert written.loc[("knn-ffn-ip-exact-real", "test"), "temperature_status"] == "edge"
    assert (folder / "once/loss.csv").read_text() == (folder / "loss.csv").read_text()
    temperature = (folder / "once/temperature.csv").read_text()
    assert "0.10,valid,0.123456789012345,99.5\n" in temperature
    assert "test,0.2,inf\n" in temperature
    assert temperature.count("component") == 1
    assert (folder / "once/facts.csv").read_text() == (folder / "padding.facts.csv").read_text()


@pytest.mark.parametrize(
    ("patience", "losses", "state", "said"),
    [
        (None, (5.2, 5.1, 5.05), "still falling", "by 0.150 nats per BPE token over the last 3 validations of 150 upd"),
        (None, (5.2, 5.1, 5.1, 5.1), "converged", "by +0.000 nats"),
        (None, (5.2, 5.1, 5.15, 5.3), "rising", "The checkpoint of update 100 is used"),
        (2, (5.2, 5.1, 5.15, 5.3), "converged", "lowest at update 100, and training ended at update 200"),
        (None, (5.2,), "unknown", "fewer than 3 validations"),
    ],
)
def test_what_the_lm_has_reached_stands_beside_the_first_number(patience, losses, state, said, run, folder):
    rows = [f"{50 * place},{place},valid,{loss},1.0,,\n" for place, loss in enumerate(losses, 1)]
    (folder / "loss.csv").write_text(f"{','.join(LOSS_COLUMNS)}\n{''.join(rows)}")
    step("tables", SETTINGS | {"lm": {"training": {"patience": patience}}})
    (row,) = pd.read_csv(folder / "tables/convergence.csv").to_dict("records")
    assert list(row) == CONVERGENCE_COLUMNS
    assert (row["lm_state"], row["valid_loss"], row["last_update"]) == (state, min(losses), 50 * len(losses))
    first, verdicts = (folder / "tables/verdicts.rst").read_text().split(".. verdicts")
    told = [first.partition(".. list-table")[0], verdicts.partition(".. list-table")[0]]
    assert set(pd.read_csv(folder / "tables/verdicts.csv")["lm_state"]) == {state}
    for text in (
        *told,
        *((folder / "tables" / name).read_text() for name in ("summary.txt", "verdicts.txt", "convergence.rst")),
    ):
        assert said in " ".join(text.split())


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
            lambda folder: (folder / "loss.csv").write_text(f"{','.join(LOSS_COLUMNS)}\n50,1,train,5,148,,\n"),
            "loss.csv: no validation stands in the loss curve",
        ),
        (
            lambda folder: (folder / "loss.csv").write_text(f"{','.join(LOSS_COLUMNS)}\n50,1,valid,x,148,,\n"),
            "loss.csv: not a readable table",
        ),
        (
            lambda folder: (folder / "base.json").write_text('[{"component": "other"}]'),
            "base.json: not a readable manifest",
        ),
        (
            lambda folder: write_manifest(folder / "chunk-1.json", kind="datastore chunk", rows=300),
            "chunk-1.json: has no norms of its keys",
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
