"""The values of a config: which can be used at all, and how a sentence shows them."""

import datetime
import unicodedata
from collections.abc import Iterable, Iterator

SHOWN = 80  # characters of a value
LARGEST = 10**SHOWN  # Python refuses to write very large whole numbers out


def dotted(path: Iterable[str | int]) -> str:
    """Return the place of a value in a config as one text, such as `retrieval.h[0]`."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{repr(part) if unfit_character(part) else part}" for part in path
    ).removeprefix(".")


def section_of(config: dict, key: str) -> tuple[dict, str]:
    """Return the section in which a dotted key stands, and the last part of the key; missing sections are made."""
    *path, last = key.split(".")
    for part in path:
        config = config.setdefault(part, {})
    return config, last


def shown(value: object, longest: int = SHOWN) -> str:
    """Return a value of the config for a sentence: on one line, and not the whole of it where it is long."""
    if isinstance(value, datetime.date):
        return f"the date {value}"
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 4]}...{text[-1]}"


def unfit_character(text: str, marks: str = "") -> str | None:
    """Name the first character that no table or path can hold, or that is one of `marks`; None if there is none."""
    unfit = next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), None)
    if unfit is None:
        return next((f"the character {mark}" for mark in marks if mark in text), None)
    return "a line end" if unfit in "\r\n" else f"the character U+{ord(unfit):04X}"


def unfit_values(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for names and values that JSON or a table cannot hold under any key."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                yield dotted([*path, str(name)]), "the name is not text; write it in quotation marks."
            elif unfit := unfit_character(name):
                yield dotted([*path, name]), f"the name has {unfit}; write one line of plain text."
            yield from unfit_values(part, (*path, str(name)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from unfit_values(part, (*path, number))
    elif isinstance(value, str):
        if unfit := unfit_character(value):
            yield dotted(path), f"{shown(value)} has {unfit}; write one line of plain text."
    elif isinstance(value, int) and abs(value) >= LARGEST:
        yield dotted(path), f"has more than {SHOWN} digits; write a smaller number."
    elif not isinstance(value, bool | int | float | None):
        yield dotted(path), f"{shown(value)} is neither text nor a number; write it in quotation marks, or correct it."
