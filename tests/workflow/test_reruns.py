"""Which jobs run again after a change: the table of docs/reruns.md, on the finished `tiny`."""

import itertools
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from knnlm.config.text_limits import CHECKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / "config/hypotheses.yaml").read_text())["hypotheses"]
WITH_STEP = {name for name, entry in ENTRIES.items() if "family" in entry}
RETRIEVALS = [f"{h} {metric}" for h, metric in itertools.product(["att", "ffn"], ["l2", "ip"])]
CHUNKS = ["0", "1"]

FIGURES = [
    "components",
    "datastore_size",
    "temperature",
    "lambda",
    "loss",
    "verdicts",
    "explanations",
    "remaining",
    "parameters",
    "helped_tokens",
    "indexes",
]
PLOTS = {f"plot_{figure}" for figure in FIGURES} | {f"plot_hypothesis {name}" for name in WITH_STEP}
PLOTS |= {f"front_picture {picture}" for picture in ("remaining", "explanations", "verdicts")}
TABLES = {"tables"} | PLOTS
CORPUS = {"bpe", "binarise"} | {f"check_size {stage}" for stage in CHECKS}
LM = {"train_lm", "evaluation_states"}
STORE = {f"datastore_chunk {chunk}" for chunk in CHUNKS}
INDEX = {f"train_index {retrieval}" for retrieval in RETRIEVALS} | {
    f"fill_index {of} {chunk}" for of in RETRIEVALS for chunk in CHUNKS
}


def searched(search: str) -> set[str]:
    return {job for of in RETRIEVALS for job in (f"retrieve_{search} {of}", f"knn_components {of} {search}")}


def hypotheses(*names: str) -> set[str]:
    """Return the jobs of hypotheses; those of soft labels read temporary neighbours of training positions."""
    neighbours = {f"training_neighbours soft-labels {chunk}" for chunk in CHUNKS} if "soft-labels" in names else set()
    return {f"hypothesis {name}" for name in names} | neighbours


# Those that read the kNN components: the mixture of two metrics, stolen tokens, weights of helped tokens, and the LMs
# that are compared with the kNN or learn from it.
ON_COMPONENTS = hypotheses(
    "ensembling", "stolen-probabilities", "loss-weighting", "memorisation", "soft-labels", "second-seed-and-knn"
)
ON_NEIGHBOURS = hypotheses("approximate-search", "neighbours", "padding")
ON_TEMPERATURE = ON_NEIGHBOURS | hypotheses("clustering")
OF_BASE_LM = hypotheses("base-temperature")  # tuned on the same grid, from states alone
EXACT, APPROXIMATE = searched("exact"), searched("approximate")
COMPONENTS = {job for job in EXACT | APPROXIMATE if job.startswith("knn_components")}


@pytest.fixture
def project(finished, tmp_path):
    project = finished.copied(tmp_path / "project")
    yield project
    shutil.rmtree(project.folder)


def changed(project, old: str, new: str) -> str:
    """Write `tiny` with one change into an overlay and return its path."""
    text = (project.folder / "config/tiny.yaml").read_text()
    assert text.count(old) == 1
    (project.folder / "config/changed.yaml").write_text(text.replace(old, new))
    return "config/changed.yaml"


def test_touching_every_file_reruns_nothing(project):
    for path in sorted(
        project.folder.rglob("*")
    ):  # in this order, components look older than the neighbours they were made from
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    # Arrays are larger than this, as in a real run they are larger than the files that the profile compares by content:
    # their manifests stand for them.
    assert project.jobs("--max-checksum-file-size", "60000") == set()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert project.jobs() == set()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    )  # seconds, however busy the machine is


def test_editing_the_plotting_module_redraws_the_figures(project):
    with open(project.folder / "workflow/knnlm/figures/plots.py", "a") as module:
        module.write("\n# Edited.\n")
    assert project.jobs() == PLOTS


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("figures: {dpi: 80}", "figures: {dpi: 90}", PLOTS, id="dpi"),
        pytest.param("resamples: 1000", "resamples: 999", TABLES, id="resamples"),
        pytest.param("block: 50", "block: 60", TABLES, id="block"),
        pytest.param("resamples: 1000}", "resamples: 1000}\nverdict: {explains: 0.4}", TABLES, id="verdict"),
        pytest.param(
            "30.0, 100.0]",
            "30.0, 99.0]",
            COMPONENTS | ON_TEMPERATURE | OF_BASE_LM | ON_COMPONENTS | TABLES | {"helped_tokens"},
            id="temperature grid",
        ),
        pytest.param(
            "retrieval: {k: 64}",
            "retrieval: {k: 63}",
            {"check_size retrieval"} | EXACT | APPROXIMATE | ON_NEIGHBOURS | ON_COMPONENTS | TABLES | {"helped_tokens"},
            id="k",
        ),
        pytest.param(
            "training_rows: 4000, nprobe: 4}",
            "training_rows: 4000, nprobe: 5}",
            APPROXIMATE | ON_NEIGHBOURS | ON_COMPONENTS | TABLES,
            id="nprobe",
        ),
        pytest.param(
            "tokens_per_sample: 64",
            "tokens_per_sample: 66",
            {"check_size training"}
            | LM
            | STORE
            | INDEX
            | EXACT
            | APPROXIMATE
            | hypotheses(*WITH_STEP)
            | TABLES
            | {"helped_tokens"},
            id="samples of the LM",
        ),
        pytest.param(
            "bpe_merges: 500",
            "bpe_merges: 501",
            CORPUS | LM | STORE | INDEX | EXACT | APPROXIMATE | hypotheses(*WITH_STEP) | TABLES | {"helped_tokens"},
            id="BPE size",
        ),
        pytest.param(
            "  bpe_merges: 500",
            "  bpe_merges: 500\n  token_counts: {train: 34000, valid: 7000, test: 6000}",
            set(),
            id="counts that are given afterwards",
        ),
        pytest.param(
            "\nhypotheses:\n",
            '\nhypotheses:\n  pair: {family: sparsification, question: "Are two words enough?", paper: silent, '
            "settings: {k: [2]}}\n",
            hypotheses("pair") | TABLES | {"plot_hypothesis pair"},
            id="new hypothesis",
        ),
    ],
)
def test_a_change_of_config_reruns_what_depends_on_it(finished, old, new, expected):
    assert finished.jobs(config=changed(finished, old, new)) == expected


