"""Train the base LM with fairseq, resuming where an earlier attempt was killed."""

import argparse
import ctypes
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from knnlm.artifacts import atomic, sha256
from knnlm.errors import KnnlmError
from knnlm.steps import device_for, run
from knnlm.training import fairseq_command, loss_table, parse_log


def checkpoint_folder(arguments: argparse.Namespace, plugin: Path) -> Path:
    """Return a folder named by everything that shapes the training, so that only the same training is ever resumed."""
    binary = [sha256(arguments.binary / name) for name in ("train.bin", "valid.bin", "dict.txt")]
    code = [path.read_text() for path in sorted(plugin.glob("*.py"))]
    identity = json.dumps([arguments.settings, binary, code], sort_keys=True)
    return arguments.checkpoints / hashlib.sha256(identity.encode()).hexdigest()[:16]


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

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
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


def main(arguments: argparse.Namespace) -> None:
    """Train, then export the checkpoint of lowest validation loss and the loss curve."""
    from knnlm.language_model import PLUGIN, export_model

    device_for(arguments.gpus)
    lm = arguments.settings["lm"]
    checkpoints = checkpoint_folder(arguments, PLUGIN)
    checkpoints.mkdir(parents=True, exist_ok=True)
    history = checkpoints / "history.jsonl"
    command = fairseq_command(lm["architecture"], lm["training"], arguments.settings["seed"], arguments.gpus, arguments.binary, PLUGIN, checkpoints)
    if saved_updates(checkpoints) < lm["training"]["updates"]:  # fairseq would make one update more than it was asked for
        train(command, history)
    export_model(checkpoints / "checkpoint_best.pt", arguments.model, lm["architecture"], lm["training"]["tokens_per_sample"])
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    with atomic(arguments.loss) as unfinished:
        loss_table(rows).to_csv(unfinished, index=False)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with seed and lm")
    options.add_argument("--gpus", type=int, default=0)
    options.add_argument("--binary", type=Path, required=True, help="folder of fairseq's binary corpus")
    options.add_argument("--checkpoints", type=Path, required=True, help="folder that survives a crash")
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--loss", type=Path, required=True)
    return options


if __name__ == "__main__":
    run(main, parser())
