"""Sizes for which a training text can be too short.

They are checked before anything runs, with a bound on the tokens of the text, and again when the tokens are counted.
Each check reads its part of the config, `KEYS`, and yields (config key, what is wrong with it and what to do).
"""

import math
from collections.abc import Iterable, Iterator

from knnlm.datastore.factory import parse_factory

Problems = Iterator[tuple[str, str]]


def _sample(config: dict, tokens: int, text: str) -> Problems:
    if (needed := config["lm"]["training"]["tokens_per_sample"]) > tokens:
        problem = f"a sample of {needed} tokens is too long, {text}; lower it or give more text."
        yield "lm.training.tokens_per_sample", problem


def _neighbours(config: dict, tokens: int, text: str) -> Problems:
    fraction, k = config["fractions"][0], config["retrieval"]["k"]
    if k > (smallest := math.floor(fraction * tokens + 1e-9)):
        store = f"the {smallest} rows of the smallest store (fraction {fraction}; {text})"
        yield "retrieval.k", f"{k} is more than {store}; lower it, raise the first of fractions or give more text."


def _index(config: dict, tokens: int, text: str) -> Problems:
    factory = config["index"]["factory"]
    if (needed := parse_factory(factory, config["lm"]["architecture"]["width"]).least_training_rows) > tokens:
        yield "index.factory", f"{factory} needs {needed} rows to train, {text}; choose fewer lists or give more text."


def _chunks(config: dict, tokens: int, text: str) -> Problems:
    if (chunks := config["datastore"]["chunks"]) > (windows := math.ceil(tokens / config["windows"]["train"]["new"])):
        problem = f"{chunks} is more than the {windows} windows of the training text ({text}); lower it."
        yield "datastore.chunks", problem


# By the stage that would end in it: the check, and the keys of the config that it reads.
CHECKS = {"training": _sample, "retrieval": _neighbours, "index": _index, "datastore": _chunks}
KEYS = {
    "training": ("lm.training.tokens_per_sample",),
    "retrieval": ("retrieval.k", "fractions"),
    "index": ("index.factory", "lm.architecture.width"),
    "datastore": ("datastore.chunks", "windows.train.new"),
}


def problems(config: dict, tokens: int, known: str = "", stages: Iterable[str] = tuple(CHECKS)) -> Problems:
    """Yield (key, problem) for stages that need more training tokens; `known`: how their number is known."""
    text = f"the training text has {known + ' ' if known else ''}{tokens} BPE tokens"
    for stage in stages:
        yield from CHECKS[stage](config, tokens, text)


def difference(given: dict[str, int] | None, counted: dict[str, int]) -> str | None:
    """Say which token counts `given` in the config are wrong; the `counted` ones are used."""
    off = [split for split in given or {} if given[split] != counted[split]]
    numbers = ", ".join(f"{split} {given[split]:,} given, {counted[split]:,} counted" for split in off)
    return f"config key corpus.token_counts: {numbers}; what is counted is used. Correct the key." if off else None
