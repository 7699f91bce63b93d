"""The rules divide a search into blocks of queries: the files are those that one job writes, without trace of it."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_two_jobs_find_the_neighbours_that_one_found(finished, tmp_path):
    project = finished.copied(tmp_path / "project")
    overlay = (project.folder / "config/tiny.yaml").read_text()
    (project.folder / "config/blocks.yaml").write_text(f"{overlay}\nresources: {{query_blocks: 2}}\n")
    folders = [project.folder / f"results/tiny/neighbours/att-l2-{search}" for search in ("approximate", "exact")]
    before = contents(folders)
    assert {"test.real.npy", "test.ids.npy", "manifest.json"} <= before[folders[0]].keys()
    output = project(
        *(f"results/tiny/neighbours/{folder.name}/manifest.json" for folder in folders), config="config/blocks.yaml"
    ).stdout
    ran = sorted(re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE))
    assert ran == ["join_approximate", "join_exact", *["retrieve_approximate"] * 2, *["retrieve_exact"] * 2]
    assert contents(folders) == before


def contents(folders: list[Path]) -> dict[Path, dict[str, bytes]]:
    """Return what each folder holds, by names of files, but for the notes of those who have checked them."""
    return {
        folder: {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".checked"}
        for folder in folders
    }
