"""The step that trains the LM, as a job of its own: killed, resumed, finished, and given what it cannot train on."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stores import fairseq_corpus

from knnlm.language_model.transformer import LanguageModel, trained_updates
from knnlm.storage.manifests import write_manifest

WORKFLOW = Path(__file__).parents[3] / "workflow"
SETTINGS = {
    "seed": 1,
    "lm": {
        "architecture": {
            "layers": 1, "width": 16, "feed_forward_width": 32, "heads": 2,
            "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
        },
        "training": {
            "optimiser": "adam", "learning_rate": 0.01, "minimum_learning_rate": 1e-5, "warmup_updates": 5,
            "warmup_initial_learning_rate": 1e-7, "schedule": "cosine",
            "cosine_period": None, "patience": None, "updates": 40, "tokens_per_sample": 32,
            "batch_samples": 4, "accumulate": 1, "clip_norm": 1.0, "momentum": 0.99,
            "betas": [0.9, 0.98], "weight_decay": 0.01, "validate_every": 10, "save_every": 10, "fp16": False,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    binary = fairseq_corpus(folder)
    write_manifest(folder / "tokens" / "manifest.json", sorted(binary.iterdir()), kind="corpus")
    return binary


def start(binary, folder, **training):
    """Start the real step in a process group of its own."""
    settings = {**SETTINGS, "lm": {**SETTINGS["lm"], "training": SETTINGS["lm"]["training"] | training}}
    options = {
        "corpus": binary.parent / "tokens" / "manifest.json",
        "binary": binary,
        "checkpoints": folder / "checkpoints",
        "model": folder / "model.pt",
        "loss": folder / "loss.csv",
        "manifest": folder / "manifest.json",
    }
    command = [sys.executable, "-m", "knnlm.steps", "train_lm", "--settings", json.dumps(settings)]
    command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


def finish(step, status=0):
    output, _ = step.communicate(timeout=120)
    assert step.returncode == status, output
    return output


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def checkpoint_folder(folder):
    (found,) = (folder / "checkpoints").iterdir()
    return found


def loss_rows(folder, split):
    with open(folder / "loss.csv", newline="") as file:
        return [int(row["update"]) for row in csv.DictReader(file) if row["split"] == split]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_training_leaves_no_process_and_resumes(binary, tmp_path, whole_group):
    step = start(binary, tmp_path, updates=100)
    wait_for(lambda: list((tmp_path / "checkpoints").glob("*/checkpoint_last.pt")))
    fairseq = children(step.pid)
    assert fairseq
    (os.killpg if whole_group else os.kill)(step.pid, signal.SIGKILL)
    step.communicate()
    wait_for(lambda: not any(map(is_running, fairseq)), seconds=5)
    folder = checkpoint_folder(tmp_path)
    saved = trained_updates(folder / "checkpoint_last.pt")
    assert 0 < saved < 100
    assert not (tmp_path / "model.pt").exists()

    resumed = finish(start(binary, tmp_path, updates=100))
    assert f"update {saved + 1}," in resumed
    assert f"update {saved - 1}," not in resumed
    assert checkpoint_folder(tmp_path) == folder
    assert trained_updates(folder / "checkpoint_last.pt") == 100
    assert loss_rows(tmp_path, "train") == list(range(1, 101))
    assert loss_rows(tmp_path, "valid") == list(range(10, 101, 10))
    assert LanguageModel(tmp_path / "model.pt", binary / "dict.txt", "cpu").longest_input == 32


OVERFITS = {"updates": 3000, "learning_rate": 0.05, "patience": 3, "schedule": "inverse_sqrt"}


def valid_losses(folder):
    with open(folder / "loss.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["split"] == "valid"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_patience_ends_a_training_where_it_would_have_ended_without_a_kill(binary, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    said = finish(start(binary, one, **OVERFITS))
    assert "training: no lower valid loss for 3 validations; it ends here" in said
    losses = valid_losses(one)
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 300  # validations, of which `updates` would allow 300
    folder = checkpoint_folder(one)
    assert trained_updates(folder / "checkpoint_best.pt") == 10 * (best + 1)
    exported = torch.load(one / "model.pt", weights_only=True)["weights"]
    kept = torch.load(folder / "checkpoint_best.pt", weights_only=True)["model"]
    assert all(torch.equal(weight, kept[name]) for name, weight in exported.items())
    assert "training: update" not in finish(start(binary, one, **OVERFITS))  # it has ended, though not at `updates`

    step = start(binary, two, **OVERFITS)  # killed between its best validation and its end
    told = ""
    while f"update {10 * (best + 2)}, valid" not in told:
        told = step.stdout.readline()
        assert told, "the training has ended before it was killed"
    os.killpg(step.pid, signal.SIGKILL)
    step.communicate()
    assert trained_updates(checkpoint_folder(two) / "checkpoint_best.pt") == 10 * (best + 1)
    finish(start(binary, two, **OVERFITS))
    assert valid_losses(two) == losses


@pytest.mark.slow
def test_a_finished_training_is_not_continued_and_another_starts_afresh(binary, tmp_path):
    finish(start(binary, tmp_path, updates=20))
    first, losses = (tmp_path / "model.pt").read_bytes(), (tmp_path / "loss.csv").read_text()
    folder = checkpoint_folder(tmp_path)
    assert "update" not in finish(start(binary, tmp_path, updates=20))
    assert trained_updates(folder / "checkpoint_last.pt") == 20
    assert (tmp_path / "loss.csv").read_text() == losses
    again = torch.load(tmp_path / "model.pt", weights_only=True)["weights"]
    (tmp_path / "first.pt").write_bytes(first)
    assert all(
        torch.equal(again[name], weight)
        for name, weight in torch.load(tmp_path / "first.pt", weights_only=True)["weights"].items()
    )

    # A record of the training that is damaged, or none at all.
    history = folder / "history.jsonl"
    records = history.read_bytes()
    for damaged in (records.replace(b"}", b"]", 1), None):
        history.unlink()
        if damaged:
            history.write_bytes(damaged)
        said = finish(start(binary, tmp_path, updates=20), status=1)
        remedy = f"delete the folder {folder} and rerun: the training starts anew"
        assert said == f"Error: {history}: missing or damaged; {remedy}.\n"
    history.write_bytes(records)

    # A crash while fairseq copied the last checkpoint: the training goes on from the file that was being copied.
    last = folder / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    assert "update" not in finish(start(binary, tmp_path, updates=20))
    assert trained_updates(last) == 20

    assert "update 1," in finish(start(binary, tmp_path, updates=10))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert loss_rows(tmp_path, "train") == list(range(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adam", "nag"])
def test_an_absurd_learning_rate_ends_in_one_sentence(binary, tmp_path, optimiser):
    output = finish(start(binary, tmp_path, learning_rate=1e10, clip_norm=0.0, optimiser=optimiser), status=1)
    assert [line for line in output.splitlines() if not line.startswith("training: ")] == [output.splitlines()[-1]]
    assert output.splitlines()[-1].startswith("Error: ")
    assert "lm.training.learning_rate" in output
    assert not (tmp_path / "model.pt").exists()
    assert not (tmp_path / "loss.csv").exists()


def test_a_damaged_binary_corpus_is_refused_by_name(binary, tmp_path):
    shutil.copytree(binary, tmp_path / "binary")
    shutil.copytree(binary.parent / "tokens", tmp_path / "tokens")
    path, manifest = tmp_path / "binary" / "train.bin", tmp_path / "tokens" / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    output = finish(start(tmp_path / "binary", tmp_path), status=1)
    assert (
        output
        == f"Error: {path}: not as it was when {manifest} was written; delete it and rerun the step that makes it.\n"
    )
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "model.pt").exists()
