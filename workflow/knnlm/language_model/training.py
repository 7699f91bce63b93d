"""Training LMs with fairseq's own command line: how it is called, on one device or on many, and what its log says."""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from knnlm.errors import KnnlmError
from knnlm.running.devices import Job, device_for

PLUGIN = Path(__file__).parents[2] / "fairseq_plugin"
TRAIN = "fairseq_cli.train"
COLUMNS = ["update", "epoch", "split", "loss", "perplexity", "learning_rate", "tokens_per_second"]
# The options of every training, by the keys of the config's `lm`; validation and checkpoints are counted in updates.
OPTIONS = """
--task language_modeling --arch transformer_lm_wikibpe --decoder-layers {layers} --decoder-embed-dim {width}
--decoder-ffn-embed-dim {feed_forward_width} --decoder-attention-heads {heads} --dropout {dropout}
--attention-dropout {attention_dropout} --activation-dropout {activation_dropout} --optimizer {optimiser}
--weight-decay {weight_decay} --clip-norm {clip_norm} --lr {learning_rate} --lr-scheduler {schedule}
--warmup-updates {warmup_updates} --warmup-init-lr {warmup_initial_learning_rate}
--max-update {updates} --sample-break-mode none --tokens-per-sample {tokens_per_sample}
--batch-size {batch_samples} --batch-size-valid {batch_samples} --required-batch-size-multiple 1 --update-freq {passes}
--validate-interval 1000000000 --validate-interval-updates {validate_every} --save-interval 1000000000
--save-interval-updates {save_every} --keep-interval-updates 1 --no-epoch-checkpoints --seed {seed} --num-workers 0
--log-format json --log-interval {log_interval} --distributed-world-size {gpus}
"""


@dataclass(frozen=True)
class Devices:
    """What an LM is trained on: GPUs (0: the CPU), the nodes that share them evenly, and each node's CPU threads."""

    gpus: int = 0
    nodes: int = 1
    threads: int = 1
    port: int = 0  # of the first node, where several meet

    @property
    def launcher(self) -> list[str]:
        """The beginning of the call: Slurm starts it on each of several nodes, and fairseq finds out on which it is."""
        if self.nodes == 1:
            return []
        each = f"--ntasks-per-node=1 --cpus-per-task={self.threads} --kill-on-bad-exit=1"
        return f"srun --nodes={self.nodes} --ntasks={self.nodes} {each}".split()

    def passes(self, accumulate: int) -> int:
        """Return how many passes of an update each device makes; KnnlmError if they cannot share them evenly."""
        if accumulate % max(self.gpus, 1):
            problem = f"the {accumulate} passes of an update cannot be shared evenly by {self.gpus} GPUs"
            remedy = "make it a multiple of them or give other GPUs"
            raise KnnlmError(f"config key lm.training.accumulate: {problem}; {remedy}.")
        return accumulate // max(self.gpus, 1)


def training_devices(job: Job) -> Devices:
    """Return what a step trains an LM on; raises KnnlmError where it is not there."""
    nodes, of_node = job.nodes, job.gpus_of_node
    if device_for(of_node) == "cpu":
        return Devices(threads=job.threads)
    if nodes == 1:
        return Devices(of_node, threads=job.threads)
    if (number := os.environ.get("SLURM_JOB_ID")) is None:
        problem = f"{nodes} nodes need Slurm, and this is no Slurm job; set it to 1 or use workflow/profiles/slurm"
        raise KnnlmError(f"config key resources.training_nodes: {problem}.")
    return Devices(of_node * nodes, nodes, job.threads, port=10000 + int(number) % 50000)


def fairseq_command(
    lm: dict, seed: int, devices: Devices, binary: Path, folder: Path, program: str = TRAIN, more: dict | None = None
) -> list[str]:
    """Return the `fairseq-train` call for these settings; the paper's are in `docs/paper.md#base-lm`.

    `lm` has the keys of the config's `lm.architecture` and `lm.training`, `binary` is fairseq's corpus. Started again
    after a crash, the same call goes on from `checkpoint_last.pt` in `folder`. `program` is a module that does what
    `fairseq_cli.train` does; `more` are options of fairseq, by name, that the base LM's training leaves out. Raises
    KnnlmError where the devices cannot do what is set.
    """
    if lm["fp16"] and not devices.gpus:
        problem = "float16 training needs a GPU, but this job has none; set it to false or give GPUs"
        raise KnnlmError(f"config key lm.training.fp16: {problem}.")
    told = lm | {"seed": seed, "gpus": max(devices.gpus, 1), "passes": devices.passes(lm["accumulate"])}
    told["log_interval"] = max(lm["updates"] // 100, 1)
    adam, nag = {"adam-betas": "({}, {})".format(*lm["betas"])}, {"momentum": lm["momentum"]}
    options = {"user-dir": PLUGIN, "save-dir": folder} | (adam if lm["optimiser"] == "adam" else nag)
    if lm["schedule"] == "cosine":
        options["min-lr"] = lm["minimum_learning_rate"]
        options["lr-period-updates"] = lm["cosine_period"] or max(lm["updates"] - lm["warmup_updates"], 1)
    if devices.nodes > 1:
        options["distributed-port"] = devices.port
    flags = ["--fp16"] * lm["fp16"] + ["--cpu"] * (not devices.gpus)
    pairs = [str(part) for name, value in (options | (more or {})).items() for part in (f"--{name}", value)]
    call = [*devices.launcher, sys.executable, "-m", program, str(binary)]
    return [*call, *OPTIONS.format(**told).split(), *flags, *pairs]


def parse_log(lines: Iterable[str]) -> Iterator[dict]:
    """Yield a row (COLUMNS) for each record of fairseq's log, in nats per token; KnnlmError if a loss is not finite."""
    for line in lines:
        if not (found := re.search(r"\| (train_inner|valid) \| (\{.*)", line)):
            continue
        split, prefix = {"train_inner": ("train", ""), "valid": ("valid", "valid_")}[found[1]]
        record = json.loads(found[2])
        loss = float(record[f"{prefix}loss"]) * math.log(2)  # fairseq reports bits
        update = int(record[f"{prefix}num_updates"])
        if not math.isfinite(loss):
            lower = "lower lm.training.learning_rate, set a lower lm.training.clip_norm (0 clips nothing)"
            problem = f"the {split} loss is {loss} at update {update}"
            raise KnnlmError(f"{problem}; {lower} or raise lm.training.warmup_updates.")
        rates = [float(record["lr"]), float(record["wps"])] if split == "train" else [math.nan, math.nan]
        row = [update, int(record["epoch"]), split, loss, math.exp(min(loss, 700)), *rates]
        yield dict(zip(COLUMNS, row, strict=True))


def loss_table(rows: Iterable[dict]) -> pd.DataFrame:
    """Return the loss curve sorted by update; where a resumed run repeats updates, the later record counts."""
    table = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["split", "update"], keep="last")
    return table.sort_values(["split", "update"]).reset_index(drop=True)
