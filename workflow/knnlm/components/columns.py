"""Components on disk: what each is as JSON, and their log-probabilities as one array for each split."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from knnlm.components.catalogue import Component
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import read_manifest, write_manifest

FACT_COLUMNS = ["hypothesis", "component", "quantity", "value"]  # what else a step has measured of its components
Column = tuple[Component, np.ndarray]  # and its log p of the gold tokens, float32 (tokens,)


def save_components(
    descriptions_file: str | Path, components: list[Component], log_p: dict[str, list[np.ndarray]], checkpoint: str,
    more_files: Iterable[str | Path] = (),
) -> None:  # fmt: skip
    """Write components that belong together: a manifest of what each is, and log p as one array for each split.

    The arrays are float32 (components, tokens), in nats, −inf for no mass. `checkpoint` is that of the base LM;
    `more_files` are those that the same step has written beside them.
    """
    files = {split: component_file(descriptions_file, split) for split in log_p}
    for split, columns in log_p.items():
        save_array(files[split], np.stack(columns).astype(np.float32))
    facts = {"checkpoint": checkpoint, "components": [asdict(component) for component in components]}
    write_manifest(descriptions_file, files=[*files.values(), *more_files], kind="components", **facts)


def checkpoint_of(descriptions_file: str | Path) -> str:
    """Return the checkpoint of components' base LM; raises KnnlmError, naming the file, if it is missing or damaged."""
    return read_manifest(descriptions_file, kind="components")["checkpoint"]


def read_descriptions(descriptions_file: str | Path, checkpoint: str) -> list[Component]:
    """Return the components of a file. Raises KnnlmError if it is missing, damaged or of another base LM."""
    facts = read_manifest(descriptions_file, kind="components", checkpoint=checkpoint)
    return [Component(**fields) for fields in facts["components"]]


def load_components(descriptions_file: str | Path, split: str, tokens: int, checkpoint: str) -> list[Column]:
    """Return each component of a file with its log-probabilities, float32 (tokens,), memory-mapped.

    Raises KnnlmError, naming the file, if it is missing, damaged, of another base LM or not for this many tokens.
    """
    components = read_descriptions(descriptions_file, checkpoint)
    array = load_array(component_file(descriptions_file, split), dtype="float32", shape=(len(components), tokens))
    return list(zip(components, array, strict=True))


def find_component(
    description_files: list[str | Path], name: str, tokens: dict[str, int], checkpoint: str
) -> tuple[Component, dict[str, np.ndarray]]:
    """Look for the component of this name in several files; return it and its log p for each split, float32 (tokens,).

    `tokens`: of each split. Raises KnnlmError as `load_components` does, and if no file has it, naming those there are.
    """
    known = []
    for path in description_files:
        names = [component.component for component in read_descriptions(path, checkpoint)]
        if name in names:
            place = names.index(name)
            found = {split: load_components(path, split, size, checkpoint)[place] for split, size in tokens.items()}
            return next(iter(found.values()))[0], {split: np.array(log_p) for split, (_, log_p) in found.items()}
        known += names
    remedy = "correct its name, or rerun the step that makes it"
    raise KnnlmError(f"component {name}: not among the stored ones ({', '.join(known)}); {remedy}.")


def component_file(descriptions_file: str | Path, split: str) -> Path:
    """Return the array of a split that belongs to a description file."""
    return Path(descriptions_file).with_suffix(f".{split}.npy")
