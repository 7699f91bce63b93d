"""Training on several devices is the training on one: fairseq's own processes, with gloo in place of NCCL."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from stores import fairseq_corpus

from knnlm.language_model.training import PLUGIN, Devices, fairseq_command, parse_log

pytestmark = pytest.mark.slow

ARCHITECTURE = {
    "layers": 1,
    "width": 16,
    "feed_forward_width": 32,
    "heads": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
TRAINING = {
    "optimiser": "nag", "learning_rate": 0.5, "minimum_learning_rate": 1e-5, "warmup_updates": 2,
    "warmup_initial_learning_rate": 1e-7,
    "schedule": "cosine",
    "cosine_period": None, "patience": None,
    "updates": 6, "tokens_per_sample": 32, "batch_samples": 2, "accumulate": 4, "clip_norm": 1.0,
    "momentum": 0.9,
    "betas": [0.9, 0.98], "weight_decay": 0.0, "validate_every": 3, "save_every": 3, "fp16": False,
}  # fmt: skip
ON_CPU = ["--cpu", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", "--distributed-no-spawn"]


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return fairseq_corpus(tmp_path_factory.mktemp("corpus"))


def started(binary: Path, folder: Path, processes: int) -> list[subprocess.Popen]:
    """Start the processes of one training; each has the options of a GPU's, but for those that need CUDA."""
    devices = Devices(processes if processes > 1 else 0)
    command = fairseq_command(ARCHITECTURE | TRAINING, 1, devices, binary, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = ["--distributed-init-method", f"tcp://127.0.0.1:{free.getsockname()[1]}", *ON_CPU]
    own = [[*meeting, "--distributed-rank", str(rank)] for rank in range(processes)] if processes > 1 else [[]]
    environment = os.environ | {"PYTHONPATH": str(PLUGIN.parent), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen([*command, *options], env=environment, **streams) for options in own]


def test_two_processes_make_the_updates_of_one(binary, tmp_path):
    runs = {processes: started(binary, tmp_path / str(processes), processes) for processes in (1, 2)}
    logs = {processes: [process.communicate()[0] for process in run] for processes, run in runs.items()}
    assert all(process.returncode == 0 for run in runs.values() for process in run), logs
    alone, together = (
        [(row["split"], row["update"], row["loss"]) for row in parse_log(logs[processes][0].splitlines())]
        for processes in (1, 2)
    )
    assert len(alone) == TRAINING["updates"] + 2
    assert [row[:2] for row in together] == [row[:2] for row in alone]
    assert [row[2] for row in together] == pytest.approx(
        [row[2] for row in alone], abs=2e-3
    )  # as many digits as fairseq prints
    assert alone[-1][2] < alone[0][2] - 0.05
    assert not list(parse_log(logs[2][1].splitlines()))  # one of them reports for all
    one, other = (
        torch.load(tmp_path / str(processes) / "checkpoint_last.pt", weights_only=False)["model"]
        for processes in (1, 2)
    )
    assert all(torch.allclose(weight, other[name], atol=1e-5) for name, weight in one.items())
