"""What the config's section `hypotheses` may say, beside the schema: steps, settings and components that there are.

Runs whenever the workflow is read, so it imports nothing heavy.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from knnlm.components.catalogue import BASE, knn_components, resolved_name, retrievals
from knnlm.config import schema
from knnlm.config.values import shown
from knnlm.hypotheses import registry
from knnlm.hypotheses.settings import values_of_kind


def problems(config: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for entries that cannot work; defaults are filled."""
    for name, entry in registry.active(config).items():
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
        reads, settings, _ = registry.read_step(family)
    except OSError:
        yield (
            f"{key}.family",
            f"there is no step {shown(family)}; choose one of {', '.join(registry.families())}, or write it in workflow/knnlm/hypotheses.",
        )
        return
    except (ValueError, SyntaxError) as error:
        yield f"{key}.family", f"the step {family}.py cannot be read ({error}); correct it."
        return
    wrong = list(schema.problems(entry["settings"], settings, f"{key}.settings", unknown=_unknown_setting))
    yield from wrong
    if wrong:
        return
    members = (name for _, name in values_of_kind("component", entry["settings"], settings))
    yield from _component_problems(config, f"{key}.settings", members)
    for other in entry["after"]:
        if other not in registry.with_step(config):
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
        if any(maker in registry.with_step(config) for maker in makers) or any(
            fnmatchcase(component, name) for component in known
        ):
            continue
        if makers:
            yield (
                key,
                f"{shown(name)} is a component of {makers[0]}, which makes none in this run; enable {makers[0]}, or name another.",
            )
        else:
            close = get_close_matches(name, [*known, *(f"{maker}-..." for maker in registry.with_step(config))], n=1)
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
