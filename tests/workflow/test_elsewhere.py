"""The workflow used from a folder that is not its own: by its Snakefile's path, and as a module of another workflow."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "config/tiny.yaml"


def snakemake(folder: Path, *words: str, check: bool = True) -> str:
    """Run Snakemake in a folder and return what it says, output and errors together."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *words]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def using(
    folder: Path, *module: str, rules: str = "use rule * from knnlm", snakefile: Path = ROOT / "Snakefile"
) -> Path:
    """Write another workflow that uses this one, with these lines more in its `module`, and `tiny` as its config."""
    shutil.copy(TINY, folder / "mine.yaml")
    lines = [f'snakefile: "{snakefile}"', "config: config", *module]
    (folder / "Snakefile").write_text(
        'configfile: "mine.yaml"\n\nmodule knnlm:\n' + "".join(f"    {line}\n" for line in lines) + f"\n{rules}\n",
        encoding="utf-8",
    )
    return folder


def jobs_by_rule(said: str) -> dict[str, int]:
    """Return how many jobs of each rule a dry run has announced."""
    table = re.search(r"^Job stats:\n.*\n[- ]+\n((?:.+\n)+)", said, flags=re.MULTILINE)[1]
    return {rule: int(count) for rule, count in map(str.split, table.splitlines())}


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    """Return the jobs of a new run of `tiny`, which is started beside the Snakefile."""
    home = tmp_path_factory.mktemp("home")
    return jobs_by_rule(snakemake(home, "-n", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(TINY)))


def test_in_another_folder_the_workflow_s_own_config_is_found_and_one_that_is_there_wins(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.yaml").write_text("seed: 2\n", encoding="utf-8")
    words = ["-n", "--snakefile", str(ROOT / "Snakefile"), "--directory", "elsewhere", "--configfile", "mine.yaml"]
    said = snakemake(tmp_path, *words)
    assert "results/demo/lm/model.pt" in said
    (tmp_path / "elsewhere/config").mkdir()
    (tmp_path / "elsewhere/config/config.yaml").write_text("name: theirs\n", encoding="utf-8")
    assert "results/theirs/lm/model.pt" in snakemake(tmp_path, *words)
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} <= {"config", ".snakemake"}


def test_the_snakefile_that_the_workflow_catalogue_starts_makes_the_same(tmp_path, at_home):
    words = ["-n", "--snakefile", str(ROOT / "workflow/Snakefile"), "--configfile", str(TINY)]
    jobs = jobs_by_rule(snakemake(tmp_path, *words))
    assert jobs.pop("default") == at_home["all"] == 1
    assert jobs == {rule: count for rule, count in at_home.items() if rule != "all"}


def test_a_module_makes_what_the_workflow_makes(tmp_path, at_home):
    """The workflow's own files say what its config does not, here all questions; a config/ beside it is not read."""
    (using(tmp_path) / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("of_another_workflow: true\n", encoding="utf-8")
    assert jobs_by_rule(snakemake(tmp_path, "-n")) == at_home


def test_a_module_under_other_names_and_paths_for_several_seeds(tmp_path, at_home):
    """The other workflow's own target stays the default one, and the module's are there under their new names."""
    own = 'rule ours:\n    output: "ours"\n    shell: "touch {output}"\n'
    rules = f"{own}\nuse rule * from knnlm as knn_*"
    using(tmp_path, 'prefix: "below"', rules=rules, snakefile=ROOT / "workflow/Snakefile")
    with open(tmp_path / "mine.yaml", "a", encoding="utf-8") as config:
        config.write("\nseeds: [1, 2]\n")
    assert jobs_by_rule(snakemake(tmp_path, "-n")) == {"ours": 1, "total": 1}
    said = snakemake(tmp_path, "-n", "knn_all")
    jobs = jobs_by_rule(said)
    assert jobs["knn_seed_2_hypothesis"] == at_home["hypothesis"]
    assert jobs["knn_seed_tables"] == 1
    written = re.findall(r"^ +(?:output|log): (.*)$", said, flags=re.MULTILINE)
    assert all(path.startswith("below/results/tiny") for paths in written for path in paths.split(", "))


@pytest.mark.slow
def test_a_module_s_steps_run_and_leave_the_same_files(tmp_path, finished):
    rules = "use rule * from knnlm as knn_*"
    using(tmp_path, 'prefix: "below"', rules=rules, snakefile=ROOT / "workflow/Snakefile")
    wanted = ["results/tiny/corpus/tokens/manifest.json", "results/tiny/components/base.valid.npy"]
    snakemake(tmp_path, *(f"below/{path}" for path in wanted))
    for path in wanted:
        assert (tmp_path / "below" / path).read_bytes() == (finished.folder / path).read_bytes()
    assert "Nothing to be done" in snakemake(tmp_path, "-n", *(f"below/{path}" for path in wanted))
    assert {path.name for path in tmp_path.iterdir()} == {"Snakefile", "mine.yaml", "below", ".snakemake"}
