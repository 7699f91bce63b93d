"""The workflow in a folder of its own, as a user has it after cloning."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Project:
    """A copy of the workflow in `folder`; calling it runs Snakemake there."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("workflow", "config", "envs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "README.md"):
            shutil.copy(ROOT / name, folder)

    def __call__(self, *words: str, config: str = "config/tiny.yaml", check: bool = True) -> subprocess.CompletedProcess:
        """Run `snakemake` with the given words and return what it did, output and errors together in `stdout`."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [sys.executable, "-m", "snakemake", *words, "--workflow-profile", "workflow/profiles/local", "--configfile", config]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def jobs(self, *words: str, config: str = "config/tiny.yaml") -> set[str]:
        """Return the jobs that would run, each as its rule and the values of its wildcards; targets, which do nothing themselves, are left out."""
        blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", self("-n", *words, config=config).stdout, flags=re.MULTILINE)
        found = set()
        for rule, facts in blocks:
            wildcards = re.search(r"^    wildcards: (.*)$", facts, flags=re.MULTILINE)
            found.add(" ".join([rule, *re.findall(r"\w+=([^,]+)", wildcards[1] if wildcards else "")]))
        return found - {"all", "hypotheses"}

    def copied(self, folder: Path) -> "Project":
        """Return a copy of the project in another folder, times of files and all."""
        project = copy.copy(self)
        project.folder = folder
        shutil.copytree(self.folder, folder, symlinks=True)
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
    project("hypotheses")
    return project
