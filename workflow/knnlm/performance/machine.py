"""The machine: what it is, and what it can do at its best."""

import os
import platform
from pathlib import Path

import numpy as np
import torch

from knnlm.components.head_training import training_precision
from knnlm.performance.bench import median, seconds_of
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import software, write_manifest

PRODUCT_SIZE = 2048
COPIED_BYTES = 2**28  # several times the cache of a CPU
TRIES = 3


def description(device: str) -> dict[str, str | int]:
    """Return what machine and software this is: processor, cores, threads, bytes of memory, versions, GPU."""
    cores = os.cpu_count() or 1
    facts = {
        "processor": processor(),
        "cores": cores,
        "cores that this process may use": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_of("cpu"),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    return facts | software()


def processor() -> str:
    """Return the name of the CPU, where Linux tells it."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def memory_of(device: str) -> int:
    """Return the bytes of memory that the device has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if device == "cpu" else torch.cuda.mem_get_info()[1]


def product_speed(device: str, dtype: torch.dtype = torch.float32, size: int = PRODUCT_SIZE) -> float:
    """Return the FLOP/s of a square matrix product, the best of a few."""
    left, right, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(left, right, out=out), device) for _ in range(TRIES))


def speeds(device: str, folder: Path, disk_bytes: int) -> dict[str, float]:
    """Return what the machine can do a second: operations of matrix products, bytes copied in memory, bytes written."""
    found = {"float32_flops": product_speed(device)}
    with training_precision():
        found["float32_flops_at_training_precision"] = product_speed(device)
    found["bfloat16_flops"] = product_speed(device, torch.bfloat16)
    copy = copying(COPIED_BYTES, device)
    found["copied_bytes"] = 2 * COPIED_BYTES / min(seconds_of(copy, device) for _ in range(TRIES))
    return found | {"disk_bytes": disk_speed(folder, disk_bytes)}


def copying(size: int, device: str = "cpu"):
    """Return the work of copying `size` bytes in memory, which reads as many and writes as many."""
    source, target = (make(size, dtype=torch.uint8, device=device) for make in (torch.ones, torch.zeros))
    return lambda: target.copy_(source)


def disk_speed(folder: Path, size: int) -> float:
    """Return the bytes of an array that are written and hashed a second, until all are on the disk; a median."""
    array, path, taken = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8), folder / "disk.npy", []

    def write() -> None:
        save_array(path, array)
        write_manifest(path.with_suffix(".json"), [path])
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    for _ in range(TRIES):
        taken.append(seconds_of(write, "cpu"))
        path.unlink()
        path.with_suffix(".json").unlink()
    return size / median(taken)
