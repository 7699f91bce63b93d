"""The workflow in a folder of its own, as a user has it after cloning."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of a release, unless `-m` names them."""
    if "release" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("release")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def cloned(folder: Path) -> "Project":
    """Copy the workflow into a folder, as a clone has it."""
    for name in ("workflow", "config", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    return Project(folder)


@dataclass
class Project:
    """A workflow in a folder of its own; calling it runs Snakemake there."""

    folder: Path

    def call(self, words: tuple[str, ...], config: str) -> dict:
        """Return the arguments with which `subprocess` runs Snakemake, output and errors together."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        files = ["--workflow-profile", "workflow/profiles/local", "--configfile", config]
        command = [sys.executable, "-m", "snakemake", *words, *files]
        return {
            "args": command,
            "cwd": self.folder,
            "env": os.environ | {"PATH": path},
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def __call__(
        self, *words: str, config: str = "config/tiny.yaml", check: bool = True
    ) -> subprocess.CompletedProcess:
        """Run `snakemake` with the given words and return what it did, output and errors together in `stdout`."""
        done = subprocess.run(**self.call(words, config), stdout=subprocess.PIPE, check=False)
        assert not check or done.returncode == 0, done.stdout
        return done

    def start(self, *words: str, output: IO[str], config: str = "config/tiny.yaml") -> subprocess.Popen:
        """Start `snakemake` in a process group of its own."""
        heed_ctrl_c = partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        )  # a shell's background jobs, pytest may be one, ignore it
        return subprocess.Popen(
            **self.call(words, config), stdout=output, start_new_session=True, preexec_fn=heed_ctrl_c
        )

    def jobs(self, *words: str, config: str = "config/tiny.yaml") -> set[str]:
        """Return the jobs that would run, as rule and values of wildcards, without targets: they do nothing."""
        jobs = []
        for line in self("-n", *words, config=config).stdout.splitlines():  # jobs of a group are indented
            if rule := re.match(r" *(?:local)?rule (\w+):$", line):
                jobs.append([rule[1]])
            elif wildcards := re.match(r" +wildcards: (.*)$", line):
                jobs[-1] += [value.partition("=")[2] for value in wildcards[1].split(", ")]
        return {" ".join(job) for job in jobs} - {"all", "hypotheses"}

    def copied(self, folder: Path, *without: str) -> "Project":
        """Return a copy of the project in another folder, times of files and all, without these names in results."""

        def left_out(place: str, names: list[str]) -> set[str]:
            return set(names) & set(without) if Path(place).is_relative_to(self.folder / "results") else set()

        shutil.copytree(self.folder, folder, symlinks=True, ignore=left_out)
        return Project(folder)

    def tables(self) -> dict[str, bytes]:
        """Return the tables that a run has made, by name."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / "results/tiny/tables").glob("*.csv"))}


@pytest.fixture(scope="session")
def new_project(tmp_path_factory):
    """Return a function that makes a fresh project."""
    return lambda name: cloned(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def finished(new_project, tmp_path_factory):
    """Return a project in which `tiny` has run from raw text to the verdict of every hypothesis.

    It is made once. Where pytest has several workers, each has a copy of its own, into which its tests may write.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_whole(new_project("finished"))
    made = tmp_path_factory.getbasetemp().parent / "finished"  # the folder above is that of all workers
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            run_whole(new_project("finished")).folder.rename(made)
    return Project(made).copied(tmp_path_factory.mktemp("copy") / "project")


def run_whole(project: Project) -> Project:
    """Run all of `tiny`, as in a shell that protects nothing; test_safety.py looks at what was written."""
    before = os.umask(0)
    try:
        project("hypotheses")
    finally:
        os.umask(before)
    return project
