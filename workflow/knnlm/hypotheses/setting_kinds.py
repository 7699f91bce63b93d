"""The kinds that the settings of a hypothesis may have: how a step's SETTINGS name them, and what is wrong with a value that is of another.

A kind is one of KINDS, or choices such as `att|ffn`; before it may stand `list of` or `one or more`, behind it `or null`. Instead of a kind, a
section of settings stands for itself. Where its only name is `*` or choices, it is for names of the user's own. What a value of a kind may be beside
the rest of the config is in `knnlm.config.checks.LIMITS`.
"""

import math
import re
from collections.abc import Callable, Iterator

from knnlm.config.values import shown

LISTS = {"list of ": "list of entries", "one or more ": "list of one or more entries"}
OR_NULL = " or null"
ANY_NAME = "*"

Kinds = dict[str, "str | Kinds"]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_integer(value) and value >= 1


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value < 1


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "any": ("anything", lambda value: True),
    "text": ("text", lambda value: isinstance(value, str)),
    "component": ("the name of a component", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", _is_integer),
    "natural": ("a whole number of at least 0", lambda value: _is_integer(value) and value >= 0),
    "count": ("a whole number of at least 1", _is_count),
    "bytes of a PQ code": ("a whole number of at least 1", _is_count),
    "seed offset": ("a whole number of at least 1", _is_count),
    "number": ("a number", _is_number),
    "amount": ("a number of at least 0", lambda value: _is_number(value) and value >= 0),
    "positive": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "factor": ("a number of at least 1", lambda value: _is_number(value) and value >= 1),
    "share": ("a number of at least 0 and below 1", _is_share),
    "betas": (
        "two numbers of at least 0 and below 1",
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_share, value)),
    ),
    "flat index": (
        "Flat or IVF<lists>,Flat",
        lambda value: isinstance(value, str) and re.fullmatch(r"(IVF[1-9]\d*,)?Flat", value) is not None,
    ),
    "list": ("a list", lambda value: isinstance(value, list)),
    "section": ("a section of settings", lambda value: isinstance(value, dict)),
}


def in_words(kind: str) -> str:
    """Return a kind as a sentence says it; raises ValueError if it is none."""
    for prefix in LISTS:
        if kind.startswith(prefix):
            return f"a {LISTS[prefix]} of which every one is {in_words(kind.removeprefix(prefix))}"
    if kind.endswith(OR_NULL):
        return in_words(kind.removesuffix(OR_NULL)) + OR_NULL
    if "|" in kind:
        return " or ".join(kind.split("|"))
    if kind not in KINDS:
        raise ValueError(f"{kind} is no kind of setting; there are {', '.join(KINDS)}")
    return KINDS[kind][0]


def is_of(kind: str, value: object) -> bool:
    """Return whether a value is of a kind."""
    for prefix in LISTS:
        if kind.startswith(prefix):
            fits = isinstance(value, list) and all(is_of(kind.removeprefix(prefix), part) for part in value)
            return fits and (bool(value) or prefix == "list of ")
    if kind.endswith(OR_NULL):
        return value is None or is_of(kind.removesuffix(OR_NULL), value)
    return value in kind.split("|") if "|" in kind else KINDS[kind][1](value)


def check_kinds(kinds: Kinds) -> None:
    """Raise ValueError if one of the kinds is none."""
    for kind in kinds.values():
        check_kinds(kind) if isinstance(kind, dict) else in_words(kind)


def problems(key: str, given: dict, kinds: Kinds) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for the settings `given` under `key`."""
    names = next(iter(kinds), "") if len(kinds) == 1 else ""
    if names == ANY_NAME or "|" in names:
        known = {name: kinds[names] for name in given if names == ANY_NAME or name in names.split("|")}
        choices = names.split("|")
    else:
        known, choices = kinds, list(kinds)
    for name in given:
        if name not in known:
            yield f"{key}.{name}", f"not a known setting; known here are {', '.join(choices) or 'none'}."
    for name, kind in known.items():
        if name not in given:
            yield f"{key}.{name}", "missing; add it."
        elif not is_of("section" if isinstance(kind, dict) else kind, given[name]):
            yield (
                f"{key}.{name}",
                f"{shown(given[name])} is not {in_words('section' if isinstance(kind, dict) else kind)}; correct it.",
            )
        elif isinstance(kind, dict):
            yield from problems(f"{key}.{name}", given[name], kind)


def values_of(kind: str, given: dict, kinds: Kinds) -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of every value but null among the settings `given`, which fit `kinds`, whose kind is `kind` or a list of it."""
    for name, value in given.items():
        known = kinds[name if name in kinds else next(iter(kinds))]
        if isinstance(known, dict):
            yield from ((f"{name}.{inner}", part) for inner, part in values_of(kind, value, known))
        elif _plain(known) == kind:
            yield from ((name, part) for part in (value if isinstance(value, list) else [value]) if part is not None)


def _plain(kind: str) -> str:
    """Return a kind without what makes a list of it or allows null."""
    for prefix in LISTS:
        kind = kind.removeprefix(prefix)
    return kind.removesuffix(OR_NULL)
