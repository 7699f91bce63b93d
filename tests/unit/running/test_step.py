import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from knnlm.errors import KnnlmError
from knnlm.language_model.transformer import LanguageModel, trained_updates
from knnlm.running.step import parser_of, run
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import write_manifest

WORKFLOW = Path(__file__).parents[3] / "workflow"
STEPS = sorted((WORKFLOW / "knnlm/steps").glob("[a-z]*.py"))
PIECES = 60
SETTINGS = {
    "seed": 1,
    "lm": {
        "architecture": {
            "layers": 1, "width": 16, "feed_forward_width": 32, "heads": 2,
            "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
        },
        "training": {
            "optimiser": "adam", "learning_rate": 0.01, "minimum_learning_rate": 1e-5, "warmup_updates": 5,
            "warmup_initial_learning_rate": 1e-7, "cosine_period": None, "updates": 40, "tokens_per_sample": 32,
            "batch_samples": 4, "accumulate": 1, "clip_norm": 1.0, "momentum": 0.99,
            "betas": [0.9, 0.98], "weight_decay": 0.01, "validate_every": 10, "save_every": 10, "fp16": False,
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Two options of a step that belong together."""

    folder: Path
    depth: int = 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--settings", '{"a": [1, 2]}', "--some-files", "a", "b/c", "--folder", "d"],
            ({"a": [1, 2]}, [Path("a"), Path("b/c")], Place(Path("d")), None, (), 1),
        ),
        (
            [
                "--some-files",
                "--settings",
                "{}",
                "--folder",
                "d",
                "--depth",
                "4",
                "--table",
                "--more",
                "--threads",
                "2",
            ],
            ({}, [], Place(Path("d"), 4), None, [], 2),
        ),
        (
            ["--some-files", "--table", "t.csv", "--more", "m", "--folder", "d", "--settings", "{}"],
            ({}, [], Place(Path("d")), Path("t.csv"), [Path("m")], 1),
        ),
    ],
)
def test_the_command_line_follows_from_the_signature(words, expected):
    found = []

    def main(
        settings: dict,
        some_files: Sequence[Path],
        place: Place,
        table: Path | None = None,
        more: Sequence[Path] = (),
        threads: int = 1,
    ) -> None:
        found.append((settings, some_files, place, table, more, threads))

    run(main, words)
    assert found == [expected]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--settings", "{a: 1}", "--k", "1"], r"--settings: is not JSON"),
        (["--settings", "{}", "--k", "one"], r"--k: invalid int value: 'one'"),
        (["--settings", "{}"], r"the following arguments are required: --k"),
        (["--settings", "{}", "--k", "1", "--l", "2"], r"unrecognized arguments: --l 2"),
        (["--set", "{}", "--k", "1"], r"the following arguments are required: --settings"),
    ],
)
def test_a_command_line_that_does_not_fit_is_told(words, said, capsys):
    def main(settings: dict, k: int) -> None:
        raise AssertionError

    with pytest.raises(SystemExit) as end:
        run(main, words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.stem for path in STEPS])
def test_every_step_has_a_command_line(name):
    main = import_module(f"knnlm.steps.{name}").main
    assert main.__doc__ in parser_of(main).format_help() or parser_of(main).description == main.__doc__


def test_the_name_of_a_step_is_one_that_there_is():
    done = subprocess.run(
        [sys.executable, "-m", "knnlm.steps", "retreive"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Error: retreive is not a step; choose one of binarise, .*, retrieve, .*\.\n", done.stderr)


def test_a_users_mistake_ends_in_its_sentence():
    def main(settings: dict) -> None:
        raise KnnlmError(f"file.txt: {settings['a']} is wrong; mend it.")

    with pytest.raises(SystemExit) as end:
        run(main, ["--settings", '{"a": [1, 2]}'])
    assert end.value.code == "Error: file.txt: [1, 2] is wrong; mend it."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/keys.npy"),
            "a/keys.npy: No space left on device; make room on that disk",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; give yourself the right to"),
        (OSError(errno.EIO, "Input/output error"), "a file: Input/output error; put that right"),
    ],
)
def test_what_the_system_refuses_ends_in_a_sentence(error, sentence):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run(main, [])
    assert end.value.code == f"Error: {sentence}, then run the same command again."


ALLOCATIONS = {  # far more than any machine has, or than a process may have
    "Python": "bytes(10**16)",
    "Python with a limit": "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); [bytes(2**24) for _ in range(100)]",
    "NumPy": "import numpy; numpy.empty((10**8, 10**8), numpy.float32)",
    "PyTorch": "import torch; torch.empty(10**16)",
    "FAISS": "import faiss; faiss.UInt8Vector().resize(10**16)",
    "the system": "import mmap; mmap.mmap(-1, 2**60)",
}


def end_of_step(code):
    """Run a step of this code in a process of its own and return its status and what it says."""
    step = f"import resource\nfrom knnlm.running.step import run\ndef main():\n    {code}\nrun(main)"
    done = subprocess.run(
        [sys.executable, "-c", step],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems may promise memory that they do not have"
)
@pytest.mark.parametrize("library", ALLOCATIONS)
def test_memory_that_is_used_up_ends_in_a_sentence(library):
    status, output = end_of_step(ALLOCATIONS[library])
    assert status == 1
    assert output.startswith("Error: this step ran out of memory (")
    assert output.endswith("then run the same command again.\n")
    assert "give its job more" in output
    assert output.count("\n") == 1


def test_the_memory_of_a_gpu_is_another_than_that_of_the_job():
    message = (
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.94 GiB"
    )
    message += " is free."
    status, output = end_of_step(f"import torch; raise torch.OutOfMemoryError({message!r})")
    assert status == 1
    assert output.startswith(
        "Error: this step ran out of the memory of its GPU (CUDA out of memory. Tried to allocate 20.00 GiB. "
    )
    assert "give it a GPU with more" in output
    assert "Slurm" not in output
    assert output.count("\n") == 1


def test_a_runtime_error_of_another_kind_keeps_its_traceback():
    status, output = end_of_step("raise RuntimeError('shapes do not fit')")
    assert status == 1
    assert "Traceback" in output


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_in_a_sentence_after_tidying_up(interruption, tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, pytest may be one, ignore it

    def main():
        with atomic(tmp_path / "file"):
            signal.raise_signal(interruption)

    with pytest.raises(SystemExit) as end:
        run(main, [])
    assert end.value.code == "Error: this step was interrupted; run the same command again."
    assert not list(tmp_path.iterdir())


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, [])


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A random corpus in fairseq's binary format, made by fairseq."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    (folder / "dict.txt").write_text("".join(f"p{number} 1\n" for number in range(PIECES)))
    for split, lines in (("train", 400), ("valid", 30)):
        rows = (" ".join(f"p{piece}" for piece in generator.integers(0, PIECES, 12)) for _ in range(lines))
        (folder / split).write_text("\n".join(rows) + "\n")
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.preprocess",
        "--only-source",
        "--srcdict",
        folder / "dict.txt",
        "--destdir",
        folder / "binary",
    ]
    subprocess.run(
        [*command, "--trainpref", folder / "train", "--validpref", folder / "valid"], check=True, capture_output=True
    )
    write_manifest(folder / "tokens" / "manifest.json", sorted((folder / "binary").iterdir()), kind="corpus")
    return folder / "binary"


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
