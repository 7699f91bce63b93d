"""The shipped configs as Snakemake reads them."""

from pathlib import Path

import yaml
from snakemake.utils import update_config, validate

ROOT = Path(__file__).parent.parent.parent
VOCABULARY = 60  # types of an LM of random weights


def written(*overlays: str) -> dict:
    """Return config.yaml and hypotheses.yaml with overlays merged over them, as Snakemake merges them."""
    config: dict = {}
    for name in ("config", "hypotheses", *overlays):
        update_config(config, yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()))
    return config


def config_of(*overlays: str) -> dict:
    """Return the same with defaults filled."""
    config = written(*overlays)
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
    return config
