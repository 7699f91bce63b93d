import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stores import known

from knnlm.errors import KnnlmError
from knnlm.storage.arrays import Rows, load_array, new_array, rows_in_order, save_array
from knnlm.storage.manifests import write_manifest


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros((0, 4), np.float16), np.array([True, False])]
)
def test_arrays_come_back_read_only(tmp_path, array):
    save_array(tmp_path / "array.npy", array)
    known(tmp_path / "array.npy")
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
    known(tmp_path / "array.npy")
    assert load_array(tmp_path / "array.npy", dtype="int32", shape=(None, 3)).shape == (2, 3)
    with pytest.raises(KnnlmError, match=rf"array\.npy: {message}"):
        load_array(tmp_path / "array.npy", **expected)


def test_a_missing_array_is_refused_by_name(tmp_path):
    with pytest.raises(KnnlmError, match=r"array\.npy: the file is missing; rerun"):
        load_array(tmp_path / "array.npy")


def test_an_array_cut_short_anywhere_is_refused_by_name(tmp_path):
    save_array(tmp_path / "cut.npy", np.arange(5, dtype=np.int16))
    known(tmp_path / "cut.npy")
    content = (tmp_path / "cut.npy").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut.npy").write_bytes(content[:length])
        for read in (load_array, Rows):
            with pytest.raises(
                KnnlmError, match=r"cut\.npy: not as it was when .*cut\.json was written; delete it and rerun"
            ):
                read(tmp_path / "cut.npy")


def test_a_header_that_makes_no_sense_is_refused_by_name_though_its_hash_is_right(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(5, dtype=np.int16))
    content = (tmp_path / "whole.npy").read_bytes()
    refused = 0
    for place in range(128):
        for byte in (0x00, 0x28, 0x31, 0xFF):
            damaged = tmp_path / f"{place}-{byte}-damaged.npy"
            damaged.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            known(damaged)
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
    for path in list(tmp_path.iterdir()):
        with pytest.raises(KnnlmError, match=rf"{path.name}: no manifest beside it knows it; delete it and rerun"):
            load_array(path)
        known(path)
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
    assert len(list(tmp_path.iterdir())) == 1
    known(tmp_path / "array.npy")
    assert np.array_equal(load_array(tmp_path / "array.npy", dtype="int32", shape=(3, 10, 4)), array)


def test_new_array_of_no_rows(tmp_path):
    with new_array(tmp_path / "array.npy", "float32", (2, 0, 3)) as write:
        write(0, 0, np.zeros((0, 3)))
    known(tmp_path / "array.npy")
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
        "import resource, sys, numpy as np; from knnlm.storage.arrays import new_array\n"
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


@pytest.fixture
def written(tmp_path):
    """An array of 9 rows that a manifest knows: its path, and what is in it."""
    array = np.random.default_rng(3).standard_normal((9, 4)).astype(np.float16)
    save_array(tmp_path / "array.npy", array)
    write_manifest(tmp_path / "manifest.json", [tmp_path / "array.npy"])
    return tmp_path / "array.npy", array


@pytest.mark.parametrize("steps", [[9], [0, 9], [4, 4, 9], [1, 2, 3], [], [4, 9, 2, 5]])
def test_rows_are_read_in_any_steps_again_or_not_all(written, steps):
    path, array = written
    with rows_in_order(path, "float16", (9, 4)) as rows:
        for begin, end in zip([0, *steps], steps, strict=False):
            assert np.array_equal(rows[begin:end], array[begin:end])
        if steps:
            assert np.array_equal(rows[0 : steps[-1]], array[: steps[-1]])


@pytest.mark.parametrize("steps", [[9], [4, 4, 9], [1, 2, 3], []])
def test_damage_anywhere_is_named_after_the_last_row(written, steps):
    path, _ = written
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with (
            pytest.raises(KnnlmError, match=r"array\.npy: (not as it was when .*manifest\.json|not a readable|h)"),
            rows_in_order(path, "float16", (9, 4)) as rows,
        ):
            for begin, end in zip([0, *steps], steps, strict=False):
                rows[begin:end]


def test_nothing_is_left_to_read_for_the_check_alone(written):
    path, _ = written
    with rows_in_order(path) as rows:
        rows[0:4], rows[0:2], rows[4:9]
        assert rows.check.fed == path.stat().st_size
