"""Which component answers a question: the best on valid of its candidates, and what that one is compared with."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from knnlm.analysis.tables import BASE, TUNED_ON
from knnlm.components.catalogue import resolved_name
from knnlm.errors import KnnlmError

Table = pd.DataFrame


def compared(entries: dict[str, dict], components: Table, main: dict) -> dict[str, tuple[str, str]]:
    """Return, for each entry whose components were made, the candidate that is best on valid, and its `against`.

    `entries` are those of the config, `components` the table of all components, `main` {"h", "metric"}. Raises
    KnnlmError if there is no component called like `against`, or none that matches a pattern, though its hypothesis was
    made.
    """
    valid = components[components["split"] == TUNED_ON].set_index("component")
    not_made, found = set(entries) - set(components["hypothesis"].dropna()), {}
    for name, entry in entries.items():
        chosen = candidates(name, entry["candidates"], valid, main, not_made)
        against = resolved_name(entry["against"] or BASE, main)
        if chosen.empty or (against not in valid.index and _of_any(not_made, against)):
            continue
        if against not in valid.index:
            raise KnnlmError(f"config key hypotheses.{name}.against: there is no component {against}; correct it.")
        found[name] = chosen["ppl"].idxmin(), against
    return found


def candidates(name: str, patterns: list[str] | None, components: Table, main: dict, not_made: set[str]) -> Table:
    """Return the rows of an entry's candidates; patterns that match none must be of hypotheses that were not made."""
    if patterns is None:
        return components[components["hypothesis"] == name]
    resolved = [resolved_name(pattern, main) for pattern in patterns]
    for pattern in resolved:
        if not matching(components.index, [pattern]).any() and not _of_any(not_made, pattern):
            raise KnnlmError(f"config key hypotheses.{name}.candidates: {pattern} is no component; correct it.")
    return components[matching(components.index, resolved)]


def matching(names: Iterable[str], patterns: Iterable[str]) -> np.ndarray:
    """Return which names are one of the patterns, or match one with `*`: bool (names,)."""
    patterns = [*patterns]
    return np.array([any(fnmatchcase(name, pattern) for pattern in patterns) for name in names], dtype=bool)


def _of_any(hypotheses: set[str], component: str) -> bool:
    return any(component.startswith(f"{hypothesis}-") for hypothesis in hypotheses)
