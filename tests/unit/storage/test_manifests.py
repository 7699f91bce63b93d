"""Manifests: any flipped bit and any cut of a file of ours is refused by name, or the content is what it was."""

import json
import os
import resource
import shutil
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
from knnlm.storage.arrays import load_array, new_array, rows_in_order, save_array
from knnlm.storage.manifests import (
    FORMAT,
    check_same_model,
    content_hash,
    read_manifest,
    sha256,
    verified,
    write_manifest,
)

ARRAY = np.random.default_rng(1).standard_normal((13, 8)).astype(np.float16)
BLOCK = 2**18  # bytes that `hashlib.file_digest` reads at once


def flat(model: dict) -> tuple:
    weights = {name: weight.tolist() for name, weight in model["weights"].items()}
    return model["architecture"], model["tokens_per_sample"], model["pieces"], weights


def rows_of(index: faiss.Index) -> bytes:
    return faiss.serialize_index(index).tobytes()


def in_order(path):
    with rows_in_order(path) as rows:
        return rows[:].tolist()


READERS = {
    "array.npy": lambda path: load_array(path).tolist(),
    "rows.npy": in_order,
    "pieces.npy": lambda path: load_array(path).tolist(),
    "trained.faiss": lambda path: rows_of(load_index(path, "l2", 8, 0)),
    "model.pt": lambda path: flat(read_model(path)),
    "text.txt": lambda path: (read_manifest(path.with_name("manifest.json")), path.read_text()),
    "facts.json": read_manifest,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One file of every kind, as the pipeline writes it: its path, its bytes, and what its reader reads."""
    folder = tmp_path_factory.mktemp("written")
    save_array(folder / "array.npy", ARRAY)
    save_array(folder / "rows.npy", ARRAY)
    with new_array(folder / "pieces.npy", "int32", (2, 3, 4)) as write:
        for slab in (1, 0):
            write(slab, 0, np.arange(12).reshape(3, 4) * (slab + 1))
    save_index(train_index("IVF2,Flat", "l2", np.tile(ARRAY, (9, 1)).astype(np.float32), 1), folder / "trained.faiss")
    (folder / "text.txt").write_text("one\ntwo\n")
    (folder / "dictionary.txt").write_text("a 1\nb 1\n")
    weights = {"w": torch.randn(6, 4, generator=torch.Generator().manual_seed(1))}
    save_model(folder / "model.pt", {"width": 4}, 8, weights, folder / "dictionary.txt")
    write_manifest(folder / "manifest.json", [folder / name for name in READERS if name != "facts.json"])
    settings = {"a": [0.1, None, True], "é": "ü"}
    write_manifest(folder / "facts.json", kind="test", rows=13, settings=settings, fractions=(0.5, 1.0))
    return {
        name: (folder / name, (folder / name).read_bytes(), reader(folder / name)) for name, reader in READERS.items()
    }


def refused_or_unchanged(written, name: str, content: bytes) -> bool:
    """Write damaged content, read it, and return whether it was refused; if it was not, it must be what was written."""
    path, whole, expected = written[name]
    path.write_bytes(content)
    try:
        found = READERS[name](path)
    except KnnlmError as error:
        assert str(error).startswith(f"{path}: ")
        assert len(str(error).splitlines()) == 1
        assert "delete it and rerun" in str(error)
        return True
    finally:
        path.write_bytes(whole)
    assert found == expected
    return False


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(written, name, place, bit):
    content = bytearray(written[name][1])
    content[int(place * len(content))] ^= 1 << bit
    refused = refused_or_unchanged(written, name, bytes(content))
    assert refused or name == "facts.json"  # a blank of JSON may be another one


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_cut_anywhere_is_refused(written, name, place):
    content = written[name][1]
    kept = content[: int(place * len(content))]
    assert refused_or_unchanged(written, name, kept) or (name, kept) == (
        "facts.json",
        content[:-1],
    )  # the last line break


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_damaged_is_not_refused(written, name):
    assert not refused_or_unchanged(written, name, written[name][1])


def test_the_hash_is_the_known_one(tmp_path):
    """XXH3 of 128 bits, as `xxhsum -H2` prints it, of nothing and of a text."""
    for content, known in ((b"", "99aa06d3014798d86001c324468d497f"), (b"abc", "06b05ab6733a618578af5f94892f3950")):
        (tmp_path / "file").write_bytes(content)
        write_manifest(tmp_path / "manifest.json", [tmp_path / "file"])
        facts = json.loads((tmp_path / "manifest.json").read_text())
        assert facts["files"] == {"file": {"bytes": len(content), "xxh3_128": known}}
        assert verified(tmp_path / "file") == content_hash(tmp_path / "file") == known
    (tmp_path / "manifest.json").unlink()
    assert content_hash(tmp_path / "file") == sha256(tmp_path / "file")


def test_a_folder_in_place_of_a_file_and_a_missing_file_are_told(tmp_path):
    path = tmp_path / "file"
    for size in (1, os.stat(tmp_path).st_size):
        path.write_bytes(bytes(size))
        write_manifest(tmp_path / "manifest.json", [path])
        path.unlink()
        with pytest.raises(KnnlmError, match=rf"^{path}: the file is missing; rerun"):
            verified(path)
        path.mkdir()
        with pytest.raises(KnnlmError, match=rf"^{path}: (not as it was .*|cannot be read .*); delete it and rerun"):
            verified(path)
        path.rmdir()


def test_checking_keeps_nothing_in_memory(tmp_path):
    program = (
        "import resource, sys; from knnlm.storage.manifests import verified, write_manifest\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_manifest(sys.argv[1][:-3] + 'json', [sys.argv[1]]); verified(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    (tmp_path / "large.bin").write_bytes(bytes(256 * 2**20))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large.bin")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout) // (resource.getpagesize() if sys.platform == "darwin" else 1)  # KiB
    assert grown < 16 * 1024


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_manifests_come_back_with_format_and_software(tmp_path):
    write_manifest(tmp_path / "manifest.json", kind="a kind", rows=3, settings={"a": [1, 2]})
    facts = read_manifest(tmp_path / "manifest.json", kind="a kind", settings={"a": [1, 2]})
    assert facts["rows"] == 3
    assert facts["software"]["numpy"] == np.__version__
    assert facts["software"].keys() >= {"python", "torch", "ve-fairseq"}


def test_another_fact_is_refused_by_name(tmp_path):
    write_manifest(tmp_path / "manifest.json", rows=3)
    for expected in ({"rows": 4}, {"width": 3}):
        key, value = next(iter(expected.items()))
        with pytest.raises(KnnlmError, match=rf"manifest\.json: {key} is .*, but {value} is needed"):
            read_manifest(tmp_path / "manifest.json", **expected)


def test_another_format_is_refused_by_name(tmp_path):
    write_manifest(tmp_path / "manifest.json", rows=3)
    facts = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**facts, "format": facts["format"] + 1}))
    with pytest.raises(
        KnnlmError,
        match=rf"manifest\.json: format is {FORMAT + 1}, of another version, but {FORMAT} is needed here; delete it",
    ):
        read_manifest(tmp_path / "manifest.json")


def test_a_manifest_of_the_first_version_is_refused_by_name(tmp_path):
    (tmp_path / "manifest.json").write_text(
        '{\n "format": 1,\n "kind": "datastore chunk",\n "rows": 3,\n "software": {}\n}\n'
    )
    with pytest.raises(KnnlmError, match=r"manifest\.json: format is 1, of another version"):
        read_manifest(tmp_path / "manifest.json", kind="datastore chunk")


def test_a_changed_fact_is_refused_by_name(tmp_path):
    write_manifest(tmp_path / "manifest.json", rows=3)
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace('"rows": 3', '"rows": 7'))
    with pytest.raises(KnnlmError, match=r"manifest\.json: damaged"):
        read_manifest(tmp_path / "manifest.json")


@pytest.fixture
def group(tmp_path):
    """A manifest that knows an array, and a text in another folder."""
    save_array(tmp_path / "group" / "array.npy", np.arange(5))
    save_array(tmp_path / "other.npy", np.arange(5)[::-1])
    (tmp_path / "text.txt").write_text("one\ntwo\n")
    write_manifest(
        tmp_path / "group" / "manifest.json", [tmp_path / "group" / "array.npy", tmp_path / "text.txt"], rows=5
    )
    return tmp_path / "group" / "manifest.json"


def test_files_of_a_group_that_are_its_own_are_taken(group, tmp_path, monkeypatch):
    assert read_manifest(group, rows=5)["rows"] == 5
    monkeypatch.chdir(tmp_path)
    assert read_manifest("group/manifest.json")["rows"] == 5


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("text.txt", lambda path: path.write_text("one\n"), "not as it was when"),
        ("text.txt", lambda path: path.write_text("one\ntvo\n"), "not as it was when"),
        ("text.txt", lambda path: path.unlink(), "the file is missing"),
        ("group/array.npy", lambda path: path.unlink(), "the file is missing"),
        ("group/array.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "not as it was when"),
        ("group/array.npy", lambda path: shutil.copy(path.parent.parent / "other.npy", path), "not as it was when"),
    ],
)
def test_a_file_of_the_group_that_is_another_is_refused_by_name(group, tmp_path, file, damage, message):
    damage(tmp_path / file)
    with pytest.raises(KnnlmError, match=rf"^{tmp_path / file}: {message}"):
        read_manifest(group)  # looks at the array's size
        load_array(group.with_name("array.npy"))  # and this at its content


def test_files_of_two_language_models_are_refused_by_name(tmp_path):
    check_same_model(tmp_path / "one", "abc", tmp_path / "two", "abc")
    with pytest.raises(KnnlmError, match=r"one: made with another language model than .*two; delete both and rerun"):
        check_same_model(tmp_path / "one", "abc", tmp_path / "two", "abd")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe{}"])
def test_a_damaged_manifest_is_refused_by_name(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(KnnlmError, match=r"manifest\.json: not a readable manifest"):
        read_manifest(tmp_path / "manifest.json")
    with pytest.raises(KnnlmError, match=r"other\.json: the manifest is missing"):
        read_manifest(tmp_path / "other.json")


def test_a_file_of_many_blocks_is_hashed_whole(tmp_path):
    content = bytearray(np.random.default_rng(2).bytes(2 * BLOCK + 5))
    (tmp_path / "large.npy").write_bytes(content)
    write_manifest(tmp_path / "manifest.json", [tmp_path / "large.npy"])
    verified(tmp_path / "large.npy")
    for place in (0, BLOCK - 1, BLOCK, len(content) - 1):
        content[place] ^= 1
        (tmp_path / "large.npy").write_bytes(content)
        with pytest.raises(KnnlmError, match="not as it was"):
            verified(tmp_path / "large.npy")
        content[place] ^= 1


def test_the_manifest_that_knows_a_file_is_found_by_its_name(tmp_path):
    for name in ("a.b.npy", "other.npy"):
        save_array(tmp_path / name, ARRAY)
    for manifest in ("a.b.json", "a.json", "manifest.json"):
        with pytest.raises(KnnlmError, match=r"a\.b\.npy: no manifest beside it knows it; delete it and rerun"):
            verified(tmp_path / "a.b.npy")
        write_manifest(tmp_path / manifest, [tmp_path / "a.b.npy"])
        verified(tmp_path / "a.b.npy")
        write_manifest(tmp_path / manifest, [tmp_path / "other.npy"])  # one that is there but knows another
