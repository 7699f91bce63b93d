"""The environments agree with each other and with what is installed."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENTS = ROOT / "envs"
LOCK = ENVIRONMENTS / "cpu.lock"


def parsed(lines: list[str]) -> tuple[dict[str, Requirement], list[str]]:
    """Return the requirements by name and the lines that are options of pip."""
    lines = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    requirements = [Requirement(line) for line in lines if not line.startswith("-")]
    assert len({requirement.name for requirement in requirements}) == len(requirements)
    return {requirement.name: requirement for requirement in requirements}, [
        line for line in lines if line.startswith("-")
    ]


def pip_file(name: str) -> tuple[dict[str, Requirement], list[str]]:
    return parsed((ENVIRONMENTS / name).read_text().splitlines())


def conda_file(name: str) -> dict:
    return yaml.safe_load((ENVIRONMENTS / name).read_text())


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "development.txt"])
def test_every_requirement_is_pinned_to_one_version(name):
    requirements, _ = pip_file(name)
    assert requirements
    for requirement in requirements.values():
        assert re.fullmatch(r"==\d+(\.\d+)+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_conda_lists_exactly_what_pip_installs(kind):
    dependencies = conda_file(f"{kind}.yaml")["dependencies"]
    (pip,) = [dependency["pip"] for dependency in dependencies if isinstance(dependency, dict)]
    assert parsed(pip) == pip_file(f"{kind}.txt")
    assert "pip" in dependencies


def test_conda_python_is_one_the_project_allows():
    allowed = Requirement(
        f"python{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['requires-python']}"
    ).specifier
    for kind in ("cpu", "gpu"):
        (python,) = [line for line in conda_file(f"{kind}.yaml")["dependencies"] if str(line).startswith("python=")]
        assert allowed.contains(python.removeprefix("python="))


def test_gpu_differs_from_cpu_in_faiss_alone():
    (cpu, cpu_options), (gpu, gpu_options) = pip_file("cpu.txt"), pip_file("gpu.txt")
    assert cpu.pop("faiss-cpu").specifier == gpu.pop("faiss-gpu").specifier
    assert cpu == gpu
    assert cpu_options == []  # pyproject.toml reads this file, and reading it allows no options
    assert gpu_options == []  # PyPI alone has all of it


def test_development_builds_on_the_cpu_environment():
    development, options = pip_file("development.txt")
    assert options == ["-r cpu.txt"]
    assert not development.keys() & pip_file("cpu.txt")[0].keys()
    assert {"pytest", "hypothesis", "ruff", "snakefmt"} <= development.keys()


def locked() -> dict[str, list[Requirement]]:
    """Return the requirements of the lock by name: one, or one for each Python."""
    found: dict[str, list[Requirement]] = {}
    for entry in re.split(r"\n(?=[a-z])", "\n" + LOCK.read_text(encoding="utf-8"))[1:]:
        text, *hashes = entry.replace("\\", " ").split("--hash=")
        requirement = Requirement(text.strip())
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", hash) for hash in hashes), requirement
        found.setdefault(requirement.name, []).append(requirement)
    return found


def test_the_lock_has_every_pin_but_torch_and_no_package_that_only_torch_needs():
    pins = pip_file("cpu.txt")[0] | pip_file("development.txt")[0]
    lock = locked()
    assert pins.keys() - lock.keys() == {"torch"}, "run `make lock`"
    for name, requirement in pins.items():
        if name != "torch":
            assert [locked.specifier for locked in lock[name]] == [requirement.specifier], "run `make lock`"
    assert not [name for name in lock if re.match(r"nvidia-|cuda-|triton$", name)]


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0"])
def test_the_lock_names_one_version_of_each_package_for_each_python(python):
    environment = {"python_version": python[:4], "python_full_version": python, "sys_platform": "linux"}
    for name, requirements in locked().items():
        here = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
        elsewhere = {"colorama", "pyreadline3", "httpx2-jsfetch"}  # what other systems than Linux need
        assert len(here) == 1 or (not here and name in elsewhere), name
        assert all(re.fullmatch(r"==[\w.]+", str(requirement.specifier)) for requirement in here)


def test_the_lock_has_what_its_packages_need():
    """Their metadata says so, for this Python; what torch needs comes with torch."""
    lock, pending, seen = locked(), sorted(pip_file("cpu.txt")[0] | pip_file("development.txt")[0]), {"torch"}
    while pending:
        name = pending.pop()
        if name in seen or (name == "faiss-cpu" and not is_installed(name)):
            continue
        seen.add(name)
        for requirement in map(Requirement, requires(name) or []):
            wanted = canonicalize_name(requirement.name)
            if wanted == "torch" or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            versions = [str(entry.specifier).removeprefix("==") for entry in lock.get(wanted, [])]
            assert any(requirement.specifier.contains(version) for version in versions), f"{name} needs {requirement}"
            pending.append(wanted)


def is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize(
    "requirement",
    [r for name in ("cpu.txt", "development.txt") for r in pip_file(name)[0].values()],
    ids=lambda r: r.name,
)
def test_installed_version_is_the_pinned_one(requirement):
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        if requirement.name != "faiss-cpu":
            raise
        pytest.skip(f"faiss-gpu {version('faiss-gpu')} is installed instead")  # fails where neither is
    assert requirement.specifier.contains(Version(installed).public)


def test_project_metadata_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert f"\n## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "MIT License" in (ROOT / "LICENSE").read_text()


def test_nothing_outside_the_library_is_imported_without_being_pinned():
    """Every distribution that the library imports is listed in cpu.txt."""
    names = {"faiss": "faiss-cpu", "fairseq": "ve-fairseq", "fairseq_cli": "ve-fairseq", "yaml": "pyyaml"}
    imported = set()
    for path in (ROOT / "workflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names_here = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported |= {
                name.split(".")[0] for name in names_here + ([node.module] if isinstance(node, ast.ImportFrom) else [])
            }
    third_party = imported - set(sys.stdlib_module_names) - {"knnlm", "fairseq_plugin"}
    assert {names.get(name, name) for name in third_party} <= pip_file("cpu.txt")[0].keys()
