"""The config's hypotheses: the step that makes the components of each, what the step reads, and its settings.

Runs whenever the workflow is read, so steps are parsed, not imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import yaml

STEPS = Path(__file__).parent
STORED = ("states", "datastore", "model", "neighbours", "components", "index", "temperature")
STORED += ("training", "training_neighbours")
KINDS = Path(__file__).parents[2] / "schemas" / "settings.schema.yaml"


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
    if not all(isinstance(text, str) for text in texts) or set(work) - set(described("work")):
        raise ValueError(f"WORK must name settings, as text with commas, for some of {', '.join(described('work'))}")
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
    """Return the settings of a hypothesis that count something of its work, by the words of WORK."""
    return read_step(config["hypotheses"][name]["family"])[2]


def uses_device(config: dict, name: str) -> bool:
    """Return whether a hypothesis asks for a GPU: its step says `.device` anywhere, or trains heads."""
    return _uses_device(config["hypotheses"][name]["family"])


@cache
def _uses_device(family: str) -> bool:
    nodes = list(ast.walk(_parsed(family)))
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


def settings_schema(settings: dict) -> dict:
    """Return the schema of a hypothesis' settings from the SETTINGS of its step.

    SETTINGS gives each setting a name of settings.schema.yaml or a schema of its own. A reference is replaced by what
    it refers to, marked with its name as `kind`. Raises ValueError where a name is not known or a schema is not one.
    """
    schema = _stated({"properties": settings})
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"SETTINGS is no JSON schema ({error.message})") from None
    return schema


def _stated(schema: object) -> object:
    """Return a part of a schema with its references replaced; sections want all of their `properties` and no others."""
    if isinstance(schema, list):
        return [_stated(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _kind(schema["$ref"].removeprefix("#/$defs/"))
    found = {key: _stated(part) for key, part in schema.items()}
    if isinstance(named := found.get("properties"), dict):
        named = {name: _kind(part) if isinstance(part, str) else part for name, part in named.items()}
        strict = {"type": "object", "additionalProperties": False, "required": list(named)}
        return strict | found | {"properties": named}
    return found


def _kind(name: str) -> dict:
    kinds = described("$defs")
    if name not in kinds:
        raise ValueError(f"{name} is no kind of setting; there are {', '.join(kinds)}")
    return {**_stated(kinds[name]), "kind": name}


@cache
def described(section: str) -> dict[str, object]:
    """Return a section of settings.schema.yaml: its kinds (`$defs`), or what the words of WORK mean (`work`)."""
    return yaml.safe_load(KINDS.read_text(encoding="utf-8"))[section]


def values_of_kind(kind: str, value: object, schema: dict, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of every value but null that is of a kind, among settings that fit their schema."""
    if schema.get("kind", "").removesuffix("_or_null") == kind and value is not None:
        yield key, value
    elif isinstance(value, list):
        for part in value:
            yield from values_of_kind(kind, part, schema.get("items", {}), key)
    elif isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties") or {}
        for name, part in value.items():
            yield from values_of_kind(kind, part, named.get(name, others), f"{key}.{name}" if key else name)
