"""`snakemake performance`: from a fresh clone, without a run, to its tables, figures and section of the report."""

import csv

import pytest

GOALS_OF_EVERY_CONFIG = {0.85, 0.5, 1.5, 0.95, 0.3, 100.0, 50.0, 0.4, 1.0}
OPERATIONS = {
    *("training_flops", "states_flops", "exact_flops", "choosing_flops", "lookups", "real_score_bytes"),
    *("neighbour_terms", "head_flops", "disk_bytes", "threads"),
}


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_nothing_of_it_is_part_of_a_run(new_project):
    project = new_project("dry_performance")
    assert not {job for job in project.jobs() if "performance" in job or "scaling" in job}
    assert project.jobs("performance") == {"measure_performance", "plot_performance", "plot_scaling", "performance"}


@pytest.mark.slow
def test_every_stage_is_measured_without_a_run(new_project):
    project = new_project("performance")
    project("performance")
    results = project.folder / "results/tiny"
    performance = rows(results / "tables/performance.csv")
    assert {float(row["goal"]) for row in performance if row["goal"]} >= GOALS_OF_EVERY_CONFIG
    for row in performance:
        assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
        assert row["reached"] == ("" if not row["goal"] else str(float(row["ratio"]) >= float(row["goal"])).lower())
    assert {row["operation"] for row in rows(results / "tables/rates.csv")} == OPERATIONS
    assert all(float(row["rate"]) > 0 for row in rows(results / "tables/rates.csv"))
    assert {int(row["times"]) for row in rows(results / "tables/scaling.csv")} == {1, 2, 4, 8}
    assert {"processor", "threads", "torch"} <= {row["fact"] for row in rows(results / "tables/machine.csv")}
    assert {path.name for path in (results / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("performance", "scaling") for kind in ("png", "pdf")
    }
    assert sorted(path.name for path in results.iterdir() if not path.name.startswith(".")) == [
        "figures",
        "logs",
        "tables",
    ]
    assert not project.jobs("performance") - {"performance"}
    # of a finished run: the report's first page has both
    (results / "tables/verdicts.rst").write_text("None yet.\n\n.. verdicts\n\nNone yet.\n")
    (results / "report").mkdir()
    for picture in ("remaining", "explanations", "verdicts"):
        (results / f"report/{picture}_picture.rst").write_text("None yet.\n")
    project("performance", "--report", "performance.html")
    assert "as a share of what it is measured against" in (project.folder / "performance.html").read_text()
