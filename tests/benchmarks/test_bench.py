import subprocess
import sys

import numpy as np
import pytest
import torch

from knnlm.performance import machine
from knnlm.performance.bench import COLUMNS, interleaved, row
from knnlm.performance.memory import STATUS, PeakMemory, memory_bytes


def test_work_is_done_in_turn_there_and_back_and_the_first_round_does_not_count(capsys):
    done = []

    def work(name):
        done.append(name)
        print("progress", file=sys.stderr)

    taken = interleaved({"a": lambda: work("a"), "b": lambda: work("b")}, pairs=3, device="cpu")
    assert "".join(done) == "ba" + "ab" + "ba" + "ab"
    assert {name: seconds.shape for name, seconds in taken.items()} == {"a": (3,), "b": (3,)}
    assert all((seconds > 0).all() for seconds in taken.values())
    assert not capsys.readouterr().err


def test_a_row_has_the_median_of_the_ratios_and_not_the_ratio_of_the_medians():
    found = row("stage", "m/s", np.array([1.0, 2.0, 9.0]), np.array([2.0, 8.0, 3.0]), goal=0.5)
    assert found == {
        "stage": "stage", "ours": 2.0, "reference": 3.0, "unit": "m/s",
        "ratio": 0.5, "ratio_low": 0.25, "ratio_high": 3.0, "goal": 0.5, "reached": "true",
    }  # fmt: skip
    assert list(found) == COLUMNS
    assert row("stage", "m/s", np.ones(2), np.full(2, 2.0), goal=0.51)["reached"] == "false"
    assert row("stage", "m/s", np.ones(2), np.ones(2))["reached"] == ""


@pytest.mark.parametrize(
    ("flops", "least", "most", "items"),
    [(1000, 1, 2**62, 64), (1000, 100, 2**62, 100), (1000, 1, 50, 50), (1e12, 1, 9, 1)],
)
def test_sizes_are_powers_of_two_within_limits(bench, flops, least, most, items):
    assert bench.fitting(flops, least, most) == items  # 1e-4 s of 1e9 a second are 100 of 1,000


def test_the_machine_says_what_it_is_and_can_do(tmp_path, monkeypatch):
    known = machine.description("cpu")
    assert {"processor", "cores", "threads", "memory_bytes", "device", "torch", "numpy"} <= set(known)
    assert known["threads"] == torch.get_num_threads()
    monkeypatch.setattr(machine, "COPIED_BYTES", 2**16)
    monkeypatch.setattr(machine, "PRODUCT_SIZE", 64)
    assert all(speed > 0 for speed in machine.speeds("cpu", tmp_path, 2**16).values())
    assert not list(tmp_path.iterdir())


def test_a_copy_copies_all_bytes():
    target = machine.copying(1000)()
    assert target.sum() == 1000


@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_peak_memory_has_what_was_given_back_but_no_mapped_file(tmp_path):
    np.save(tmp_path / "mapped.npy", np.ones(2**26, np.uint8))
    mapped = np.load(tmp_path / "mapped.npy", mmap_mode="r")
    before = memory_bytes("RssAnon")
    with PeakMemory() as peak:
        assert mapped.sum() == 2**26
    assert peak.own - before < 2**25
    assert peak.resident - before > 2**26
    with PeakMemory() as peak:
        held = np.ones(2**27, np.uint8)
        held.sum()
        del held
    assert peak.own - before > 2**27 - 2**24


@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_peak_memory_is_not_that_of_the_parent_process():
    held = np.ones(2**28, np.uint8)
    code = "from knnlm.performance.memory import memory_bytes; print(memory_bytes('VmHWM'))"
    path = str(machine.Path(machine.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert held.sum() == 2**28
    assert float(done.stdout) < 2**27
