"""Variants of a run: a config of its own for each, and which run makes the files that several of them share.

`seeds` is short for variants that change nothing but the seed. Where several runs would make the same up to a stage,
the first of them makes its files; the main run comes before its variants.
"""

import json
from collections.abc import Iterable
from copy import deepcopy

from snakemake.utils import update_config

from knnlm.config import corpus, sizes
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

NOT_VARIED = ("name", "seeds", "variants")  # a variant cannot change these
# The stages, in the order of the data, each with the keys that shape it; `_shape` adds those of text and hypotheses.
STAGES = {
    "corpus": (),
    "language_model": ("seed", "lm", "windows.evaluation"),
    "datastore": ("windows.train", "datastore", "index.factory", "index.training_rows"),
    "retrieval": ("index.nprobe", "retrieval", "main", "fractions", "temperature"),
    "hypotheses": (),
}
Overlay = dict[str, object]


def overlays(config: dict) -> dict[str, Overlay]:
    """Return what each variant changes, by its name: those of `seeds` first. Raises KnnlmError for a name of both."""
    of_seeds = {f"seed-{seed}": {"seed": seed} for seed in config["seeds"]}
    if twice := of_seeds.keys() & config["variants"].keys():
        raise KnnlmError(f"config key variants.{min(twice)}: `seeds` makes a variant of this name; choose another.")
    return of_seeds | config["variants"]


def run_names(config: dict) -> list[str]:
    """Return the names of the runs of all variants, none where the config has no variants."""
    return [f"{config['name']}-{name}" for name in overlays(config)]


def of_seeds_alone(config: dict) -> list[str]:
    """Return the names of the runs that differ from the main one in nothing but the seed."""
    return [f"{config['name']}-{name}" for name, overlay in overlays(config).items() if overlay.keys() == {"seed"}]


def applied(config: dict, name: str, overlay: Overlay) -> dict:
    """Return the config of a variant: its overlay over `config`, whose open sizes are null still.

    Sizes of another source of text, and token counts of another corpus, are not the variant's. Raises KnnlmError where
    the overlay has a key that no variant can change.
    """
    if fixed := [key for key in NOT_VARIED if key in overlay]:
        raise KnnlmError(f"config key {fixed[0]}: a variant cannot change it; remove it from the variant.")
    own = deepcopy(config) | {"name": f"{config['name']}-{name}", "seeds": [], "variants": {}}
    if "corpus" in overlay:
        own["corpus"]["token_counts"] = None
    update_config(own, deepcopy(overlay))
    sizes.forget(own, deepcopy(overlay), config["corpus"]["source"])
    return own


def makers(config: dict, earlier: Iterable[dict]) -> dict[str, str]:
    """Return, by stage, the name of the run that makes its files: the first of `earlier` that makes the same, or this.

    All configs are complete.
    """
    made = dict.fromkeys(STAGES, config["name"])
    wanted = _shapes(config)
    for other in reversed(list(earlier)):
        made |= {stage: other["name"] for stage, shape in _shapes(other).items() if shape == wanted[stage]}
    return made


def changes(overlay: Overlay) -> str:
    """Return what a variant changes as one line: `lm.architecture.width 64, seed 2`."""
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in _leaves(overlay))


def varied(config: dict, runs: dict[str, dict]) -> dict[str, list]:
    """Return the values of the keys that any variant changes, as pandas reads a table: `index`, `columns`, `data`.

    There is a row for each of the `runs`, by its name, and a column for each dotted key. A list is given as text. A key
    that a run has not is None.
    """
    keys = dict.fromkeys(key for overlay in overlays(config).values() for key, _ in _leaves(overlay))
    data = [[_value(own, key) for key in keys] for own in runs.values()]
    data = [[json.dumps(value) if isinstance(value, list) else value for value in row] for row in data]
    return {"index": list(runs), "columns": list(keys), "data": data}


def _leaves(section: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in section.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def _shapes(config: dict) -> dict[str, str]:
    """Return, by stage, all that shapes what is made up to it, as canonical JSON."""
    shapes, so_far = {}, []
    for stage, keys in STAGES.items():
        so_far.append(_shape(config, stage) | {key: _value(config, key) for key in keys})
        shapes[stage] = json.dumps(so_far, sort_keys=True)
    return shapes


def _shape(config: dict, stage: str) -> dict:
    """Return what shapes a stage beside its keys: the text with its seed; how hypotheses make their components."""
    if stage == "corpus":
        return corpus.shaping(config)
    if stage == "hypotheses":
        made = {name: config["hypotheses"][name] for name in registry.with_step(config)}
        return {name: [entry[key] for key in ("family", "settings", "after")] for name, entry in made.items()}
    return {}


def _value(config: dict, key: str) -> object:
    for part in key.split("."):
        config = (config or {}).get(part)
    return config
