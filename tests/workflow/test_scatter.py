"""A search that is divided into blocks of queries, through the rules: the same files as one job wrote, and no trace of the blocks."""

import copy
import re
import shutil

import pytest

pytestmark = pytest.mark.slow


def test_two_jobs_find_the_neighbours_that_one_found(finished, tmp_path):
    project = copy.copy(finished)
    project.folder = tmp_path / "project"
    shutil.copytree(finished.folder, project.folder, symlinks=True)
    overlay = (project.folder / "config/tiny.yaml").read_text()
    (project.folder / "config/blocks.yaml").write_text(f"{overlay}\nresources: {{query_blocks: 2}}\n")
    folder = project.folder / "results/tiny/neighbours/att-l2-exact"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = project("results/tiny/neighbours/att-l2-exact/manifest.json", config="config/blocks.yaml").stdout
    assert sorted(re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE)) == ["join_exact", "retrieve_exact", "retrieve_exact"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
