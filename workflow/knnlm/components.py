"""What a component is: a named column of log-probabilities of the gold token, and the list of those a config asks for."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from knnlm.artifacts import load_array, read_manifest, save_array, write_manifest
from knnlm.errors import KnnlmError

VARIANTS = {"approximate-faiss": ("faiss", "faiss"), "approximate-real": ("faiss", "real"), "exact-real": ("real", "real")}
SEARCHES = {"approximate": ("approximate-faiss", "approximate-real"), "exact": ("exact-real",)}
UNTUNED_TEMPERATURE = 1.0
GRID_STEP = 3  # the search for the best temperature begins with every third of the grid, which is for the figure
FACT_COLUMNS = ["hypothesis", "component", "quantity", "value"]  # what else a step has measured of its components


@dataclass(frozen=True)
class Component:
    """One component; the fields stand in the tables under the same names. `temperature` is None until it has been tuned on valid.

    `rows` counts the vectors that a query is compared with (the paper's N_ds). A component of a hypothesis carries its name, and where the
    hypothesis has curves, the curve it belongs to (`series`) and its place on it (`x`).
    """

    component: str
    family: str
    h: str | None = None
    metric: str | None = None
    mask: str | None = None
    score: str | None = None
    temperature: float | None = None
    temperature_status: str | None = None
    fraction: float | None = None
    k: int | None = None
    added_parameters: int = 0
    rows: int | None = None
    hypothesis: str | None = None
    series: str | None = None
    x: float | None = None

    def tuned(self, temperature: float, status: str) -> "Component":
        """Return the component with its temperature and how it was found (`fixed`, `optimum` or `edge`)."""
        return replace(self, temperature=temperature, temperature_status=status)


BASE = Component("base", "lm")


def save_components(
    descriptions_file: str | Path,
    components: list[Component],
    log_p: dict[str, list[np.ndarray]],
    checkpoint: str,
    more_files: Iterable[str | Path] = (),
) -> None:
    """Write components that belong together: a manifest of what each is, and beside it one float32 array (components, tokens) for each split.

    `checkpoint` is that of the base LM, `more_files` are those that the same step has written beside them.
    """
    files = []
    for split, columns in log_p.items():
        files.append(component_file(descriptions_file, split))
        save_array(files[-1], np.stack(columns).astype(np.float32))
    described = [asdict(component) for component in components]
    write_manifest(descriptions_file, files=[*files, *more_files], kind="components", checkpoint=checkpoint, components=described)


def checkpoint_of(descriptions_file: str | Path) -> str:
    """Return the checkpoint of the base LM that components belong to. Raises KnnlmError, naming the file, if it is missing or damaged."""
    return read_manifest(descriptions_file, kind="components")["checkpoint"]


def read_descriptions(descriptions_file: str | Path, checkpoint: str) -> list[Component]:
    """Return the components of a file. Raises KnnlmError, naming the file, if it is missing, damaged or of another base LM."""
    facts = read_manifest(descriptions_file, kind="components", checkpoint=checkpoint)
    return [Component(**fields) for fields in facts["components"]]


def load_components(descriptions_file: str | Path, split: str, tokens: int, checkpoint: str) -> list[tuple[Component, np.ndarray]]:
    """Return each component of a file with its log-probabilities, float32 (tokens,), memory-mapped.

    Raises KnnlmError, naming the file, if it is missing, damaged, of another base LM or not for this many tokens.
    """
    components = read_descriptions(descriptions_file, checkpoint)
    array = load_array(component_file(descriptions_file, split), dtype="float32", shape=(len(components), tokens))
    return list(zip(components, array, strict=True))


def find_component(description_files: list[str | Path], name: str, tokens: dict[str, int], checkpoint: str) -> tuple[Component, dict[str, np.ndarray]]:
    """Return the component of this name and its log-probabilities for each split of `tokens`, float32 (tokens,), looked for in several files.

    Raises KnnlmError as `load_components` does, and, naming the components there are, if it is in none of the files.
    """
    known = []
    for path in description_files:
        names = [component.component for component in read_descriptions(path, checkpoint)]
        if name in names:
            found = {split: load_components(path, split, size, checkpoint)[names.index(name)] for split, size in tokens.items()}
            return next(iter(found.values()))[0], {split: np.array(log_p) for split, (_, log_p) in found.items()}
        known += names
    raise KnnlmError(f"component {name}: not among the stored ones ({', '.join(known)}); correct its name, or rerun the step that makes it.")


def main_name(main: dict, variant: str = "exact-real") -> str:
    """Return the name of the main result's tuned component over the whole store; the exact one is the reference of everything (§4.3)."""
    return f"knn-{main['h']}-{main['metric']}-{variant}"


def resolved_name(name: str, main: dict) -> str:
    """Return a component's name with its braces filled: {main} and {approximate} the main component, {l2} and {ip} the exact one with this metric."""
    names = {"main": main_name(main), "approximate": main_name(main, "approximate-faiss")}
    names |= {metric: main_name(main | {"metric": metric}) for metric in ("l2", "ip")}
    for word, meant in names.items():
        name = name.replace(f"{{{word}}}", meant)
    return name


def component_file(descriptions_file: str | Path, split: str) -> Path:
    """Return the array of a split that belongs to a description file."""
    return Path(descriptions_file).with_suffix(f".{split}.npy")


def searched_fractions(settings: dict, h: str, metric: str) -> list[float]:
    """Return the fractions of the store that are searched: all for the main representation and metric, else the full store alone."""
    is_main = settings["main"] == {"h": h, "metric": metric}
    return list(settings["fractions"]) if is_main else [1.0]


def real_score_fractions(settings: dict, h: str, metric: str) -> list[float]:
    """Return the fractions at which the neighbours FAISS found are scored again with their real keys: the smallest and the largest."""
    fractions = searched_fractions(settings, h, metric)
    return sorted({fractions[0], fractions[-1]})


def knn_components(settings: dict, h: str, metric: str, search: str) -> list[Component]:
    """List the kNN components that one retrieval gives: each score, each fraction, temperature tuned; on the full store also untuned.

    `settings` holds the config sections retrieval, main and fractions.
    """
    found = []
    for variant in SEARCHES[search]:
        mask, score = VARIANTS[variant]
        rescored = mask == "faiss" and score == "real"
        for fraction in (real_score_fractions if rescored else searched_fractions)(settings, h, metric):
            name = f"knn-{h}-{metric}-{variant}"
            name = name if fraction == 1.0 else f"{name}-f{fraction:g}"
            tuned = Component(name, "knn", h, metric, mask, score, fraction=fraction, k=settings["retrieval"]["k"])
            found.append(tuned)
            if fraction == 1.0:
                found.append(replace(tuned, component=f"{name}-untuned", temperature=UNTUNED_TEMPERATURE, temperature_status="fixed"))
    return found


def retrievals(settings: dict) -> list[tuple[str, str, str]]:
    """List the retrievals (h, metric, search) that a config asks for."""
    return [(h, metric, search) for h in settings["retrieval"]["h"] for metric in settings["retrieval"]["metrics"] for search in SEARCHES]
