"""The config's hypotheses: which step makes the components of each, what the step reads, and what its settings are called.

Runs whenever the workflow is read, so steps are parsed, not imported.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from knnlm.components.catalogue import BASE, knn_components, resolved_name, retrievals
from knnlm.config import schema
from knnlm.config.values import shown

STEPS = Path(__file__).parent
STORED = (
    "states",
    "datastore",
    "model",
    "neighbours",
    "components",
    "index",
    "temperature",
    "training",
    "training_neighbours",
)


@cache
def read_step(family: str) -> tuple[tuple[str, ...], dict]:
    """Return what the step of a family reads, its NEEDS, and the schema of its settings, made from its SETTINGS.

    Both stand as literals in the step. Raises OSError if there is no such step, and ValueError if one of the two is wrong.
    """
    found = {"NEEDS": None, "SETTINGS": {}}
    for node in _parsed(family).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in found:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    needs, settings = found["NEEDS"], found["SETTINGS"]
    if not isinstance(needs, tuple) or set(needs) - set(STORED) or not isinstance(settings, dict):
        raise ValueError(f"NEEDS must be a tuple of {', '.join(STORED)}, and SETTINGS state a schema for each setting")
    return needs, schema.settings_schema(settings)


@cache
def _parsed(family: str) -> ast.Module:
    return ast.parse((STEPS / f"{family}.py").read_text(encoding="utf-8"))


def active(config: dict) -> dict[str, dict]:
    """Return the hypotheses that are enabled, by name."""
    return {name: entry for name, entry in config["hypotheses"].items() if entry["enabled"]}


def with_step(config: dict) -> list[str]:
    """Return the names of those that make components of their own; the others ask about components of the main result."""
    return [name for name, entry in active(config).items() if entry["family"]]


def values_of(config: dict, kind: str) -> Iterator[tuple[str, object]]:
    """Yield (key, value) of every setting of an enabled hypothesis that is of a kind, and of every entry of one that is a list of it."""
    for name in with_step(config):
        entry = config["hypotheses"][name]
        for key, value in schema.values_of(kind, entry["settings"], read_step(entry["family"])[1]):
            yield f"hypotheses.{name}.settings.{key}", value


def needs(config: dict, name: str) -> tuple[str, ...]:
    """Return what the step of a hypothesis reads."""
    return read_step(config["hypotheses"][name]["family"])[0]


def uses_device(config: dict, name: str) -> bool:
    """Return whether the step of a hypothesis computes on its device, so that it asks for a GPU: whether it says `.device` anywhere."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "device"
        for node in ast.walk(_parsed(config["hypotheses"][name]["family"]))
    )


def trains_lm(config: dict, name: str) -> bool:
    """Return whether a hypothesis needs another training of the LM, its own or that of one which it comes after."""
    return "training" in needs(config, name) or any(
        trains_lm(config, other) for other in config["hypotheses"][name]["after"]
    )


def problems(config: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for entries that cannot work; defaults are filled."""
    for name, entry in active(config).items():
        key = f"hypotheses.{name}"
        if entry["family"] is None:
            if not entry["candidates"]:
                yield (
                    f"{key}.candidates",
                    "a hypothesis without a family makes no component of its own; list components of the main result.",
                )
        else:
            yield from _step_problems(config, name, key)
        for place, names in (("against", filter(None, [entry["against"]])), ("candidates", entry["candidates"] or [])):
            yield from _component_problems(config, f"{key}.{place}", names)


def _step_problems(config: dict, name: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the step of an entry, its settings, and what it comes after."""
    entry = config["hypotheses"][name]
    family = entry["family"]
    try:
        reads, settings = read_step(family)
    except OSError:
        yield (
            f"{key}.family",
            f"there is no step {shown(family)}; choose one of {', '.join(families())}, or write it in workflow/knnlm/hypotheses.",
        )
        return
    except (ValueError, SyntaxError) as error:
        yield f"{key}.family", f"the step {family}.py cannot be read ({error}); correct it."
        return
    wrong = list(schema.problems(entry["settings"], settings, f"{key}.settings", unknown=_unknown_setting))
    yield from wrong
    if wrong:
        return
    members = (name for _, name in schema.values_of("component", entry["settings"], settings))
    yield from _component_problems(config, f"{key}.settings", members)
    for other in entry["after"]:
        if other not in with_step(config):
            yield f"{key}.after", f"{other} is no enabled hypothesis with a family; enable it or disable {name}."
    if entry["after"] and "components" not in reads:
        yield f"{key}.after", f"the step {family} reads no components; remove it."
    if name in _earlier(config, name):
        yield f"{key}.after", f"{name} waits for itself, through {', '.join(entry['after'])}; remove one."


def _unknown_setting(name: str, section: str, subschema: dict) -> str:
    return f"not a known setting; known here are {', '.join(subschema['properties']) or 'none'}."


def _component_problems(config: dict, key: str, patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield a problem for each name, or pattern, that no component of this run can have; what a hypothesis calls its own is known when it has run."""
    known = [
        BASE.component,
        *(component.component for retrieval in retrievals(config) for component in knn_components(config, *retrieval)),
    ]
    for pattern in patterns:
        name = resolved_name(pattern, config["main"])
        makers = [maker for maker in config["hypotheses"] if _may_be_of(maker, name)]
        if any(maker in with_step(config) for maker in makers) or any(
            fnmatchcase(component, name) for component in known
        ):
            continue
        if makers:
            yield (
                key,
                f"{shown(name)} is a component of {makers[0]}, which makes none in this run; enable {makers[0]}, or name another.",
            )
        else:
            close = get_close_matches(name, [*known, *(f"{maker}-..." for maker in with_step(config))], n=1)
            hint = (
                f"did you mean {close[0]}"
                if close
                else f"there are {', '.join(known[:2])} ..., and those of hypotheses, <hypothesis>-..."
            )
            yield key, f"{shown(name)} is no component of this run; {hint}."


def _may_be_of(maker: str, pattern: str) -> bool:
    """Return whether a pattern may match a component of a hypothesis, all of which begin with its name and a hyphen."""
    certain, own = re.split(r"[*?\[]", pattern)[0], f"{maker}-"
    return certain.startswith(own) or (certain != pattern and own.startswith(certain))


def _earlier(config: dict, name: str) -> set[str]:
    """Return all hypotheses that one comes after, directly or through others."""
    found, pending = set(), list(config["hypotheses"][name]["after"])
    while pending:
        if (other := pending.pop()) not in found:
            found.add(other)
            pending += config["hypotheses"].get(other, {"after": []})["after"]
    return found


def families() -> list[str]:
    """Return the names of the steps there are."""
    return sorted(path.stem for path in STEPS.glob("[a-z]*.py") if "\nNEEDS = " in path.read_text(encoding="utf-8"))
