"""Running fairseq: which folder a training's checkpoints belong to, going on where an earlier attempt was killed, and stopping with it."""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from knnlm.artifacts import atomic, sha256
from knnlm.errors import KnnlmError
from knnlm.training import parse_log

LIBRARY = Path(__file__).parent.parent  # fairseq runs modules of ours
HISTORY = "history.jsonl"


def checkpoint_folder(parent: Path, settings: dict, binary: Path, code: list[Path]) -> Path:
    """Return a folder named by everything that shapes the training, so that only the same training is ever resumed.

    `settings` is everything that could be set otherwise, `binary` the folder of fairseq's corpus, `code` the files that fairseq loads of ours.
    """
    corpus = [sha256(binary / name) for name in ("train.bin", "valid.bin", "dict.txt")]
    return parent / identity_name([settings, corpus, [path.read_text() for path in code]])


def identity_name(facts: list | dict) -> str:
    """Return a short name, hexadecimal, that belongs to these facts alone."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def train_until(updates: int, command: list[str], checkpoints: Path) -> None:
    """Train to this number of updates, from where the checkpoints in the folder end; do nothing where they are there already."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    if saved_updates(checkpoints) < updates:  # fairseq would make one update more than it was asked for
        train(command, checkpoints / HISTORY)


def history(checkpoints: Path) -> list[dict]:
    """Return the records of a training (`knnlm.training.COLUMNS`) in the order in which they came."""
    return [json.loads(line) for line in (checkpoints / HISTORY).read_text().splitlines()]


def saved_updates(checkpoints: Path) -> int:
    """Return the number of updates that a resumed training starts from, and see that it can: fairseq does not write every checkpoint atomically.

    It writes the first of checkpoint_{epoch}_{updates}.pt, checkpoint_best.pt and checkpoint_last.pt atomically and then copies it to the others, the
    last at the end. Where a crash cut that copy short, the newest of the others is what it was made from.
    """
    from knnlm.language_model import trained_updates

    last = checkpoints / "checkpoint_last.pt"
    if not last.exists():
        return 0
    if updates := trained_updates(last):
        return updates
    saved = {path: trained_updates(path) for path in checkpoints.glob("checkpoint*.pt")}
    newest = max(saved, key=saved.get)
    if not saved[newest]:
        last.unlink()
        return 0
    with atomic(last) as unfinished:
        shutil.copyfile(newest, unfinished)
    return saved[newest]


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies, however it dies: an orphan would go on writing the checkpoints of a resumed training."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def train(command: list[str], history: Path) -> None:
    """Run fairseq, keep its records in `history` and show them; raise KnnlmError where it fails."""
    tail: list[str] = []

    def echoed(stream):
        for line in stream:
            tail[:] = [*tail[-40:], line]
            yield line

    path = os.pathsep.join(filter(None, [str(LIBRARY), os.environ.get("PYTHONPATH")]))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": os.environ | {"PYTHONPATH": path}}
    with open(history, "a") as records, subprocess.Popen(command, preexec_fn=die_with_parent, **streams) as process:
        try:
            for row in parse_log(echoed(process.stdout)):
                records.write(json.dumps(row) + "\n")
                records.flush()
                rate = f", {row['tokens_per_second']:.0f} tokens/s" if row["split"] == "train" else ""
                print(f"training: update {row['update']}, {row['split']} loss {row['loss']:.3f} nats per BPE token{rate}", flush=True)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        text = "".join(tail)
        if "FloatingPointError" in text:
            raise KnnlmError("the gradients are not finite; lower lm.training.learning_rate or set a lower lm.training.clip_norm (0 clips nothing).")
        raise KnnlmError(f"fairseq-train ended with status {process.returncode}; its last lines were:\n{text}")
