"""Training the base LM: fairseq's tokens a second against three forward passes at the speed of matrix products."""

import shutil
import struct
from pathlib import Path

import numpy as np
import torch

from knnlm.components.head_training import training_precision
from knnlm.corpus.dictionary import END_OF_LINE
from knnlm.cost.sizes import Run, forward_flops, tokens_per_update
from knnlm.cost.stages import training
from knnlm.language_model.fairseq_runs import history, train_until
from knnlm.language_model.training import Devices, fairseq_command
from knnlm.language_model.transformer import PLUGIN
from knnlm.performance.bench import Bench, Measured, row, seconds_of
from knnlm.performance.language_model import forward_products, multiplying, random_tokens
from knnlm.performance.machine import memory_of

INT32_CODE = 4  # of the types that fairseq's format numbers
LINE_TOKENS = 32
LEAST_UPDATES, MOST_UPDATES, SECONDS = 10, 30, 60


def write_binary(prefix: Path, tokens: np.ndarray) -> None:
    """Write token ids, int32 (n,), as lines in fairseq's memory-mapped format: `prefix`.bin and `prefix`.idx. The end of a line counts as one of its tokens."""
    tokens = tokens.astype(np.int32)
    begins = np.arange(0, len(tokens), LINE_TOKENS)
    sizes = np.diff([*begins, len(tokens)]).astype(np.int32)
    tokens[begins + sizes - 1] = END_OF_LINE
    tokens.tofile(f"{prefix}.bin")
    with open(f"{prefix}.idx", "wb") as file:
        file.write(struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, INT32_CODE, len(sizes)))
        file.write(sizes.tobytes() + (begins.astype(np.int64) * tokens.itemsize).tobytes())


def affordable(config: dict, vocabulary: int, memory_bytes: float, speed: float, device: str) -> dict:
    """Return the config with a training that fits: samples halved until half the memory holds it, few updates, and no more passes than `SECONDS` allow.

    The learning rate is next to nothing, so that random text cannot make the loss infinite; it has no part in the speed.
    """
    settings = config["lm"]["training"] | {
        "learning_rate": 1e-7,
        "minimum_learning_rate": 0.0,
        "warmup_updates": 0,
        "cosine_period": None,
    }
    settings |= {"fp16": settings["fp16"] and device == "cuda"}

    def with_training(**changes: int) -> dict:
        settings.update(changes)
        return {**config, "lm": {**config["lm"], "training": dict(settings)}}

    def memory() -> int:
        return training(Run(with_training(updates=1), {}, vocabulary)).memory_bytes

    while memory() > memory_bytes / 2 and settings["batch_samples"] * settings["tokens_per_sample"] > 8:
        halved = "batch_samples" if settings["batch_samples"] > 1 else "tokens_per_sample"
        settings[halved] //= 2
    of_pass = (
        3
        * settings["tokens_per_sample"]
        * settings["batch_samples"]
        * forward_flops(config["lm"]["architecture"], settings["tokens_per_sample"], vocabulary)
    )
    passes = int(SECONDS * speed / of_pass)
    updates = min(max(passes // settings["accumulate"], LEAST_UPDATES), MOST_UPDATES)
    return with_training(
        updates=updates,
        accumulate=max(1, min(settings["accumulate"], passes // updates)),
        validate_every=updates,
        save_every=updates,
    )


def measure(config: dict, vocabulary: int, bench: Bench) -> Measured:
    """Train a random model on a random text for a few updates with the very command of the workflow, on one device, products before and after it."""
    config = affordable(config, vocabulary, memory_of(bench.device), bench.speed, bench.device)
    architecture, settings = config["lm"]["architecture"], config["lm"]["training"]
    binary, update = bench.folder / "binary", tokens_per_update(config)
    binary.mkdir()
    write_binary(binary / "train", random_tokens(update * (settings["updates"] + 1), vocabulary, bench.seed))
    write_binary(binary / "valid", random_tokens(settings["tokens_per_sample"], vocabulary, bench.seed + 1))
    shutil.copy(bench.folder / "model" / "dict.txt", binary)
    devices = Devices(gpus=int(bench.device == "cuda"), threads=torch.get_num_threads())
    checkpoints = bench.folder / "checkpoints"
    command = fairseq_command(architecture, settings, bench.seed, devices, binary, PLUGIN, checkpoints)
    samples, length = settings["batch_samples"], settings["tokens_per_sample"]
    work = multiplying(forward_products(architecture, samples, length, vocabulary), bench.device)
    _product_seconds(work, bench)  # the first is slower
    before = [_product_seconds(work, bench) for _ in range(bench.pairs)]
    train_until(settings["updates"], command, checkpoints)
    after = [_product_seconds(work, bench) for _ in range(bench.pairs)]
    ours = tokens_per_second(history(checkpoints), bench.pairs)
    reference = (
        samples * length / (3 * np.mean([before, after], axis=0)[: len(ours)])
    )  # a short training has fewer parts
    rates = {"training_flops": float(np.median(ours)) * 3 * forward_flops(architecture, length, vocabulary)}
    return Measured(
        [row("base LM training (fairseq): matrix products of three forward passes", "tokens/s", ours, reference)], rates
    )


def tokens_per_second(records: list[dict], parts: int) -> np.ndarray:
    """Return fairseq's own tokens a second in successive parts of a training, float64 (parts,), without the first third, which warms up."""
    speeds = np.array([record["tokens_per_second"] for record in records if record["split"] == "train"])
    speeds = speeds[np.isfinite(speeds) & (speeds > 0)]
    kept = speeds[len(speeds) // 3 :]
    return np.array([1 / np.mean(1 / part) for part in np.array_split(kept, min(parts, len(kept)))])


def _product_seconds(work, bench: Bench) -> float:
    with training_precision():
        return seconds_of(work, bench.device)
