"""What a step computes on: by the number and the kind of GPUs that its job was given, and never two jobs on one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from knnlm.errors import KnnlmError
from knnlm.language_model.training import Devices, training_devices
from knnlm.running.devices import VARIABLE, Job, claim, device_for

WORKFLOW = Path(__file__).parents[3] / "workflow"


def test_device_for_a_number_of_gpus():
    assert device_for(0) == "cpu"
    there = torch.cuda.device_count()
    with pytest.raises(KnnlmError, match=rf"given {there + 1} GPU\(s\) but CUDA shows {there}"):
        device_for(there + 1)


def test_the_cpu_in_place_of_a_gpu_is_said_aloud_and_only_on_request(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert device_for(3) == "cpu"
    assert "given 3 GPU(s) and computes on the CPU" in capsys.readouterr().out
    assert device_for(0) == "cpu"
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(VARIABLE, "tpu")
    with pytest.raises(KnnlmError, match="KNNLM_DEVICE: 'tpu'"):
        device_for(0)


@pytest.mark.parametrize(
    ("gpus", "gres", "given"),
    [(2, "", 2), (0, "", 0), (0, "gpu:3", 3), (0, "gpu:a100:2", 2), (0, "gpu", 1), (0, "gpu:h100", 1), (1, "gpu:4", 4)],
)
def test_gpus_are_counted_however_they_were_asked_for(gpus, gres, given):
    assert Job(gpus, gres).gpus_of_node == given


@pytest.mark.parametrize("gres", ["shard:2", "gpu:two:three", "2"])
def test_a_request_that_is_not_for_gpus_is_refused(gres):
    with pytest.raises(KnnlmError, match=f"resource gres: '{gres}'"):
        Job(gres=gres).device  # noqa: B018


def test_gpus_are_spread_evenly_over_nodes():
    assert Job(16, nodes=2).gpus_of_node == 8
    assert Job(0, "gpu:8", nodes=2).gpus_of_node == 8  # of one node
    with pytest.raises(KnnlmError, match=r"resources\.training_nodes: 7 GPUs cannot"):
        Job(7, nodes=2).gpus_of_node  # noqa: B018


def test_a_training_that_has_no_gpus_is_one_on_the_cpu(monkeypatch):
    assert training_devices(Job(threads=3)) == Devices(0, 1, 3)
    monkeypatch.setenv(VARIABLE, "cpu")
    assert training_devices(Job(8, nodes=2, threads=3)) == Devices(0, 1, 3)


CLAIMING = """
import sys, time
from pathlib import Path
from knnlm.running.devices import claim
print(",".join(claim(int(sys.argv[2]), ["0", "1", "GPU-7/a"], Path(sys.argv[1]), *map(int, sys.argv[3:]))), flush=True)
sys.stdin.read()
"""


def claiming(folder: Path, *numbers: int) -> subprocess.Popen:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", CLAIMING, folder, *map(str, numbers)],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        **streams,
    )


def test_no_two_processes_hold_one_device_and_a_killed_one_gives_its_back(tmp_path):
    folder = tmp_path / "gpus"
    first, second = claiming(folder, 1), claiming(folder, 1)
    held = {process.stdout.readline().strip() for process in (first, second)}
    assert len(held) == 2
    third = claiming(folder, 2)  # one is free, but not two
    time.sleep(1.5)
    assert third.poll() is None
    (left,) = {"0", "1", "GPU-7/a"} - held
    assert claim(1, [left], folder) == [left]  # a process that waits for more holds none
    first.kill()
    second.kill()
    assert set(third.stdout.readline().strip().split(",")) == held
    third.kill()
    for process in (first, second, third):
        process.communicate()


def test_two_jobs_share_a_device_when_none_is_free_and_a_third_waits(tmp_path):
    names, folder = ["0", "1", "GPU-7/a"], tmp_path / "gpus"
    assert claim(1, names[:1], folder, 2) == ["0"]
    processes = [claiming(folder, 1, 2), claiming(folder, 1, 2)]
    assert {process.stdout.readline().strip() for process in processes} == {"1", "GPU-7/a"}
    assert claim(3, names, folder, 2) == names  # each has one job
    processes.append(claiming(folder, 1, 2))
    time.sleep(1.5)
    assert processes[2].poll() is None
    processes[0].kill()
    assert processes[2].stdout.readline().strip() in {"1", "GPU-7/a"}
    for process in processes:
        process.kill()
        process.communicate()
