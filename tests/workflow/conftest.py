"""The workflow in a folder of its own, as a user has it after cloning."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]


class Project:
    """A copy of the workflow in `folder`; calling it runs Snakemake there."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("workflow", "config", "envs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Snakefile", folder)

    def call(self, words: tuple[str, ...], config: str) -> dict:
        """Return the arguments with which `subprocess` runs Snakemake, output and errors together."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [
            sys.executable,
            "-m",
            "snakemake",
            *words,
            "--workflow-profile",
            "workflow/profiles/local",
            "--configfile",
            config,
        ]
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
        """Return the jobs that would run, each as its rule and the values of its wildcards; targets, which do nothing themselves, are left out."""
        jobs = []
        for line in self("-n", *words, config=config).stdout.splitlines():  # jobs of a group are indented
            if rule := re.match(r" *(?:local)?rule (\w+):$", line):
                jobs.append([rule[1]])
            elif wildcards := re.match(r" +wildcards: (.*)$", line):
                jobs[-1] += [value.partition("=")[2] for value in wildcards[1].split(", ")]
        return {" ".join(job) for job in jobs} - {"all", "hypotheses"}

    def copied(self, folder: Path, *without: str) -> "Project":
        """Return a copy of the project in another folder, times of files and all, but for names that are left out."""
        project = copy.copy(self)
        project.folder = folder
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(*without))
        return project

    def tables(self) -> dict[str, bytes]:
        """Return the tables that a run has made, by name."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / "results/tiny/tables").glob("*.csv"))}


@pytest.fixture(scope="session")
def new_project(tmp_path_factory):
    """Return a function that makes a fresh project."""
    return lambda name: Project(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def finished(new_project):
    """Return a project in which `tiny` has run from raw text to the verdict of every hypothesis."""
    project = new_project("finished")
    before = os.umask(0)  # as a shell that protects nothing; test_safety.py looks at what was written
    try:
        project("hypotheses")
    finally:
        os.umask(before)
    return project
