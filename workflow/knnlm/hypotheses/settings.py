"""The schema of a hypothesis' settings, made from the SETTINGS of its step: what each may be, and of which kind it is.

Runs whenever the workflow is read, so it imports nothing heavy.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import yaml

KINDS = Path(__file__).parents[2] / "schemas" / "settings.schema.yaml"


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
    kinds = stated("$defs")
    if name not in kinds:
        raise ValueError(f"{name} is no kind of setting; there are {', '.join(kinds)}")
    return {**_stated(kinds[name]), "kind": name}


@cache
def stated(section: str) -> dict[str, object]:
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
