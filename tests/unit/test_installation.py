"""How the environment is made: a half-made one again, its own pip alone; image and GitHub use the same commands."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)[1].split())


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile, an environment of one small package, and a `pip` that must not be called."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "")
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("small-1.0.dist-info/RECORD", "")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/cpu.lock").write_text(f"./{wheel.name} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
    for name in ("cpu.txt", "development.txt"):
        (tmp_path / "envs" / name).write_text(f"./{wheel.name}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pip").write_text("#!/bin/sh\ntouch called\nexit 1\n")
    (tmp_path / "bin/pip").chmod(0o755)
    return tmp_path


def install(project: Path) -> str:
    command = ["make", "install", f"PYTHON={sys.executable}"]
    path = os.pathsep.join([str(project / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (project / "called").exists()
    return done.stdout


def test_an_environment_without_pip_is_made_again(project):
    """Debian leaves such a one where python3-venv is missing; after its installation the same command must do."""
    python = project / ".venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    install(project)
    subprocess.run([python, "-c", "import small"], check=True)
    assert "Nothing to be done" in install(project)
    for package in project.glob(".venv/lib/python*/site-packages/pip*"):
        shutil.rmtree(package)
    install(project)
    subprocess.run([python, "-m", "pip", "check"], check=True)


def test_pip_is_always_that_of_the_environment():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    for line in recipes:
        assert not re.search(r"(?<!-m )\bpip\d?\s+(install|--)", line.replace("uv pip", "")), line
    assert re.search(r"^PIP := \.venv/bin/python -m pip$", MAKEFILE, re.MULTILINE)


def test_the_lock_that_is_installed_exists():
    (lock,) = set(re.findall(r"--require-hashes --requirement (\S+)", MAKEFILE))
    assert (ROOT / lock).exists()


def test_the_image_is_made_of_files_that_exist_by_the_commands_of_the_makefile():
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    assert {"Makefile", "envs"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    commands = [line for line in lines if line.startswith(("RUN", "CMD"))]
    made = set(re.findall(r'make"?,? "?([a-z]+)', "\n".join(commands[1:])))
    assert made == {"install", "demo"}
    assert made <= TARGETS


def test_github_runs_the_test_command_on_every_python_that_the_project_allows():
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert 'requires-python = ">=3.11,<3.13"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_workflow_catalogue_finds_what_it_asks_for():
    """As its `generate-catalog.py` reads a repository: `usage` beside a config/README.md, rules that end in .smk."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage["report"] is True
    assert usage["software-stack-deployment"] == {"conda": True}
    assert (ROOT / "config/README.md").exists()
    assert (ROOT / "workflow/Snakefile").exists()
    assert all(path.suffix == ".smk" for path in (ROOT / "workflow/rules").iterdir() if path.is_file())
