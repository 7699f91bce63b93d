import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from knnlm.errors import KnnlmError
from knnlm.storage.files import (
    atomic,
    check_same_model,
    load_array,
    new_array,
    read_manifest,
    save_array,
    sha256,
    write_manifest,
)
from knnlm.storage.seals import seal


def test_atomic_replaces_the_file_only_on_success(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic(path) as unfinished:
        unfinished.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), atomic(path) as unfinished:
        unfinished.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_atomic_leaves_nothing_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file.txt") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros((0, 4), np.float16), np.array([True, False])]
)
def test_arrays_come_back_read_only(tmp_path, array):
    save_array(tmp_path / "array.npy", array)
    loaded = load_array(tmp_path / "array.npy", dtype=str(array.dtype), shape=array.shape)
    assert np.array_equal(loaded, array)
    assert loaded.dtype == array.dtype
    assert not loaded.flags.writeable


def test_objects_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        save_array(tmp_path / "array.npy", np.array([{}]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"dtype": "float32"}, "holds int32, expected float32"),
        ({"shape": (2, 4)}, r"has shape \(2, 3\), expected \(2, 4\)"),
        ({"shape": (None, None, None)}, "has shape"),
        ({"shape": (None,)}, "has shape"),
    ],
)
def test_another_dtype_or_shape_is_refused_by_name(tmp_path, expected, message):
    save_array(tmp_path / "array.npy", np.zeros((2, 3), np.int32))
    assert load_array(tmp_path / "array.npy", dtype="int32", shape=(None, 3)).shape == (2, 3)
    with pytest.raises(KnnlmError, match=rf"array\.npy: {message}"):
        load_array(tmp_path / "array.npy", **expected)


def test_a_missing_array_is_refused_by_name(tmp_path):
    with pytest.raises(KnnlmError, match=r"array\.npy: the file is missing; rerun"):
        load_array(tmp_path / "array.npy")


def test_an_array_cut_short_anywhere_is_refused_by_name(tmp_path):
    save_array(tmp_path / "whole.npy", np.arange(5, dtype=np.int16))
    content = (tmp_path / "whole.npy").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut.npy").write_bytes(content[:length])
        with pytest.raises(
            KnnlmError, match=r"cut\.npy: cut short, damaged or from another version .*; delete it and rerun"
        ):
            load_array(tmp_path / "cut.npy")


def test_a_header_that_makes_no_sense_is_refused_by_name_though_it_is_sealed(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(5, dtype=np.int16))
    content = (tmp_path / "whole.npy").read_bytes()
    refused = 0
    for place in range(128):
        for byte in (0x00, 0x28, 0x31, 0xFF):
            damaged = tmp_path / f"{place}-{byte}-damaged.npy"
            damaged.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            seal(damaged)
            try:
                load_array(damaged)
            except KnnlmError as error:
                refused += 1
                assert "damaged.npy: not a readable .npy array" in str(error)
    assert refused > 100


def test_other_kinds_of_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "several.npz", one=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1 2 3\n")
    for path in tmp_path.iterdir():
        with pytest.raises(KnnlmError, match=rf"{path.name}: cut short, damaged or from another version"):
            load_array(path)
        seal(path)
        with pytest.raises(KnnlmError, match=rf"{path.name}: not a readable \.npy array"):
            load_array(path)


def test_new_array_is_written_piece_by_piece_in_any_order(tmp_path):
    array = np.random.default_rng(0).integers(0, 1000, (3, 10, 4)).astype(np.int32)
    with new_array(tmp_path / "array.npy", "int32", array.shape) as write:
        write(2, 0, array[2])
        write(0, 6, array[0, 6:])
        write(0, 0, array[0, :6].astype(np.int64))
        write(1, 0, np.asfortranarray(array[1]))
        assert not (tmp_path / "array.npy").exists()
    assert np.array_equal(load_array(tmp_path / "array.npy", dtype="int32", shape=(3, 10, 4)), array)
    assert len(list(tmp_path.iterdir())) == 1


def test_new_array_of_no_rows(tmp_path):
    with new_array(tmp_path / "array.npy", "float32", (2, 0, 3)) as write:
        write(0, 0, np.zeros((0, 3)))
    assert load_array(tmp_path / "array.npy").shape == (2, 0, 3)


@pytest.mark.parametrize("rows", [np.zeros((3, 5)), np.zeros((3, 4, 1)), np.zeros(4), np.zeros((11, 4))])
def test_new_array_refuses_rows_that_do_not_fit(tmp_path, rows):
    with pytest.raises(ValueError, match="do not fit"), new_array(tmp_path / "array.npy", "int32", (2, 10, 4)) as write:
        write(0, 0, rows)
    assert list(tmp_path.iterdir()) == []


def test_new_array_refuses_to_be_incomplete(tmp_path):
    with (
        pytest.raises(ValueError, match="3 of 20 rows were never written"),
        new_array(tmp_path / "array.npy", "int32", (2, 10, 4)) as write,
    ):
        write(0, 0, np.zeros((10, 4)))
        write(1, 3, np.zeros((7, 4)))
    assert list(tmp_path.iterdir()) == []


def test_new_array_keeps_nothing_in_memory(tmp_path):
    program = (
        "import resource, sys, numpy as np; from knnlm.storage.files import new_array\n"
        "slab = np.ones((2**20, 8), np.float32); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with new_array(sys.argv[1], 'float32', (12, 2**20, 8)) as write:\n"
        "    for number in range(12): write(number, 0, slab)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    command = [sys.executable, "-c", program, str(tmp_path / "array.npy")]
    grown = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    grown //= resource.getpagesize() if sys.platform == "darwin" else 1  # KiB
    written = (tmp_path / "array.npy").stat().st_size // 1024
    assert written >= 12 * 32 * 1024
    assert grown < 48 * 1024  # the slab of 32 MiB at most, not the file of 384


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
        KnnlmError, match=r"manifest\.json: format is 3, of another version, but 2 is needed here; delete it and rerun"
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
        read_manifest(group)


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