def test_another_order_of_keys_reruns_nothing(finished):
    def reversed_keys(part):
        return {key: reversed_keys(value) for key, value in reversed(part.items())} if isinstance(part, dict) else part

    overlay = reversed_keys(yaml.safe_load((finished.folder / "config/tiny.yaml").read_text()))
    (finished.folder / "config/changed.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False))
    assert finished.jobs(config="config/changed.yaml") == set()


def test_a_deleted_figure_is_drawn_again(project):
    (project.folder / "results/tiny/figures/lambda.png").unlink()
    assert project.jobs() == {"plot_lambda"}


def test_a_deleted_chunk_is_made_again_with_all_that_reads_it_or_by_its_name_alone(project):
    chunk = project.folder / "results/tiny/datastore/chunk-1"
    before = {path.name: np.load(path) for path in chunk.glob("*.npy")}
    shutil.rmtree(chunk)
    without_store = hypotheses("second-seed", "sparsification") | OF_BASE_LM
    below = INDEX | EXACT | APPROXIMATE | (hypotheses(*WITH_STEP) - without_store) | TABLES | {"helped_tokens"}
    assert project.jobs() == {"datastore_chunk 1"} | below
    project("results/tiny/datastore/chunk-1/manifest.json")
    assert {path.name for path in chunk.glob("*.npy")} == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(np.load(chunk / name), array)
    assert project.jobs() == set()


@pytest.fixture
def clone(finished, new_project):
    """Return a project that has only the tables of `tiny`; as in a clone, every file is as old as the checkout."""
    project = new_project("clone")
    shutil.copytree(
        finished.folder / "results/tiny/tables", project.folder / "results/tiny/tables", copy_function=shutil.copyfile
    )
    return project


@pytest.mark.parametrize("newest", ["workflow", "results"])
def test_a_clone_with_tables_alone_plans_no_training(clone, newest):
    for path in (clone.folder / newest).rglob("*"):
        path.touch()
    assert clone.jobs("redraw") == {"redraw"}


def test_a_clone_with_tables_alone_draws_every_figure(clone, finished):
    clone("redraw")
    figures = {path.name: path.read_bytes() for path in (finished.folder / "results/tiny/figures").iterdir()}
    drawn = {path.name: path.read_bytes() for path in (clone.folder / "results/tiny/figures").iterdir()}
    assert drawn.keys() == figures.keys()
    assert [name for name in figures if drawn[name] != figures[name]] == []
    made = {path.name for path in (clone.folder / "results/tiny").iterdir()}
    assert made == {"tables", "figures", "logs", ".lock"}


def test_a_clone_of_this_repository_draws_every_figure_of_the_demo_and_trains_nothing(new_project):
    """The repository has only tables and figures in results/demo, of which the tables alone are taken."""
    project, committed = new_project("demo"), ROOT / "results/demo"
    made = project.folder / "results/demo"
    shutil.copytree(committed / "tables", made / "tables", copy_function=shutil.copyfile)
    output = project("redraw", config="config/config.yaml").stdout
    assert re.findall(r"^ *(?:local)?rule (\w+):$", output, flags=re.MULTILINE) == ["redraw"]
    assert {path.name for path in (made / "figures").iterdir()} == {
        path.name for path in (committed / "figures").iterdir()
    }
    assert {path.name for path in made.iterdir()} == {"tables", "figures", "logs", ".lock"}


def test_redraw_refuses_a_missing_table_and_draws_nothing(clone):
    (clone.folder / "results/tiny/tables/shares.csv").unlink()
    output = clone("redraw", check=False).stdout
    assert re.search(
        r"^Error: results/tiny/tables/shares\.csv: the table is missing, .*\.$", output, flags=re.MULTILINE
    )
    assert "Traceback" not in output
    assert not (clone.folder / "results/tiny/figures").exists()
