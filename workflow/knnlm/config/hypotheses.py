"""Checks of the config's section `hypotheses`: its steps, settings and components must exist in this run."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from knnlm.components.catalogue import BASE, knn_components, resolved_name, retrievals
from knnlm.config import schema
from knnlm.config.values import shown
from knnlm.hypotheses import registry


def problems(config: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for entries that cannot work; defaults are filled."""
    for name, entry in registry.active(config).items():
        key = f"hypotheses.{name}"
        if entry["family"] is not None:
            yield from _step_problems(config, name, key)
        else:
            yield from schema.told_if(not entry["candidates"], f"{key}.candidates", "no candidates")
        for place, names in (("against", filter(None, [entry["against"]])), ("candidates", entry["candidates"] or [])):
            yield from _component_problems(config, f"{key}.{place}", names)


def _step_problems(config: dict, name: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the step of an entry, its settings, and what it comes after."""
    entry = config["hypotheses"][name]
    family = entry["family"]
    try:
        reads, settings, _ = registry.read_step(family)
    except OSError:
        problem = f"there is no step {shown(family)}; choose one of {', '.join(registry.families())}"
        yield f"{key}.family", f"{problem}, or write it in workflow/knnlm/hypotheses."
        return
    except (ValueError, SyntaxError) as error:
        yield f"{key}.family", f"the step {family}.py cannot be read ({error}); correct it."
        return
    wrong = list(schema.problems(entry["settings"], settings, f"{key}.settings", unknown=_unknown_setting))
    yield from wrong
    if wrong:
        return
    members = (name for _, name in registry.values_of_kind("component", entry["settings"], settings))
    yield from _component_problems(config, f"{key}.settings", members)
    after, others = f"{key}.after", entry["after"]
    for other in others:
        missing = other not in registry.with_step(config)
        yield from schema.told_if(missing, after, "after what is not made", other=other, name=name)
    yield from schema.told_if(others and "components" not in reads, after, "after in vain", family=family)
    yield from schema.told_if(
        name in _earlier(config, name), after, "after itself", name=name, others=", ".join(others)
    )


def _unknown_setting(name: str, section: str, subschema: dict) -> str:
    return f"not a known setting; known here are {', '.join(subschema['properties']) or 'none'}."


def leave_out_what_is_missing(config: dict) -> Iterator[str]:
    """Disable hypotheses, in place, that look at what another key of the config leaves out; yield a line for each.

    Left out are the components of a disabled hypothesis, and neighbours by a metric that is not in `retrieval.metrics`.
    A hypothesis with other candidates loses only those that are left out.
    """
    pending = list(registry.active(config))
    while pending:
        entry = config["hypotheses"][name := pending.pop(0)]
        candidates = entry["candidates"] or []
        without = {pattern: why for pattern in candidates if (why := _left_out(config, pattern))}
        members = [name for _, name in settings_of_kind(entry, "component") if isinstance(name, str)]
        reasons = [_left_out(config, name) for name in (*filter(None, [entry["against"]]), *members)]
        reasons += [f"{other} is disabled" for other in entry["after"] if _is_disabled(config, other)]
        reasons += without.values() if len(without) == len(candidates) else []
        if why := next(filter(None, reasons), None):
            entry["enabled"] = False
            yield f"hypotheses.{name}: left out, as {why}"
            pending = list(registry.active(config))
        elif without:
            entry["candidates"] = [pattern for pattern in candidates if pattern not in without]
            yield f"hypotheses.{name}.candidates: {', '.join(without)} left out, as {next(iter(without.values()))}"


def settings_of_kind(entry: dict, kind: str) -> list[tuple[str, object]]:
    """Return (key, value) of the settings of a kind; none where the entry has no step, or one that cannot be read."""
    try:
        return list(registry.values_of_kind(kind, entry["settings"], registry.read_step(entry["family"])[1]))
    except (OSError, ValueError, SyntaxError):
        return []


def _left_out(config: dict, pattern: str) -> str | None:
    """Say which key of the config leaves out the components of a pattern; None where none does."""
    for metric in ("l2", "ip"):
        if f"{{{metric}}}" in pattern and metric not in config["retrieval"]["metrics"]:
            return f"{metric} is not in retrieval.metrics"
    makers = _makers(config, resolved_name(pattern, config["main"]))
    disabled = [maker for maker in makers or [] if _is_disabled(config, maker)]
    return f"{disabled[0]} is disabled" if disabled else None


def _is_disabled(config: dict, name: str) -> bool:
    return name in config["hypotheses"] and not config["hypotheses"][name]["enabled"]


def _component_problems(config: dict, key: str, patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield a problem for each name, or pattern, that no component of this run can have.

    The names of a hypothesis' own components are known only when it has run; they begin with its name.
    """
    for pattern in patterns:
        name = resolved_name(pattern, config["main"])
        makers = _makers(config, name)
        yield from schema.told_if(makers, key, "component that is not made", name=shown(name), makers=makers)
        if makers == []:
            known = _known(config)
            close = get_close_matches(name, [*known, *(f"{maker}-..." for maker in registry.with_step(config))], n=1)
            there = f"there are {', '.join(known[:2])} ..., and those of hypotheses, <hypothesis>-..."
            yield key, f"{shown(name)} is no component of this run; {f'did you mean {close[0]}' if close else there}."


def _known(config: dict) -> list[str]:
    """Return the names of the base LM and of the main result's components."""
    kept = {key: config[key] for key in ("retrieval", "main", "fractions")}
    knn = (component for retrieval in retrievals(kept) for component in knn_components(kept, *retrieval))
    return [BASE.component, *(component.component for component in knn)]


def _makers(config: dict, name: str) -> list[str] | None:
    """Return the hypotheses that could make a component of this name or pattern; None if the run has one."""
    makers = [maker for maker in config["hypotheses"] if _may_be_of(maker, name)]
    if any(maker in registry.with_step(config) for maker in makers):
        return None
    return None if any(fnmatchcase(component, name) for component in _known(config)) else makers


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
