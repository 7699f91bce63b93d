"""The shipped configs as Snakemake reads them."""

import copy
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config, validate

from knnlm.config.sizes import complete, forget
from knnlm.errors import KnnlmError

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


def sentence(function, *arguments) -> str:
    """Return the one sentence in which a call ends."""
    with pytest.raises(KnnlmError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.endswith(".")
    assert message.isprintable()
    assert len(message) < 500
    return message


def refusal(function, *arguments) -> str:
    """Return the one sentence, about a key of the config, in which a call ends."""
    message = sentence(function, *arguments)
    assert message.startswith("config key ")
    return message


def changed(config: dict, key: str, value: object) -> dict:
    """Return the config with one dotted key set."""
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    return config


@contextmanager
def as_somebody_else():
    """Give up the right of the superuser to read everything, if it is held."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
