"""The config's hypotheses: which step makes the components of each, what the step reads, and what its settings are called.

Runs whenever the workflow is read, so steps are parsed, not imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

STEPS = Path(__file__).parent / "steps" / "hypotheses"
STORED = ("states", "datastore", "model", "neighbours", "components", "index", "temperature", "training", "training_neighbours")
KINDS = {"list": list, "number": (int, float), "integer": int, "text": str, "section": dict, "boolean": bool, "any": object}


@cache
def read_step(family: str) -> tuple[tuple[str, ...], dict[str, str | dict]]:
    """Return NEEDS and SETTINGS, literals of the step of a family: the stored things it reads, and the kind of each setting, or its own settings.

    Raises OSError if there is no such step, and ValueError if one of the two is missing or not a literal.
    """
    found = {"NEEDS": None, "SETTINGS": {}}
    for node in _parsed(family).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in found:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    needs, settings = found["NEEDS"], found["SETTINGS"]
    if not isinstance(needs, tuple) or set(needs) - set(STORED) or not set(_kinds(settings)) <= set(KINDS):
        raise ValueError(f"NEEDS must be a tuple of {', '.join(STORED)}, and SETTINGS name a kind ({', '.join(KINDS)}) for each setting")
    return needs, settings


@cache
def _parsed(family: str) -> ast.Module:
    return ast.parse((STEPS / f"{family}.py").read_text(encoding="utf-8"))


def active(config: dict) -> dict[str, dict]:
    """Return the hypotheses that are enabled, by name."""
    return {name: entry for name, entry in config["hypotheses"].items() if entry["enabled"]}


def with_step(config: dict) -> list[str]:
    """Return the names of those that make components of their own; the others ask about components of the main result."""
    return [name for name, entry in active(config).items() if entry["family"]]


def needs(config: dict, name: str) -> tuple[str, ...]:
    """Return what the step of a hypothesis reads."""
    return read_step(config["hypotheses"][name]["family"])[0]


def uses_device(config: dict, name: str) -> bool:
    """Return whether the step of a hypothesis computes on its device, so that it asks for a GPU: whether it says `.device` anywhere."""
    return any(isinstance(node, ast.Attribute) and node.attr == "device" for node in ast.walk(_parsed(config["hypotheses"][name]["family"])))


def trains_lm(config: dict, name: str) -> bool:
    """Return whether a hypothesis needs another training of the LM, its own or that of one which it comes after."""
    return "training" in needs(config, name) or any(trains_lm(config, other) for other in config["hypotheses"][name]["after"])


def problems(config: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for entries that cannot work; defaults are filled."""
    for name, entry in active(config).items():
        key, family = f"hypotheses.{name}", entry["family"]
        if family is None:
            if not entry["candidates"]:
                yield f"{key}.candidates", "a hypothesis without a family makes no component of its own; list components of the main result."
            continue
        try:
            _, settings = read_step(family)
        except OSError:
            yield f"{key}.family", f"there is no step {family}; choose one of {', '.join(families())}, or write workflow/knnlm/steps/hypotheses/{family}.py."
        except (ValueError, SyntaxError) as error:
            yield f"{key}.family", f"the step {family}.py cannot be read ({error}); correct it."
        yield from _setting_problems(f"{key}.settings", entry["settings"], settings)
        for other in entry["after"]:
            if other not in with_step(config):
                yield f"{key}.after", f"{other} is no enabled hypothesis with a family; enable it or disable {name}."
        if entry["after"] and "components" not in read_step(family)[0]:
            yield f"{key}.after", f"the step {family} reads no components; remove it."
        if name in _earlier(config, name):
            yield f"{key}.after", f"{name} waits for itself, through {', '.join(entry['after'])}; remove one."


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
    return sorted(path.stem for path in STEPS.glob("[a-z]*.py"))


def _kinds(settings: dict) -> Iterator[str]:
    for kind in settings.values():
        yield from _kinds(kind) if isinstance(kind, dict) else [kind]


def _setting_problems(key: str, given: dict, known: dict[str, str | dict]) -> Iterator[tuple[str, str]]:
    for name in given:
        if name not in known:
            yield f"{key}.{name}", f"not a known setting; known here are {', '.join(known) or 'none'}."
    for name, kind in known.items():
        if name not in given:
            yield f"{key}.{name}", "missing; add it."
        value, kind = given[name], "section" if isinstance(kind, dict) else kind
        if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind not in ("boolean", "any")):
            yield f"{key}.{name}", f"{value!r} is not a {kind}; correct it."
        if isinstance(known[name], dict):
            yield from _setting_problems(f"{key}.{name}", value, known[name])
