"""Training LMs with fairseq's own command line: how it is called, on one device or on many, and what its log says."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from knnlm.errors import KnnlmError
from knnlm.running.devices import Job, device_for

COLUMNS = ["update", "epoch", "split", "loss", "perplexity", "learning_rate", "tokens_per_second"]

NEVER = 10**9  # epochs: validation and checkpoints are counted in updates
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
# Keys of the config's `lm` that fairseq calls the same.
AS_IN_FAIRSEQ = (*DROPOUTS, "weight_decay", "clip_norm", "warmup_updates", "tokens_per_sample")


@dataclass(frozen=True)
class Devices:
    """What an LM is trained on: GPUs (0: the CPU), the nodes that share them evenly, and each node's CPU threads.

    The nodes meet at `port` of the first of them; one node needs none.
    """

    gpus: int = 0
    nodes: int = 1
    threads: int = 1
    port: int = 0

    @property
    def launcher(self) -> list[str]:
        """The beginning of the call: Slurm starts it on each of several nodes, and fairseq finds out on which it is."""
        if self.nodes == 1:
            return []
        each = f"--ntasks-per-node=1 --cpus-per-task={self.threads} --kill-on-bad-exit=1"
        return f"srun --nodes={self.nodes} --ntasks={self.nodes} {each}".split()

    def passes(self, accumulate: int) -> int:
        """Return how many of an update's forward passes one device makes; the update is the same on any number of GPUs.

        Raises KnnlmError if the devices cannot share them evenly.
        """
        if accumulate % max(self.gpus, 1):
            raise KnnlmError(
                f"config key lm.training.accumulate: the {accumulate} passes of an update cannot be shared evenly by "
                f"{self.gpus} GPUs; make it a multiple of them or give other GPUs."
            )
        return accumulate // max(self.gpus, 1)


def training_devices(job: Job) -> Devices:
    """Return what a step trains an LM on; raises KnnlmError where it is not there."""
    nodes, of_node = job.nodes, job.gpus_of_node
    if device_for(of_node) == "cpu":
        return Devices(threads=job.threads)
    if nodes == 1:
        return Devices(of_node, threads=job.threads)
    if (number := os.environ.get("SLURM_JOB_ID")) is None:
        raise KnnlmError(
            f"config key resources.training_nodes: {nodes} nodes need Slurm, and this is no Slurm job; set it to 1 or "
            "use workflow/profiles/slurm."
        )
    return Devices(of_node * nodes, nodes, job.threads, port=10000 + int(number) % 50000)


def fairseq_command(
    architecture: dict,
    training: dict,
    seed: int,
    devices: Devices,
    binary: Path,
    plugin: Path,
    checkpoints: Path,
    program: str = "fairseq_cli.train",
    more_options: dict[str, object] | None = None,
) -> list[str]:
    """Return the `fairseq-train` call for these settings; the paper's are in `docs/paper.md#base-lm`.

    Started again after a crash, the same call goes on from `checkpoint_last.pt` in `checkpoints`. `program` is a module
    that does what `fairseq_cli.train` does; `more_options` are those of fairseq that the base LM's training leaves out.
    Raises KnnlmError where the devices cannot do what is set.
    """
    if training["fp16"] and not devices.gpus:
        raise KnnlmError(
            "config key lm.training.fp16: float16 training needs a GPU, but this job has none; set it to false or "
            "give GPUs."
        )
    period = training["cosine_period"] or max(training["updates"] - training["warmup_updates"], 1)
    options = {
        "user-dir": plugin,
        "task": "language_modeling",
        "arch": "transformer_lm_wikibpe",
        "decoder-layers": architecture["layers"],
        "decoder-embed-dim": architecture["width"],
        "decoder-ffn-embed-dim": architecture["feed_forward_width"],
        "decoder-attention-heads": architecture["heads"],
        "optimizer": training["optimiser"],
        "lr": training["learning_rate"],
        "lr-scheduler": "cosine",
        "warmup-init-lr": training["warmup_initial_learning_rate"],
        "min-lr": training["minimum_learning_rate"],
        "lr-period-updates": period,
        "max-update": training["updates"],
        "sample-break-mode": "none",
        "batch-size": training["batch_samples"],
        "batch-size-valid": training["batch_samples"],
        "required-batch-size-multiple": 1,
        "update-freq": devices.passes(training["accumulate"]),
        "validate-interval": NEVER,
        "validate-interval-updates": training["validate_every"],
        "save-interval": NEVER,
        "save-interval-updates": training["save_every"],
        "keep-interval-updates": 1,
        "seed": seed,
        "num-workers": 0,
        "log-format": "json",
        "log-interval": max(training["updates"] // 100, 1),
        "save-dir": checkpoints,
        "distributed-world-size": max(devices.gpus, 1),
    }
    lm = architecture | training
    options |= {name.replace("_", "-"): lm[name] for name in AS_IN_FAIRSEQ}
    if training["optimiser"] == "adam":
        options["adam-betas"] = "({}, {})".format(*training["betas"])
    else:
        options["momentum"] = training["momentum"]
    if devices.nodes > 1:
        options["distributed-port"] = devices.port
    flags = ["--no-epoch-checkpoints", *["--fp16"] * training["fp16"], *["--cpu"] * (not devices.gpus)]
    pairs = [str(part) for name, value in {**options, **(more_options or {})}.items() for part in (f"--{name}", value)]
    return [*devices.launcher, sys.executable, "-m", program, str(binary), *pairs, *flags]


def parse_log(lines: Iterable[str]) -> Iterator[dict]:
    """Yield one row (COLUMNS) for each training or validation record of a fairseq JSON log; loss in nats per BPE token.

    Raises KnnlmError as soon as a loss is not a finite number.
    """
    for line in lines:
        _, found, record = line.partition("| train_inner | {")
        split, prefix = "train", ""
        if not found:
            _, found, record = line.partition("| valid | {")
            split, prefix = "valid", "valid_"
        if not found:
            continue
        record = json.loads("{" + record)
        loss = float(record[f"{prefix}loss"]) * math.log(2)  # fairseq reports bits
        update = int(record[f"{prefix}num_updates"])
        if not math.isfinite(loss):
            raise KnnlmError(
                f"the {split} loss is {loss} at update {update}; lower lm.training.learning_rate, set a lower "
                "lm.training.clip_norm (0 clips nothing) or raise lm.training.warmup_updates."
            )
        rates = [float(record["lr"]), float(record["wps"])] if split == "train" else [math.nan, math.nan]
        row = [update, int(record["epoch"]), split, loss, math.exp(min(loss, 700)), *rates]
        yield dict(zip(COLUMNS, row, strict=True))


def loss_table(rows: Iterable[dict]) -> pd.DataFrame:
    """Return the loss curve sorted by update; where a resumed run repeats updates, the later record counts."""
    table = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["split", "update"], keep="last")
    return table.sort_values(["split", "update"]).reset_index(drop=True)
