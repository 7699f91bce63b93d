"""The device that a step computes on: GPUs that its job was given, each held by a few jobs at most, or the CPU."""

import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from knnlm.errors import KnnlmError
from knnlm.storage.locks import lock

VARIABLE = "KNNLM_DEVICE"  # `cpu`: rules ask the scheduler for GPUs, steps compute on the CPU; for trying out a cluster
SECONDS_BETWEEN_TRIES = 1.0
JOBS_OF_A_GPU = 4  # at most: one computes while others start or write; the scheduler says how many there are


@dataclass(frozen=True)
class Job:
    """The GPUs that a step's job was given, of all its nodes, and the CPU threads of each node."""

    gpus: int = 0
    gres: str = ""  # in place of `gpus`, where a Slurm site needs it: `gpu:2` or `gpu:a100:2` on each node
    nodes: int = 1
    threads: int = 1

    @property
    def gpus_of_node(self) -> int:
        """The GPUs of one node; raises KnnlmError if `gres` names none, or if the nodes cannot share `gpus` evenly."""
        if self.gres:
            if not (match := re.fullmatch(r"gpu(?::[A-Za-z][\w.]*)?(?::(\d+))?", self.gres)):
                remedy = "write gpu:<number> or gpu:<type>:<number> in the profile"
                raise KnnlmError(f"resource gres: {self.gres!r} is not a request for GPUs; {remedy}.")
            return int(match[1] or 1)
        if self.gpus % self.nodes:
            problem = f"{self.gpus} GPUs cannot be spread evenly over {self.nodes} nodes; choose a divisor"
            raise KnnlmError(f"config key resources.training_nodes: {problem}.")
        return self.gpus // self.nodes

    @property
    def device(self) -> str:
        """The torch device that the step computes on; raises KnnlmError where the GPUs are not there."""
        return device_for(self.gpus_of_node)


def device_for(gpus: int) -> str:
    """Return the torch device for a job that was given this many GPUs; raises KnnlmError where they are not there.

    Where CUDA shows more of them, as on a workstation, the process claims as many until it ends and sees no others. So
    no two jobs share a GPU while another one is free.
    """
    if (wanted := os.environ.get(VARIABLE, "cuda")) not in ("cpu", "cuda"):
        remedy = "write cpu, or unset it to use the GPUs that jobs are given"
        raise KnnlmError(f"environment variable {VARIABLE}: {wanted!r} is not a device; {remedy}.")
    if gpus and wanted == "cpu":
        print(f"{VARIABLE} is cpu: this job was given {gpus} GPU(s) and computes on the CPU.", flush=True)
    if gpus == 0 or wanted == "cpu":
        return "cpu"
    import torch

    if (there := torch.cuda.device_count()) < gpus:
        to_zero = "set resources.gpus and resources.training_gpus of the config to 0"
        remedy = f"to use the CPU, {to_zero}, or on one machine run with --resources gpu=0"
        raise KnnlmError(f"this step was given {gpus} GPU(s) but CUDA shows {there}; {remedy}.")
    if there > gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(there)]
        folder = Path(tempfile.gettempdir(), f"knnlm-gpus-{os.getuid()}")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claim(gpus, names, folder, JOBS_OF_A_GPU))
    return "cuda"


def claim(wanted: int, names: Sequence[str], folder: Path, jobs: int = 1) -> list[str]:
    """Wait for `wanted` devices that fewer than `jobs` other processes hold, and return their names, free ones first.

    They are this process's until it ends, however it ends: a lock on a file of the device's name in `folder` holds a
    place on it. A process that waits holds none, so that two cannot wait for each other.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        held: dict[str, int | None] = {}
        for place, name in product(range(jobs), names):
            if len(held) < wanted and name not in held:
                file = re.sub(r"\W", "-", name)
                with suppress(BlockingIOError):
                    held[name] = lock(folder / f"{file}.{place}")
        if len(held) == wanted:
            return list(held)
        for file in filter(None, held.values()):
            os.close(file)
        time.sleep(SECONDS_BETWEEN_TRIES)
