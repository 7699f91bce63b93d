"""A JSON schema's sentences for the values of a config that do not fit it."""

import difflib
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jsonschema
import yaml

from knnlm.config.files import LOADER
from knnlm.config.values import dotted, shown

SCHEMAS = Path(__file__).parents[2] / "schemas"
Problems = Iterator[tuple[str, str]]


@cache
def read_schema(name: str = "config.schema") -> dict:
    """Return the schema of the config, or another file of that folder, such as `sentences`."""
    return yaml.load((SCHEMAS / f"{name}.yaml").read_text(encoding="utf-8"), LOADER)


def problems(value: object, schema: dict, key: str = "", *, unknown: Callable[[str, str, dict], str]) -> Problems:
    """Yield (key, what is wrong and what to do) for all that does not fit a schema: unknown keys, then the outermost.

    `unknown` says what to do about an unknown name, from the name, its section's key and the section's schema. Two
    rules are stricter than JSON schema: 1.0 is not a whole number and NaN is no number.
    """
    errors = _validator()(schema).iter_errors(value)
    for error in sorted(errors, key=lambda error: (error.validator != "additionalProperties", len(error.path))):
        place = [*([key] if key else []), *error.absolute_path]
        if error.validator == "additionalProperties":
            name = str(next(name for name in error.instance if name not in error.schema["properties"]))
            yield dotted([*place, name]), unknown(name, dotted(place), error.schema)
        elif error.validator == "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            yield dotted([*place, missing]), "missing; add it."
        else:
            yield dotted(place) or "(the whole file)", _sentence(error)


def told_if(wrong: object, key: str, subject: str = "", /, **values: object) -> Problems:
    """Yield the key and the sentence of sentences.yaml on its subject, or else on itself, if something is wrong."""
    if wrong:
        yield key, read_schema("sentences")["combinations"][subject or key].format(**values)


@cache
def _validator() -> type[jsonschema.Draft202012Validator]:
    plain = jsonschema.Draft202012Validator
    types = plain.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    types = types.redefine("number", lambda _, value: type(value) in (int, float) and math.isfinite(value))
    return jsonschema.validators.extend(plain, type_checker=types)


def _sentence(error: jsonschema.ValidationError) -> str:
    value, asked, sentences = error.instance, error.validator_value, read_schema("sentences")
    if "title" in error.schema:
        return f"{shown(value)} is not {error.schema['title']}; correct it."
    if error.validator != "type":
        told = ", ".join(map(str, asked)) if isinstance(asked, list) else asked
        entries = len(value) if isinstance(value, list) else None
        return sentences["keywords"][error.validator].format(value=shown(value), asked=told, entries=entries)
    names = [asked] if isinstance(asked, str) else asked
    in_words = [sentences["types"][name][0] for name in names]
    if value is None:
        return f"has no value; give {in_words[0]} or remove the line to have the default."
    problem = f"{shown(value)} is not {' or '.join(in_words)}"
    if isinstance(value, str) and {"number", "integer", "boolean"} & set(names):
        if re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
            meant = value.lower().replace("e", ".0e", 1)
            return f"{problem}, because YAML reads an exponent without a point as text; write {meant}."
        if re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?|true|false", value):
            where = "without quotation marks, and not inside the braces of --config, which reads all as text"
            return f"{problem} but text; write it {where}."
    return f"{problem}; correct it."


def suggestion(unknown: str, section: str, subschema: dict, schema: dict) -> str:
    """Say which key was meant: one spelled alike in this section, one of this name elsewhere, or any spelled alike."""
    prefix = f"{section}." if section else ""
    if close := difflib.get_close_matches(unknown.lower(), subschema["properties"], n=1):
        return f"did you mean {prefix}{close[0]}"
    known = [key for key, _ in flattened(schema)]
    if elsewhere := [key for key in known if key.split(".")[-1] == unknown]:
        return f"did you mean {elsewhere[0]}"
    if close := difflib.get_close_matches(f"{prefix}{unknown}", known, n=1, cutoff=0.8):
        return f"did you mean {close[0]}"
    return f"known here are {', '.join(subschema['properties'])}"


def flattened(schema: dict, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (dotted key, subschema) of every key and section, in the order of the schema."""
    for name, subschema in schema.get("properties", {}).items():
        yield f"{prefix}{name}", subschema
        yield from flattened(subschema, f"{prefix}{name}.")
        if isinstance(subschema.get("additionalProperties"), dict):  # entries under names of the user's own
            yield from flattened(subschema["additionalProperties"], f"{prefix}{name}.<name>.")
