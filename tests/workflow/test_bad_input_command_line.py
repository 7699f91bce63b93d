"""Bad input through Snakemake itself: a start ends in one sentence that names what is wrong, without a traceback, and leaves nothing behind."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("bad")


def refusal(project, *words: str) -> list[str]:
    """Start Snakemake as a user does and return the lines of what it says; it must fail and write nothing."""
    command = [sys.executable, "-m", "snakemake", *words]
    done = subprocess.run(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "results").exists()
    assert not list(project.folder.rglob("pwned"))
    return done.stdout.splitlines()


def test_an_overlay_that_says_a_thing_twice(project):
    (project.folder / "config/mine.yaml").write_text("name: mine\nretrieval:\n  k: 5\n  k: 6\n")
    said = refusal(project, "-n", "--configfile", "config/mine.yaml")
    assert said == ["Error: config/mine.yaml: the key retrieval.k stands twice, in lines 3 and 4; remove one."]


def test_code_in_an_overlay_is_not_run(project):
    """The sentence is Snakemake's own, because it reads overlays before the workflow."""
    (project.folder / "config/mine.yaml").write_text("name: !!python/object/apply:os.system ['touch pwned']\n")
    first, second = refusal(project, "-n", "--configfile", "config/mine.yaml")
    assert first == "WorkflowError:"
    assert second.startswith("Config file is not valid")


def test_a_file_of_the_workflow_s_own_that_is_not_yaml(new_project):
    project = new_project("own")
    (project.folder / "config/config.yaml").write_text("name: demo\n\tseed: 1\n")
    assert refusal(project, "-n")[-1].startswith("Error: config/config.yaml: not YAML at line 2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "--config", "name=a; touch pwned"], "Error: config key name: 'a; touch pwned' has characters that are not allowed"),
        (["-n", "results/demo/hypotheses/nothing.json"], "No rule to produce results/demo/hypotheses/nothing.json"),
        (["-n", "results/demo/datastore/chunk-7/att.npy"], "No rule to produce results/demo/datastore/chunk-7/att.npy"),
        ([], "Error: cores have to be specified"),
    ],
)
def test_a_bad_command_line(project, words, said):
    assert refusal(project, *words)[-1].startswith(said)


def test_a_target_behind_configfile_is_named_in_the_last_line(project):
    """Snakemake takes it for another configfile, and reads those before the workflow: it shows a traceback that no workflow can prevent."""
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "config/tiny.yaml", "hypotheses"]
    done = subprocess.run(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.rstrip().splitlines()[-1] == "FileNotFoundError: [Errno 2] No such file or directory: 'hypotheses'"
    assert not (project.folder / "results").exists()
