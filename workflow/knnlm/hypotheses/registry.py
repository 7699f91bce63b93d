"""The config's hypotheses: the step that makes the components of each, what the step reads, and its settings.

Runs whenever the workflow is read, so steps are parsed, not imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from knnlm.hypotheses.settings import settings_schema, stated, values_of_kind

STEPS = Path(__file__).parent
STORED = ("states", "datastore", "model", "neighbours", "components", "index", "temperature")
STORED += ("training", "training_neighbours")
COUNTED = tuple(stated("work"))  # the words of WORK


@cache
def read_step(family: str) -> tuple[tuple[str, ...], dict, dict[str, str]]:
    """Return the NEEDS of the step of a family, the schema made from its SETTINGS, and its WORK, if any.

    They stand as literals in the step. Raises OSError if there is no such step, and ValueError if one of them is wrong.
    """
    found = {"NEEDS": None, "SETTINGS": {}, "WORK": {}}
    for node in _parsed(family).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in found:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    needs, settings, work = found.values()
    if not isinstance(needs, tuple) or set(needs) - set(STORED) or not isinstance(settings, dict):
        raise ValueError(f"NEEDS must be a tuple of {', '.join(STORED)}, and SETTINGS state a schema for each setting")
    texts = work.values() if isinstance(work, dict) else [None]
    if not all(isinstance(text, str) for text in texts) or set(work) - set(COUNTED):
        raise ValueError(f"WORK must name settings, as text with commas, for some of {', '.join(COUNTED)}")
    return needs, settings_schema(settings), work


@cache
def _parsed(family: str) -> ast.Module:
    return ast.parse((STEPS / f"{family}.py").read_text(encoding="utf-8"))


def active(config: dict) -> dict[str, dict]:
    """Return the hypotheses that are enabled, by name."""
    return {name: entry for name, entry in config["hypotheses"].items() if entry["enabled"]}


def with_step(config: dict) -> list[str]:
    """Return the names of those that make components of their own; others look at components of the main result."""
    return [name for name, entry in active(config).items() if entry["family"]]


def values_of(config: dict, kind: str) -> Iterator[tuple[str, object]]:
    """Yield (key, value) of every setting of a kind, and of every entry of a list of it, among enabled hypotheses."""
    for name in with_step(config):
        entry = config["hypotheses"][name]
        for key, value in values_of_kind(kind, entry["settings"], read_step(entry["family"])[1]):
            yield f"hypotheses.{name}.settings.{key}", value


def needs(config: dict, name: str) -> tuple[str, ...]:
    """Return what the step of a hypothesis reads."""
    return read_step(config["hypotheses"][name]["family"])[0]


def work(config: dict, name: str) -> dict[str, str]:
    """Return the settings of a hypothesis that count something of its work, by the words of COUNTED."""
    return read_step(config["hypotheses"][name]["family"])[2]


def uses_device(config: dict, name: str) -> bool:
    """Return whether a hypothesis asks for a GPU: its step says `.device` anywhere, or trains heads."""
    nodes = list(ast.walk(_parsed(config["hypotheses"][name]["family"])))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    asks = any(isinstance(node, ast.Attribute) and node.attr == "device" for node in nodes)
    return asks or "knnlm.hypotheses.trained_heads" in imported


def trains_lm(config: dict, name: str) -> bool:
    """Return whether a hypothesis needs another training of the LM, its own or that of one which it comes after."""
    others = config["hypotheses"][name]["after"]
    return "training" in needs(config, name) or any(trains_lm(config, other) for other in others)


def families() -> list[str]:
    """Return the names of the steps there are."""
    return sorted(path.stem for path in STEPS.glob("[a-z]*.py") if "\nNEEDS = " in path.read_text(encoding="utf-8"))
