"""Sizes that a config leaves open follow from the size of its training text. The text itself is not read.

Open sizes are null and follow those that are given. All fit the fewest tokens that the text can have: none is refused.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from knnlm.config.corpus import training_bytes
from knnlm.config.hypotheses import leave_out_what_is_missing, settings_of_kind
from knnlm.config.values import section_of
from knnlm.datastore.factory import PQ_CENTROIDS, lists_of
from knnlm.hypotheses import registry

# Bytes of UTF-8 for each BPE token: English has 4.7, long words in other scripts have up to 12.
LIKELY_BYTES, MOST_BYTES = 5, 16
# Of a training text that is not here.
UNKNOWN_BYTES = {"wikitext103": 540_000_000, "wiki": 4_400_000, "sotu": 400_000, "text": 400_000}
FRACTIONS = [0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
LEAST_K, MOST_K, TOKENS_PER_NEIGHBOUR = 64, 1024, 400
ROWS_PER_LIST, LEAST_ROWS_PER_LIST = 256, 39  # on which an inverted index is trained: FAISS's own most and least


@dataclass(frozen=True)
class Text:
    """How many BPE tokens a training text has, by its bytes: the likely number and the fewest possible."""

    likely: int
    fewest: int


def text_of(config: dict) -> Text:
    """Return the length of the training text: by its files, by `corpus.token_counts`, or as is usual for its source."""
    corpus = config["corpus"]
    if (found := training_bytes(config)) is None:
        if corpus["token_counts"]:
            return Text(*[corpus["token_counts"]["train"]] * 2)
        found = [UNKNOWN_BYTES[corpus["source"]]] * 2
    return Text(max(found[0] // LIKELY_BYTES, 1), max(found[1] // MOST_BYTES, 1))


def complete(config: dict) -> tuple[dict[str, object], list[str]]:
    """Complete a config in place: choose open sizes, leave out or lower what the hypotheses cannot have in this run.

    Returns the chosen sizes by key, and a line for each thing left out or lowered. The config has its defaults.
    """
    return fill(config), [*leave_out_what_is_missing(config), *fit_hypotheses(config)]


def fill(config: dict) -> dict[str, object]:
    """Give every open size a value, in place, and return the chosen ones by key."""
    text, chosen = text_of(config), {}
    for key, choose in CHOICES.items():
        section, last = section_of(config, key)
        if section[last] is None:
            chosen[key] = section[last] = choose(config, text)
    return chosen


def forget(config: dict, given: dict, source: str) -> None:
    """Open the sizes of config.yaml, in place, if the `given` config names another source of text than `source`.

    The sizes of config.yaml are those of its own text. Sizes in `given` stay; it may get empty sections.
    """
    if config.get("corpus", {}).get("source", source) == source:
        return
    for key in CHOICES:
        (section, last), (own, _) = section_of(config, key), section_of(given, key)
        if last not in own:
            section[last] = None


def fit_hypotheses(config: dict) -> Iterator[str]:
    """Lower settings of hypotheses to what the run has, in place, and yield a line for each.

    Lists stay: the step leaves out what does not fit (`Inputs.usable`), and the line says so beforehand.
    """
    if (lists := lists_of(config["index"]["factory"])) is None:
        return
    k = config["retrieval"]["k"]
    limits = {"lists": (lists, f"the index has {lists} lists"), "neighbours": (k, f"retrieval.k is {k}")}
    for name in registry.with_step(config):
        for kind, (limit, why) in limits.items():
            yield from _fitted(config["hypotheses"][name], f"hypotheses.{name}.settings", kind, limit, why)


def _fitted(entry: dict, place: str, kind: str, limit: int, why: str) -> Iterator[str]:
    too_many: dict[str, list[int]] = {}
    for key, value in settings_of_kind(entry, kind):
        if isinstance(value, int) and value > limit:
            too_many.setdefault(key, []).append(value)
    for key, values in too_many.items():
        section, last = section_of(entry["settings"], key)
        if isinstance(section[last], list):
            yield f"{place}.{key}: {', '.join(map(str, values))} left out, as {why}"
        else:
            section[last] = limit
            yield f"{place}.{key}: {values[0]} lowered to {limit}, as {why}"


def _power_of_two(most: float) -> int:
    return 1 << max(int(most).bit_length() - 1, 0)


def _two_digits(number: float) -> int:
    return int(float(f"{number:.1e}"))


def _tokens_per_sample(config: dict, text: Text) -> int:
    """Take up to 256 tokens and at least what the windows need that are given."""
    needed = max((window["context"] or 0) + (window["new"] or 0) for window in config["windows"].values())
    return max(_power_of_two(min(256, text.fewest / 8)), needed, 8)


def _validate_every(updates: int, patience: int | None, **_: object) -> int:
    """Validate six times, with patience more often: it ends a training at a validation."""
    return max(updates // (20 if patience else 6), 1)


def _save_every(updates: int, patience: int | None, validate_every: int, **_: object) -> int:
    """Save six times, with patience at every validation."""
    return validate_every if patience else max(updates // 6, 1)


def _window(name: str, part: str, share: float) -> Callable[[dict, Text], int]:
    """Choose a window's `context` or `new`: a share of a sample, but no more than the other part leaves."""

    def choose(config: dict, text: Text) -> int:
        longest, window = config["lm"]["training"]["tokens_per_sample"], config["windows"][name]
        left = longest - (window["context" if part == "new" else "new"] or 0)
        return max(min(int(share * longest), left), 1 if part == "new" else 0)

    return choose


