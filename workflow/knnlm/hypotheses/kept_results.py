"""What a long step has finished before its end, kept so that an attempt which follows one that was cut off does not do it again."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import Component
from knnlm.errors import KnnlmError
from knnlm.storage.files import content_hash, load_array, read_manifest, save_array, write_manifest

KIND = "kept result"


def shaping_facts(config: dict, stored: object, without: Iterable[str]) -> dict:
    """Return what shapes the results of a step: its part of the config, and the content of all stored files but those of the fields `without`."""
    files = {}
    for name, value in vars(stored).items():
        if (paths := [value] if isinstance(value, Path) else value) and name not in without:
            files[name] = [content_hash(path) for path in paths]
    return {"settings": config, "files": files}


def keep(folder: Path, component: Component, log_p: dict[str, np.ndarray], facts: dict[str, float]) -> None:
    """Keep one component, its log p of the gold tokens for each split, float32 (n,) in nats, and what else was measured of it."""
    files = [folder / f"{split}.npy" for split in log_p]
    for file, column in zip(files, log_p.values(), strict=True):
        save_array(file, np.asarray(column, dtype=np.float32))
    write_manifest(folder / "manifest.json", files=files, kind=KIND, component=asdict(component), facts=facts)


def kept(folder: Path, splits: Iterable[str]) -> tuple[Component, dict[str, np.ndarray], dict[str, float]] | None:
    """Return what `keep` has kept; None where there is nothing, or not all of it as it was written."""
    try:
        found = read_manifest(folder / "manifest.json", kind=KIND)
        log_p = {split: np.array(load_array(folder / f"{split}.npy", dtype="float32")) for split in splits}
    except KnnlmError:
        return None
    return Component(**found["component"]), log_p, found["facts"]


def forget(folder: Path) -> None:
    """Remove a folder of kept results, and the one it is in unless that has something else."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
