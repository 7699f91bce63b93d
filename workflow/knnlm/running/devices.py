"""The device that a step computes on: GPUs that its job was given, each held by one job at a time, or the CPU."""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from knnlm.errors import KnnlmError
from knnlm.storage.locks import lock

VARIABLE = "KNNLM_DEVICE"  # `cpu`: rules ask the scheduler for GPUs, steps compute on the CPU; for trying out a cluster
SECONDS_BETWEEN_TRIES = 1.0


class _Gres(argparse.Action):
    """Count the GPUs of one node's `--gres`, such as `gpu:2` or `gpu:a100:2`; where there are some they are the job's."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str,
        option_string: str | None = None,
    ) -> None:
        if values:
            if not (match := re.fullmatch(r"gpu(?::[A-Za-z][\w.]*)?(?::(\d+))?", values)):
                parser.error(
                    f"resource gres: {values!r} is not a request for GPUs; write gpu:<number> or gpu:<type>:<number> in the profile."
                )
            namespace.gpus, namespace.gres = int(match[1] or 1), values


def gpu_options(options: argparse.ArgumentParser) -> None:
    """Add what says how many GPUs a step's job was given."""
    options.add_argument("--gpus", type=int, default=0)
    options.add_argument(
        "--gres", action=_Gres, default="", help="how they were asked for, where a site knows no other way; of one node"
    )


def training_options(options: argparse.ArgumentParser) -> None:
    """Add what says where a step trains an LM."""
    gpu_options(options)
    options.add_argument("--nodes", type=int, default=1, help="nodes over which the GPUs are spread evenly")
    options.add_argument("--threads", type=int, default=1, help="CPU threads of the job on each node")


def gpus_of_node(arguments: argparse.Namespace) -> int:
    """Return how many GPUs a step's job was given on this node; raises KnnlmError if they cannot be spread evenly over its nodes."""
    if arguments.gres:
        return arguments.gpus
    if arguments.gpus % arguments.nodes:
        raise KnnlmError(
            f"config key resources.training_nodes: {arguments.gpus} GPUs cannot be spread evenly over {arguments.nodes} nodes; choose a divisor."
        )
    return arguments.gpus // arguments.nodes


def device_for(gpus: int) -> str:
    """Return the torch device for a job that was given this many GPUs; raises KnnlmError where they are not there.

    Where CUDA shows more of them, as on a workstation, the process claims as many until it ends and sees no others: no two jobs share one.
    """
    if (wanted := os.environ.get(VARIABLE, "cuda")) not in ("cpu", "cuda"):
        raise KnnlmError(
            f"environment variable {VARIABLE}: {wanted!r} is not a device; write cpu, or unset it to use the GPUs that jobs are given."
        )
    if gpus and wanted == "cpu":
        print(f"{VARIABLE} is cpu: this job was given {gpus} GPU(s) and computes on the CPU.", flush=True)
    if gpus == 0 or wanted == "cpu":
        return "cpu"
    import torch

    if (there := torch.cuda.device_count()) < gpus:
        raise KnnlmError(
            f"this step was given {gpus} GPU(s) but CUDA shows {there}; to use the CPU, set resources.gpus and resources.training_gpus of the config "
            "to 0, or on one machine run with --resources gpu=0."
        )
    if there > gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(there)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(
            claim(gpus, names, Path(tempfile.gettempdir(), f"knnlm-gpus-{os.getuid()}"))
        )
    return "cuda"


def claim(wanted: int, names: Sequence[str], folder: Path) -> list[str]:
    """Return the names of `wanted` devices that no other process holds, waiting for them; they are this process's until it ends, however it ends.

    A device is held by a lock on a file of its name in `folder`. Never some of them are held while waiting for others.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        held: dict[str, int | None] = {}
        for name in names:
            with suppress(BlockingIOError):
                held[name] = lock(folder / re.sub(r"\W", "-", name))
            if len(held) == wanted:
                return list(held)
        for file in filter(None, held.values()):
            os.close(file)
        time.sleep(SECONDS_BETWEEN_TRIES)
