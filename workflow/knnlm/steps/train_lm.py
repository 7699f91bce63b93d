"""Train the base LM with fairseq, resuming where an earlier attempt was killed."""

import argparse
import hashlib
import json
import subprocess
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


def train(command: list[str], history: Path) -> None:
    """Run fairseq, keep its records in `history` and show them; raise KnnlmError where it fails."""
    tail: list[str] = []

    def echoed(stream):
        for line in stream:
            tail[:] = [*tail[-40:], line]
            yield line

    with open(history, "a") as records, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
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
            raise KnnlmError("training lost its numbers (NaN or infinite gradients); lower lm.training.learning_rate or lm.training.clip_norm.")
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
