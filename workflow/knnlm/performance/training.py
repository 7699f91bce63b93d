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
from knnlm.performance.bench import Bench, Measured, median, row, seconds_of
from knnlm.performance.language_model import forward_products, multiplying, random_tokens
from knnlm.performance.machine import memory_of

INT32_CODE = 4  # of the types that fairseq's format numbers
LINE_TOKENS = 32
LEAST_UPDATES, MOST_UPDATES, SECONDS = 10, 30, 60
# With next to no learning rate random text cannot make the loss infinite; the speed does not depend on it.
STILL = {"learning_rate": 1e-7, "minimum_learning_rate": 0.0, "warmup_updates": 0}
STILL |= {"schedule": "cosine", "cosine_period": None}


def write_binary(prefix: Path, tokens: np.ndarray) -> None:
    """Write token ids, int32 (n,), as lines in fairseq's memory-mapped format: `prefix`.bin and `prefix`.idx."""
    tokens = tokens.astype(np.int32)
    begins = np.arange(0, len(tokens), LINE_TOKENS)
    sizes = np.diff([*begins, len(tokens)]).astype(np.int32)
    tokens[begins + sizes - 1] = END_OF_LINE  # one of the tokens of its line
    tokens.tofile(f"{prefix}.bin")
    with open(f"{prefix}.idx", "wb") as file:
        file.write(struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, INT32_CODE, len(sizes)))
        file.write(sizes.tobytes() + (begins.astype(np.int64) * tokens.itemsize).tobytes())


def affordable(config: dict, vocabulary: int, memory_bytes: float, speed: float, device: str) -> dict:
    """Return the config with samples halved until half the memory holds them, and as many passes as SECONDS allow."""
    architecture, whole = config["lm"]["architecture"], config["lm"]["training"]
    cut = whole | STILL | {"fp16": whole["fp16"] and device == "cuda", "updates": 1}
    no_tokens = dict.fromkeys(("train", "valid", "test"), 0)

    def memory() -> int:
        return training(Run(config | {"lm": config["lm"] | {"training": cut}}, no_tokens, vocabulary)).memory_bytes

    while memory() > memory_bytes / 2 and cut["batch_samples"] * cut["tokens_per_sample"] > 8:
        cut["batch_samples" if cut["batch_samples"] > 1 else "tokens_per_sample"] //= 2
    length = cut["tokens_per_sample"]
    flops = 3 * length * cut["batch_samples"] * forward_flops(architecture, length, vocabulary)  # of one pass
    passes = int(SECONDS * speed / flops)
    updates = min(max(passes // cut["accumulate"], LEAST_UPDATES), MOST_UPDATES)
    cut |= dict.fromkeys(("updates", "validate_every", "save_every"), updates)
    cut["accumulate"] = max(1, min(cut["accumulate"], passes // updates))
    return config | {"lm": config["lm"] | {"training": cut}}


def measure(config: dict, vocabulary: int, bench: Bench) -> Measured:
    """Train a random model on random text by the workflow's own command, on one device, between products."""
    config = affordable(config, vocabulary, memory_of(bench.device), bench.speed, bench.device)
    architecture, settings = config["lm"]["architecture"], config["lm"]["training"]
    samples, length, updates = (settings[key] for key in ("batch_samples", "tokens_per_sample", "updates"))
    binary, checkpoints = bench.folder / "binary", bench.folder / "checkpoints"
    binary.mkdir()
    tokens = random_tokens(tokens_per_update(config) * (updates + 1), vocabulary, bench.seed)
    write_binary(binary / "train", tokens)
    write_binary(binary / "valid", random_tokens(length, vocabulary, bench.seed + 1))
    shutil.copy(bench.folder / "model" / "dict.txt", binary)
    devices = Devices(gpus=int(bench.device == "cuda"), threads=torch.get_num_threads())
    command = fairseq_command(architecture | settings, bench.seed, devices, binary, checkpoints)
    products = forward_products(architecture, samples, length, vocabulary)
    work = training_precision()(multiplying(products, bench.device))
    _, *before = (seconds_of(work, bench.device) for _ in range(1 + bench.pairs))  # the first is slower
    train_until(updates, command, checkpoints)
    after = [seconds_of(work, bench.device) for _ in range(bench.pairs)]
    ours = tokens_per_second(history(checkpoints), bench.pairs)
    reference = samples * length / (3 * np.mean([before, after], axis=0)[: len(ours)])  # fewer, if training was short
    found = row("base LM training (fairseq): matrix products of three forward passes", "tokens/s", ours, reference)
    return Measured([found], {"training_flops": median(ours) * 3 * forward_flops(architecture, length, vocabulary)})


def tokens_per_second(records: list[dict], parts: int) -> np.ndarray:
    """Return fairseq's own tokens a second in parts of a training after its first third: float64 (parts,)."""
    speeds = np.array([record["tokens_per_second"] for record in records if record["split"] == "train"])
    speeds = speeds[np.isfinite(speeds) & (speeds > 0)]
    kept = speeds[len(speeds) // 3 :]  # the first third warms up
    return np.array([1 / np.mean(1 / part) for part in np.array_split(kept, min(parts, len(kept)))])
