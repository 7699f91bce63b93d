"""Explain every key of the config: `python -m knnlm.config.readme` prints config/README.md from the schema."""

import math
import sys

import yaml

from knnlm.config.schema import flattened, read_schema


def documentation(schema: dict) -> str:
    """Return config/README.md: the schema's introduction, and a table of every key."""
    lines = ["# Configuration", "", schema["description"].strip(), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, subschema in flattened(schema):
        name = f"**`{key}`**" if subschema.get("type") == "object" else f"`{key}`"
        meaning = subschema["description"].replace("|", "&#124;")
        lines.append(f"| {name} | {_range(subschema)} | {_default(subschema)} | {meaning} |")
    command = "PYTHONPATH=workflow python -m knnlm.config.readme > config/README.md"
    footer = f"Generated from `workflow/schemas/config.schema.yaml`: `{command}`"
    return "\n".join([*lines, "", footer, ""])


def _default(subschema: dict) -> str:
    if "default" not in subschema or subschema["default"] == {}:
        return ""
    return f"`{yaml.safe_dump(subschema['default'], default_flow_style=True, width=math.inf).splitlines()[0]}`"


def _range(subschema: dict) -> str:
    """Return what values a key takes, in words."""
    if "enum" in subschema:
        return ", ".join(f"`{choice}`" for choice in subschema["enum"])
    types = subschema["type"] if isinstance(subschema["type"], list) else [subschema["type"]]
    said = " or ".join(read_schema("sentences")["types"][name][1] for name in types)
    if "array" in types:
        said += f" of {_range(subschema['items'])}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {subschema[bound]}" for bound, sign in bounds.items() if bound in subschema)
    return f"{said} {limits}".strip() + (f" `{subschema['pattern']}`" if "pattern" in subschema else "")


if __name__ == "__main__":
    sys.stdout.write(documentation(read_schema()))
