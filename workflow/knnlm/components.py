"""Components on disk: what each is as JSON, and their log-probabilities as one array for each split."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from knnlm.artifacts import atomic, load_array, save_array
from knnlm.component_list import Component
from knnlm.errors import KnnlmError

GRID_STEP = 3  # the search for the best temperature begins with every third of the grid, which is for the figure
FACT_COLUMNS = ["hypothesis", "component", "quantity", "value"]  # what else a step has measured of its components


def save_components(descriptions_file: str | Path, components: list[Component], log_p: dict[str, list[np.ndarray]]) -> None:
    """Write components that belong together: what each is as JSON, and beside it one float32 array (components, tokens) for each split."""
    for split, columns in log_p.items():
        save_array(component_file(descriptions_file, split), np.stack(columns).astype(np.float32))
    with atomic(descriptions_file) as unfinished:
        unfinished.write_text(json.dumps([asdict(component) for component in components], indent=1) + "\n")


def load_components(descriptions_file: str | Path, split: str, tokens: int) -> list[tuple[Component, np.ndarray]]:
    """Return each component of a file with its log-probabilities, float32 (tokens,), memory-mapped.

    Raises KnnlmError, naming the file, if it is missing, damaged or not for this many tokens.
    """
    try:
        components = [Component(**fields) for fields in json.loads(Path(descriptions_file).read_text())]
    except (OSError, ValueError, TypeError):
        raise KnnlmError(f"{descriptions_file}: not a readable list of components; delete it and rerun the step that makes it.") from None
    array = load_array(component_file(descriptions_file, split), dtype="float32", shape=(len(components), tokens))
    return list(zip(components, array, strict=True))


def find_component(description_files: list[str | Path], name: str, tokens: dict[str, int]) -> tuple[Component, dict[str, np.ndarray]]:
    """Return the component of this name and its log-probabilities for each split of `tokens`, float32 (tokens,), looked for in several files.

    Raises KnnlmError, naming the components there are, if it is in none of them.
    """
    found, known = {}, []
    for path in description_files:
        for split, size in tokens.items():
            for component, log_p in load_components(path, split, size):
                known.append(component.component)
                if component.component == name:
                    found[split], description = np.array(log_p), component
    if not found:
        raise KnnlmError(f"component {name}: not among the stored ones ({', '.join(dict.fromkeys(known))}); correct its name, or rerun the step that makes it.")
    return description, found


def component_file(descriptions_file: str | Path, split: str) -> Path:
    """Return the array of a split that belongs to a description file."""
    return Path(descriptions_file).with_suffix(f".{split}.npy")
