"""A disk that gets full while a job writes: one sentence and nothing half-written.

After room has been made, the same command goes on.
"""

import re
import subprocess

import pytest

pytestmark = pytest.mark.slow

RUN = "results/tiny"
DATASTORE = [
    f"{RUN}/datastore/chunk-0/{name}" for name in ("att.npy", "ffn.npy", "values.npy", "positions.npy", "manifest.json")
]
INDEX = [f"{RUN}/index/att-l2/chunk-0.{kind}" for kind in ("faiss", "json")]


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, free):
    """Fill a file system but for so many bytes, and return the file that does."""
    filler = folder / "filler"
    with open(filler, "wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    with open(filler, "r+b") as file:
        file.truncate(filler.stat().st_size - free)
    return filler


@pytest.mark.parametrize(
    ("outputs", "full"), [(DATASTORE, "ffn.npy"), (INDEX, "chunk-0.faiss")], ids=["extraction", "index filling"]
)
def test_a_full_disk_is_told_in_one_sentence_and_after_making_room_the_same_command_goes_on(
    outputs, full, small_disk, finished
):
    """Everything stands on that disk: results, logs and what Snakemake writes for itself."""
    project = finished.copied(small_disk / "project", "neighbours", "report.html")
    sizes = [(finished.folder / path).stat().st_size for path in outputs]
    for path in outputs:
        (project.folder / path).unlink()
    (number,) = (number for number, path in enumerate(outputs) if path.endswith(full))
    filler = fill(small_disk, sum(sizes[:number]) + sizes[number] // 2)
    before = {path for path in project.folder.rglob("*") if RUN in str(path)}
    done = project(outputs[-1], check=False)
    assert done.returncode != 0
    told = [line for line in done.stdout.splitlines() if "No space left" in line]
    (sentence,) = set(re.findall(r"Error: .*", "\n".join(told)))
    advice = "make room on that disk, then run the same command again"
    assert sentence == f"Error: {outputs[number]}: No space left on device; {advice}."
    assert "Traceback" not in done.stdout
    after = {path for path in project.folder.rglob("*") if RUN in str(path) and path.suffix != ".checked"}
    assert after - before <= {project.folder / RUN / ".lock"}
    filler.unlink()
    project(outputs[-1])
    for path in outputs:
        assert (project.folder / path).read_bytes() == (finished.folder / path).read_bytes()
