"""The shipped configs as Snakemake reads them."""

import copy
from pathlib import Path

import yaml
from snakemake.utils import update_config, validate

from knnlm.config.sizes import complete, forget

ROOT = Path(__file__).parent.parent.parent
VOCABULARY = 60  # types of an LM of random weights


def written(*overlays: str | dict) -> dict:
    """Return config.yaml and hypotheses.yaml with overlays (names or configs) over them, as the Snakefile does."""
    config, given = {}, {}
    for name in ("config", "hypotheses", *overlays):
        found = name if isinstance(name, dict) else yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        update_config(config, found)
        update_config(given, found if name in overlays else {})
    forget(config, given, "sotu")
    return config


def config_of(*overlays: str | dict) -> dict:
    """Return the same with defaults filled and open sizes chosen."""
    return whole(written(*overlays))


def whole(config: dict) -> dict:
    """Return a config with its defaults filled and its open sizes chosen, as the Snakefile makes it."""
    config = copy.deepcopy(config)
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
    complete(config)
    return config
