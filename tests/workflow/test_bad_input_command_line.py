"""Bad input through Snakemake itself: one sentence names what is wrong, and nothing is left behind."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("bad")


def refusal(project, *words: str) -> list[str]:
    """Start Snakemake as a user does and return the lines of what it says; it must fail and write nothing."""
    command = [sys.executable, "-m", "snakemake", *words]
    done = subprocess.run(
        command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
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
        (
            ["-n", "--config", "name=a; touch pwned"],
            "Error: config key name: 'a; touch pwned' has characters that are not allowed",
        ),
        (
            ["-n", "--config", "corpus={wikitext103: {url: https://localhost/}}"],
            "Error: config key corpus.wikitext103.url: not a known key; did you mean corpus.wikitext103.urls.",
        ),
        (
            ["-n", "--config", "corpus={source: wikitext103, wikitext103: {file: no.zip}}"],
            "Error: config key corpus.wikitext103.file: 'no.zip' is not a file that can be read (No such file",
        ),
        (["-n", "results/demo/hypotheses/nothing.json"], "No rule to produce results/demo/hypotheses/nothing.json"),
        (["-n", "results/demo/datastore/chunk-7/att.npy"], "No rule to produce results/demo/datastore/chunk-7/att.npy"),
        ([], "Error: cores have to be specified"),
    ],
)
def test_a_bad_command_line(project, words, said):
    assert refusal(project, *words)[-1].startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--configfile", "config/tiny.yaml", "hypotheses"],
            "FileNotFoundError: [Errno 2] No such file or directory: 'hypotheses'",
        ),  # a target behind it
        (["--configfile", "config"], "IsADirectoryError: [Errno 21] Is a directory: 'config'"),
        (["--configfile", "latin.yaml"], "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9"),
        (
            ["--config", "name"],
            "ValueError: Invalid config definition: Config entries have to be defined as name=value pairs. "
            "(Unparsable value: 'name')",
        ),
        (
            ["--groups", "x"],
            "ValueError: Invalid groups definition: entries have to be defined as RULE=GROUP pairs "
            "(Unparsable value: 'x')",
        ),
        (["--resources", "gpu"], "ValueError: dictionary update sequence element #0 has length 1"),
        (["--set-resources", "train_lm"], "ValueError: not enough values to unpack"),
    ],
)
def test_what_snakemake_refuses_before_it_reads_the_workflow_ends_in_a_traceback(project, words, said):
    """No workflow can prevent that. Where a later Snakemake says one sentence, these cases move up."""
    (project.folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert traceback_of(project, *words)[-1].startswith(said)


def test_a_home_folder_that_cannot_be_made_ends_in_a_traceback_and_another_cache_helps(project, monkeypatch):
    """Snakemake keeps the files of workflows in the user's cache, and makes that before it reads the workflow."""
    monkeypatch.setenv("HOME", "/proc/none")
    assert traceback_of(project)[-1] == "FileNotFoundError: [Errno 2] No such file or directory: '/proc/none'"
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.folder / "cache"))
    assert refusal(project, "-n", "--config", "retrival=1")[-1].startswith("Error: config key retrival")


def traceback_of(project, *words: str) -> list[str]:
    """Try a start that Snakemake itself refuses, and return the lines of what it says."""
    command = [sys.executable, "-m", "snakemake", "-n", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=project.folder, check=False, **streams)
    assert done.returncode == 1
    assert not (project.folder / "results").exists()
    return done.stdout.rstrip().splitlines()
