"""What a hypothesis makes: results, shown as they come, and kept, so that no attempt after a crash makes them again."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import Component
from knnlm.components.interpolation import best_mixture, interpolate, perplexity
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import read_manifest, write_manifest

KIND, KEPT = "kept result", "results"  # of manifests; the folder of results that are kept until a step has ended
Fact = float | bool | str  # what is measured of a component, or said of it


@dataclass(frozen=True)
class Result:
    """A component, its log p of the gold tokens for each split, float32 (n,) in nats, and further facts.

    Speeds are facts of the machine: no two runs have the same.
    """

    component: Component
    log_p: dict[str, np.ndarray]
    facts: dict[str, Fact] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)


Results = Iterator[Result]  # what the `components` of a hypothesis yields


def show(result: Result, log_p_base: np.ndarray, words: int) -> None:
    """Print a component's perplexity on valid, alone and beside the base LM, of log p float (n,) in nats."""
    log_p = result.log_p["valid"]
    _, weight = best_mixture(log_p_base, log_p)
    alone, mixed = perplexity(log_p, words), perplexity(interpolate(log_p_base, log_p, weight), words)
    of_both = f"{alone:.2f} alone, {mixed:.2f} with the base LM at λ = {weight:.3f}"
    print(f"{result.component.component}: word perplexity on valid {of_both}", flush=True)


def keep(folder: Path, result: Result) -> None:
    """Keep one result in a folder of its own."""
    files = [folder / f"{split}.npy" for split in result.log_p]
    for file, column in zip(files, result.log_p.values(), strict=True):
        save_array(file, np.asarray(column, dtype=np.float32))
    facts = {"component": asdict(result.component), "facts": result.facts}
    write_manifest(folder / "manifest.json", files=files, kind=KIND, **facts)


def kept(folder: Path) -> Result | None:
    """Return the result that `keep` has kept; None where there is nothing, or it is not whole."""
    try:
        found = read_manifest(folder / "manifest.json", kind=KIND)
        log_p = {split: np.array(load_array(folder / f"{split}.npy", dtype="float32")) for split in EVALUATED}
    except KnnlmError:
        return None
    return Result(Component(**found["component"]), log_p, found["facts"])


def forget(folder: Path) -> None:
    """Remove a folder of kept results, and its parent if that is empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
