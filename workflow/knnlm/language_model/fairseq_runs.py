"""Running fairseq: a folder of checkpoints for each training, which goes on where an earlier attempt was killed."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
from collections import deque
from pathlib import Path

from knnlm.errors import OUT_OF_MEMORY, KnnlmError
from knnlm.language_model.convergence import stops_at, valid_losses
from knnlm.language_model.training import COLUMNS, loss_table, parse_log
from knnlm.language_model.transformer import trained_updates
from knnlm.running.processes import die_with_parent, end_with_children, reason_in
from knnlm.storage.atomic import atomic, naming
from knnlm.storage.locks import locked
from knnlm.storage.manifests import identity_name, sha256

LIBRARY = Path(__file__).parents[2]  # fairseq runs modules of ours
HISTORY = "history.jsonl"
LAST_LINES = 200  # of fairseq's output, kept in case it fails: several tracebacks, where it trains on several GPUs


def checkpoint_folder(parent: Path, settings: dict, binary: Path, code: list[Path]) -> Path:
    """Return a folder named by everything that shapes the training, so that only the same training is ever resumed.

    `settings` is all that could be set otherwise, `binary` fairseq's corpus, `code` the files of ours that it loads.
    """
    corpus = [sha256(binary / name) for name in ("train.bin", "valid.bin", "dict.txt")]
    return parent / identity_name([settings, corpus, [path.read_text(encoding="utf-8") for path in code]])


def train_until(updates: int, command: list[str], checkpoints: Path, patience: int | None = None) -> None:
    """Train to this number of updates, from where the checkpoints in the folder end; do nothing if they are there.

    With `patience` training ends before, after so many validations in a row without a lower loss: however often it was
    resumed, since the records tell, not fairseq's own count. The command must save at every validation.

    Wait for another job that writes the checkpoints: on a cluster, one may outlive its Snakemake. Raises KnnlmError
    where fairseq fails, and where the records of the updates behind the checkpoints are missing or damaged.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    waiting = f"training: another job writes {checkpoints}; waiting until it has ended"
    with locked(checkpoints / ".lock", waiting=waiting):
        try:
            drop_unfinished_line(checkpoints / HISTORY)
            if saved := saved_updates(checkpoints):
                records = history(checkpoints)  # damage is told now, not when the training is done
                if has_ended(records, patience):
                    return
            if saved < updates:  # fairseq would make one update more than it was asked for
                train(command, checkpoints / HISTORY, patience)
        finally:
            drop_unfinished_checkpoints(checkpoints)


def history(checkpoints: Path) -> list[dict]:
    """Return the records of a training (`knnlm.language_model.training.COLUMNS`), the earliest first.

    Raises KnnlmError, naming the folder, where they are missing or damaged: fairseq's checkpoints do not hold them.
    """
    path = checkpoints / HISTORY
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        records = [None]
    if not all(isinstance(record, dict) and record.keys() >= set(COLUMNS) for record in records):
        remedy = f"delete the folder {checkpoints} and rerun: the training starts anew"
        raise KnnlmError(f"{path}: missing or damaged; {remedy}.")
    return records


def has_ended(records: list[dict], patience: int | None, update: float = math.inf) -> bool:
    """Return whether patience has ended a training by this update; a resumed one has records of later updates too."""
    return stops_at(valid_losses(loss_table(records), update), patience) is not None


def saved_updates(checkpoints: Path) -> int:
    """Return the number of updates that a resumed training starts from, and see that it can.

    fairseq writes the first of checkpoint_{epoch}_{updates}.pt, checkpoint_best.pt and checkpoint_last.pt atomically,
    but then copies it to the others, checkpoint_last.pt at the end. Where a crash cut it short, the newest replaces it.
    """
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


def drop_unfinished_checkpoints(checkpoints: Path) -> None:
    """Delete what fairseq has not written whole; an empty checkpoint_last.pt stays, for `saved_updates` to mend."""
    for path in [*checkpoints.glob("checkpoint*.pt"), *checkpoints.glob("*.tmp")]:
        if path.suffix == ".tmp" or not trained_updates(path):
            os.truncate(path, 0) if path.name == "checkpoint_last.pt" else path.unlink()


def train(command: list[str], records_file: Path, patience: int | None = None) -> None:
    """Run fairseq, keep its records and show them, and end it by patience; raise KnnlmError where it fails."""
    has_stopped, folder = False, records_file.parent
    tail: deque[str] = deque(maxlen=LAST_LINES)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "env": environment()}
    how["preexec_fn"] = die_with_parent
    with (
        naming(records_file),
        open(records_file, "a", encoding="utf-8") as records,
        subprocess.Popen(command, **how) as process,
    ):
        try:
            for line in process.stdout:
                tail.append(line)
                for row in parse_log([line]):
                    records.write(json.dumps(row) + "\n")
                    records.flush()
                    show(row)
                    if patience and row["split"] == "valid":
                        has_stopped = has_ended(history(folder), patience, row["update"])
                if has_stopped:  # at a validation that was not the best: its checkpoint is not needed
                    print(f"training: no lower valid loss for {patience} validations; it ends here", flush=True)
                    end_with_children(process)
                    break
        except BaseException:
            process.kill()
            raise
    if process.returncode and not has_stopped:
        raise failure(process.returncode, "".join(tail), folder)


def show(row: dict) -> None:
    """Print a record of a training."""
    rate = f", {row['tokens_per_second']:.0f} tokens/s" if row["split"] == "train" else ""
    loss = f"{row['split']} loss {row['loss']:.3f} nats per BPE token{rate}"
    print(f"training: update {row['update']}, {loss}", flush=True)


def environment() -> dict[str, str]:
    """Return fairseq's environment: it finds our modules, and PyTorch reads checkpoints without unpickling code."""
    inherited = {name: value for name, value in os.environ.items() if name != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    path = os.pathsep.join(filter(None, [str(LIBRARY), inherited.get("PYTHONPATH")]))
    return inherited | {"PYTHONPATH": path, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}


def drop_unfinished_line(path: Path) -> None:
    """Take away the end of a file of lines that a full disk or a crash has cut short."""
    if path.exists():
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def failure(status: int, text: str, checkpoints: Path) -> Exception:
    """Return the error that says why fairseq ended with this exit status and these last words."""
    if "FloatingPointError" in text:
        remedy = "lower lm.training.learning_rate or set a lower lm.training.clip_norm (0 clips nothing)"
        return KnnlmError(f"the gradients are not finite; {remedy}.")
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(checkpoints))
    again = "run the same command again with more memory, and the training goes on from its last checkpoint"
    remedy = f"{again}, or lower lm.training.batch_samples."
    if status < 0:
        name = signal.Signals(-status).name
        return KnnlmError(f"fairseq-train was killed by {name}, perhaps for want of memory; {remedy}")
    if OUT_OF_MEMORY.search(text):
        return KnnlmError(f"fairseq-train ran out of memory; {remedy}")
    return KnnlmError(f"fairseq-train ended with status {status}: {reason_in(text)}")
