"""The page of findings, by hand-made tables of runs; and the page in docs/ is that of the tables in git."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from knnlm.analysis import findings
from knnlm.errors import KnnlmError
from knnlm.steps import findings as step

ROOT = Path(__file__).parents[3]
BASE = {"component": "base", "split": "test", "words": 900.0, "documents": 60, "units": 60, "ppl": 200.0}
KNN = {"component": "knn-att-l2-exact-real", "split": "test", "rows": 5000, "ppl": 150.0, "gain": 50.0,
       "gain_low": 40.0, "gain_high": 60.0, "lambda": 0.25, "temperature": 12.0}  # fmt: skip
CLUSTERING = {
    "hypothesis": "clustering",
    "question": "Can a few?",
    "asks": "explanation",
    "component": "c-1",
    "gain": 30.0,
    "gain_low": 20.0,
    "gain_high": 45.0,
    "reaches": 0.6,
    "reaches_low": 0.4,
    "reaches_high": 0.9,
    "removes": 0.7,
    "removes_low": 0.55,
    "removes_high": 0.85,
    "verdict": "explains",
    "why": "",
    "note": "64 % of the rows",
    "paper": "refuted",
    "paper_reaches": 0.25,
    "agrees": "no",
}


def write(folder: Path, name: str, verdicts: list[dict], base: float = 200.0, **further: list[dict]) -> None:
    """Write the tables of a run whose base LM has a word perplexity."""
    (folder / name / "tables").mkdir(parents=True)
    valid = BASE | {"split": "valid", "ppl": 1.0}
    tables = {"components": [valid, BASE | {"ppl": base}, KNN | {"ppl": base - 50}], "verdicts": verdicts, **further}
    for table, rows in tables.items():
        pd.DataFrame(rows).to_csv(folder / name / "tables" / f"{table}.csv", index=False)


def cells(page: str, begin: str) -> list[list[str]]:
    """Return the cells of all lines of tables that begin with a text."""
    return [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith(f"| {begin} |")]


def test_two_texts_are_compared_claim_by_claim(tmp_path):
    write(tmp_path, "wiki", [CLUSTERING], convergence=[{"lm_state": "converged"}])
    contributes = {"verdict": "inconclusive", "why": "the interval does not tell", "agrees": "", "note": ""}
    temperature = {"hypothesis": "temperature", "question": "Matters it?", "paper": "supported", "agrees": "yes"}
    write(tmp_path, "sotu", [CLUSTERING | contributes, CLUSTERING | {"note": "", "verdict": "better"} | temperature])
    page = findings.page(tmp_path)
    sotu, wiki = (cells(page, name) for name in ("sotu", "wiki"))
    assert sotu[0][2:6] == ["5,000", "900", "60 documents", "200.00"]
    assert wiki[0][6:] == ["converged", "150.00", "50.00 [40.00, 60.00]", "25.0 %", "0.250", "12", "unknown"]
    assert sotu[0][6] == "unknown"
    assert cells(page, "[clustering](#clustering)") == [
        ["[clustering](#clustering)", "no, 25 %", "inconclusive, 60 % / 70 %", "**explains, 60 % / 70 %**"]
    ]
    assert cells(page, "[temperature](#temperature)")[0][-2:] == ["better, 60 % / 70 %", ""]
    assert wiki[1] == [
        "wiki",
        "`c-1`",
        "30.00 [20.00, 45.00]",
        "60 % [40 %, 90 %]",
        "70 % [55 %, 85 %]",
        "explains",
        "no",
    ]
    assert sotu[2][5:] == ["inconclusive (the interval does not tell)", ""]
    assert "The texts differ: *inconclusive* in sotu; *explains* in wiki." in page
    assert "wiki: 64 % of the rows\n" in page
    assert "- sotu: of 2 answers of the paper, those that hold: 1; that do not: 0; open: 1.\n" in page
    assert "ladder" not in page


def test_a_run_of_an_earlier_version_has_shares_and_nothing_removed(tmp_path):
    old = {name.replace("reaches", "share"): value for name, value in CLUSTERING.items() if "removes" not in name}
    old = {name: value for name, value in old.items() if name not in ("paper_share", "why", "note", "asks")}
    write(tmp_path, "sotu", [old])
    page = findings.page(tmp_path)
    assert cells(page, "sotu")[1][3:5] == ["60 % [40 %, 90 %]", ""]
    assert cells(page, "[clustering](#clustering)")[0][1:] == ["no", "**explains, 60 %**"]


def test_the_ladder_goes_from_the_weakest_lm_to_the_strongest(tmp_path):
    write(tmp_path, "sotu", [CLUSTERING])
    for name, base, reaches in (("b", 300.0, 0.1), ("c", 120.0, 0.8), ("a", 250.0, 0.5)):
        write(tmp_path, f"ladder-{name}", [CLUSTERING | {"reaches": reaches, "removes": None}], base)
    page = findings.page(tmp_path)
    assert [row[0] for name in "bac" for row in cells(page, name)] == ["b", "a", "c"]
    assert page.index("| b |") < page.index("| a |") < page.index("| c |")
    assert cells(page, "a")[0][-1] == "**explains, 50 %**"
    told = " ".join(page.split())
    assert "from a base LM of 300.0 to one of 120.0, what is reached goes from 10 % to 80 % (rank correlation" in told
    assert "with the perplexity −1.00)" in told
    assert "what is removed goes" not in told


def test_what_is_left_of_the_gain_is_a_table(tmp_path):
    left = {"component": "c-1", "ppl": 180.0, "remaining": 0.3, "remaining_low": -0.001, "remaining_high": 0.5}
    write(tmp_path, "demo", [CLUSTERING], remaining=[left])
    assert cells(findings.page(tmp_path), "demo")[2] == ["demo", "`c-1`", "180.00", "30 % [0 %, 50 %]"]


def test_a_question_that_the_template_does_not_know_stands_last(tmp_path):
    write(
        tmp_path, "sotu", [CLUSTERING | {"hypothesis": "mine", "paper": "silent", "question": "Is a | b?"}, CLUSTERING]
    )
    page = findings.page(tmp_path)
    assert page.index("### clustering") < page.index("### mine")
    assert "*Is a | b?*\n\nThe paper has no answer." in page


def test_missing_and_damaged_tables_are_told(tmp_path):
    with pytest.raises(KnnlmError, match="no run of demo, sotu, wiki has tables here"):
        findings.page(tmp_path)
    write(tmp_path, "sotu", [CLUSTERING])
    (tmp_path / "sotu/tables/components.csv").write_text("component,split\nbase,test\n")
    with pytest.raises(KnnlmError, match="there is no 'knn-att-l2-exact-real' in components"):
        findings.page(tmp_path)
    (tmp_path / "sotu/tables/components.csv").unlink()
    with pytest.raises(KnnlmError, match=r"sotu/tables/components\.csv: not a readable table"):
        step.main(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_the_page_is_that_of_the_tables_in_git(tmp_path):
    """Tables of a run that somebody has made here, and not committed, do not count."""
    command = ["git", "-C", str(ROOT), "ls-files", "results/*/tables/*.csv"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    step.main(tmp_path / "results", tmp_path / "findings.md")
    remedy = "run `snakemake findings --cores 1` and commit docs/findings.md"
    assert (tmp_path / "findings.md").read_text() == (ROOT / "docs/findings.md").read_text(), remedy