def _fractions(config: dict, text: Text) -> list[float]:
    """Begin with the smallest store that has enough neighbours."""
    needed = config["retrieval"]["k"] or LEAST_K
    return [fraction for fraction in FRACTIONS[:-1] if fraction * text.fewest >= needed] + FRACTIONS[-1:]


def _k(config: dict, text: Text) -> int:
    wanted = min(max(text.likely / TOKENS_PER_NEIGHBOUR, LEAST_K), MOST_K)
    return _power_of_two(min(wanted, min(config["fractions"]) * text.fewest + 1e-9))


def _factory(config: dict, text: Text) -> str:
    """Choose about √N lists, as many as can be trained, and a byte of PQ code for four dimensions, 64 at most."""
    width, rows = config["lm"]["architecture"]["width"], config["index"]["training_rows"] or text.fewest
    lists = _power_of_two(min(math.sqrt(text.likely), min(rows, text.fewest) / LEAST_ROWS_PER_LIST))
    if min(rows, text.fewest) < PQ_CENTROIDS + config["datastore"]["chunks"]:
        return f"IVF{lists},Flat"
    return f"IVF{lists},PQ{max(code for code in range(1, 65) if width % code == 0 and code <= max(width // 4, 1))}"


def _lists(config: dict) -> int:
    return lists_of(config["index"]["factory"]) or 1


CHOICES: dict[str, Callable[[dict, Text], object]] = {  # in an order in which each may look at the earlier ones
    "corpus.bpe_merges": lambda config, text: min(max(_two_digits(12 * math.sqrt(text.likely)), 100), 32_000),
    "lm.training.tokens_per_sample": _tokens_per_sample,
    # Train longer on a longer text, but fewer epochs: seven of half a million tokens, half of one of 100 million.
    "lm.training.updates": lambda config, text: max(200, _two_digits(2.27 * math.sqrt(text.likely))),
    "lm.training.warmup_updates": lambda config, text: config["lm"]["training"]["updates"] // 8,
    "lm.training.validate_every": lambda config, text: _validate_every(**config["lm"]["training"]),
    "lm.training.save_every": lambda config, text: _save_every(**config["lm"]["training"]),
    "windows.train.new": _window("train", "new", 1 / 2),
    "windows.train.context": _window("train", "context", 1 / 2),
    "windows.evaluation.new": _window("evaluation", "new", 1 / 4),
    "windows.evaluation.context": _window("evaluation", "context", 3 / 4),
    "datastore.chunks": lambda config, text: math.ceil(math.sqrt(text.likely / 200_000)),
    "fractions": _fractions,
    "retrieval.k": _k,
    "index.factory": _factory,
    "index.training_rows": lambda config, text: ROWS_PER_LIST * _lists(config) + config["datastore"]["chunks"],
    "index.nprobe": lambda config, text: max(min(32, _lists(config) // 4), 1),
}
