"""Seals: any flipped bit and any cut of a file of ours is refused by name, or the content is what it was."""

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knnlm.datastore.index import load_index, save_index, train_index
from knnlm.errors import KnnlmError
from knnlm.language_model.transformer import read_model, save_model
from knnlm.storage.files import load_array, new_array, read_manifest, save_array, write_manifest
from knnlm.storage.seals import SIZE, seal, seal_of, verified

ARRAY = np.random.default_rng(1).standard_normal((13, 8)).astype(np.float16)


def flat(model: dict) -> tuple:
    weights = {name: weight.tolist() for name, weight in model["weights"].items()}
    return model["architecture"], model["tokens_per_sample"], model["pieces"], weights


def rows_of(index: faiss.Index) -> bytes:
    return faiss.serialize_index(index).tobytes()


READERS = {
    "array.npy": lambda path: load_array(path).tolist(),
    "pieces.npy": lambda path: load_array(path).tolist(),
    "trained.faiss": lambda path: rows_of(load_index(path, "l2", 8, 0)),
    "model.pt": lambda path: flat(read_model(path)),
    "manifest.json": read_manifest,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One file of every kind, as the pipeline writes it: its bytes, and what its reader reads."""
    folder = tmp_path_factory.mktemp("written")
    save_array(folder / "array.npy", ARRAY)
    with new_array(folder / "pieces.npy", "int32", (2, 3, 4)) as write:
        for slab in (1, 0):
            write(slab, 0, np.arange(12).reshape(3, 4) * (slab + 1))
    save_index(train_index("IVF2,Flat", "l2", np.tile(ARRAY, (9, 1)).astype(np.float32), 1), folder / "trained.faiss")
    (folder / "dictionary.txt").write_text("a 1\nb 1\n")
    save_model(
        folder / "model.pt",
        {"width": 4},
        8,
        {"w": torch.randn(6, 4, generator=torch.Generator().manual_seed(1))},
        folder / "dictionary.txt",
    )
    write_manifest(
        folder / "manifest.json",
        kind="test",
        rows=13,
        settings={"a": [0.1, None, True], "é": "ü"},
        fractions=(0.5, 1.0),
    )
    return {name: ((folder / name).read_bytes(), reader(folder / name)) for name, reader in READERS.items()}


def refused_or_unchanged(folder, written, name: str, content: bytes) -> bool:
    """Write damaged content, read it, and return whether it was refused; if it was not, it must be what was written."""
    path = folder / f"{hashlib.sha256(content).hexdigest()}-{name}"  # never the same name: a process reads a file once
    path.write_bytes(content)
    try:
        found = READERS[name](path)
    except KnnlmError as error:
        assert str(error).startswith(f"{path}: ")
        assert len(str(error).splitlines()) == 1
        assert "delete it and rerun" in str(error)
        return True
    finally:
        path.unlink()
    assert found == written[name][1]
    return False


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(tmp_path_factory, written, name, place, bit):
    content = bytearray(written[name][0])
    content[int(place * len(content))] ^= 1 << bit
    refused = refused_or_unchanged(tmp_path_factory.getbasetemp(), written, name, bytes(content))
    assert refused or name == "manifest.json"  # a blank of JSON may be another one


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_cut_anywhere_is_refused(tmp_path_factory, written, name, place):
    content = written[name][0]
    kept = content[: int(place * len(content))]
    assert refused_or_unchanged(tmp_path_factory.getbasetemp(), written, name, kept) or (name, kept) == (
        "manifest.json",
        content[:-1],
    )  # the last line break


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_damaged_is_not_refused(tmp_path, written, name):
    assert not refused_or_unchanged(tmp_path, written, name, written[name][0])


def test_a_seal_is_the_hash_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert seal_of(tmp_path / "file") is None
    seal(tmp_path / "file")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert seal_of(tmp_path / "file") == verified(tmp_path / "file") == known
    content = (tmp_path / "file").read_bytes()
    assert content.startswith(b"abc")
    assert len(content) == 3 + SIZE


def test_numpy_reads_a_sealed_array_like_any_other(tmp_path):
    save_array(tmp_path / "array.npy", ARRAY)
    for mode in (None, "r"):
        assert np.array_equal(np.load(tmp_path / "array.npy", mmap_mode=mode), ARRAY)


def test_a_folder_and_a_missing_file_are_told(tmp_path):
    for path, message in ((tmp_path, "cannot be read"), (tmp_path / "none", "the file is missing")):
        with pytest.raises(KnnlmError, match=message):
            verified(path)


def test_checking_keeps_nothing_in_memory(tmp_path):
    program = (
        "import resource, sys; from knnlm.storage.seals import seal, verified\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "seal(sys.argv[1]); verified(sys.argv[1]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    (tmp_path / "large").write_bytes(bytes(256 * 2**20))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout) // (resource.getpagesize() if sys.platform == "darwin" else 1)  # KiB
    assert grown < 16 * 1024
