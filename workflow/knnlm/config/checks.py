"""Checks of a config before any job starts: each fails with a sentence that names the key, which `readme` explains."""

from collections.abc import Iterator
from itertools import chain

from knnlm.config import corpus, hypotheses, sizes, text_limits
from knnlm.config.schema import Problems, problems, suggestion, told_if
from knnlm.config.values import shown, unfit_values
from knnlm.datastore.factory import PQ_CENTROIDS, parse_factory, unfit
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

LARGEST_SEED = 2**32 - 1  # of NumPy, which fairseq seeds
DOUBTFUL = 4  # times as many tokens as the bytes of a text let expect, or as few
LOOKUPS_A_DAY = 5e8 * 86400  # of a CPU core that searches an index
MOST_DAYS = 2.0  # that a search may take on the CPU where a GPU was to do it


def check(config: dict, schema: dict) -> None:
    """Check a config, as the user wrote it, against the schema; raises KnnlmError, naming the first wrong key."""

    def unknown(name: str, section: str, subschema: dict) -> str:
        return f"not a known key; {suggestion(name, section, subschema, schema)}."

    _refuse(chain(unfit_values(config), problems(config, schema, unknown=unknown)))


def check_combinations(config: dict) -> None:
    """Check that a complete config's values fit each other and the text; raises KnnlmError for the first wrong key."""
    _refuse(chain.from_iterable(check_of(config) for check_of in CHECKS))


def warnings(config: dict) -> Iterator[str]:
    """Yield a line for what cannot use its GPUs, and for each key that counting the tokens will probably refuse.

    The config is complete.
    """
    yield from (f"{key}: {why}; its jobs run on the CPU" for key, why, _ in not_on_gpus(config))
    if corpus.training_bytes(config) is None:
        return
    tokens, counts = sizes.text_of(config).likely, config["corpus"]["token_counts"]
    if counts and not tokens / DOUBTFUL < counts["train"] < tokens * DOUBTFUL:
        problem = f"{counts['train']} is given, but a text of this size has about {tokens} BPE tokens"
        yield f"corpus.token_counts.train: {problem}; correct it."
    for key, problem in text_limits.problems(config, tokens, "about"):
        yield f"{key}: will probably be refused when the tokens are counted: {problem}"


def not_on_gpus(config: dict) -> Iterator[tuple[str, str, float]]:
    """Yield a key for which FAISS cannot search on the GPUs of the config, why, and the days it takes on the CPU."""
    if not config["resources"]["gpus"]:
        return
    index, k, counts = config["index"], config["retrieval"]["k"], config["corpus"]["token_counts"]
    factory = parse_factory(index["factory"], config["lm"]["architecture"]["width"])
    rows = sizes.text_of(config).likely
    queries = counts["valid"] + counts["test"] if counts else rows / 4
    lookups = rows * queries * min(1, index["nprobe"] / factory.lists) * factory.lookups
    days = lookups / LOOKUPS_A_DAY / config["resources"]["threads"]
    for key, asked in (("index.factory", ()), ("retrieval.k", (k, 1)), ("index.nprobe", (1, index["nprobe"]))):
        if (why := factory.not_on_gpu(*asked)) and (key == "index.factory" or not factory.not_on_gpu()):
            yield key, why, days


def _refuse(found: Problems) -> None:
    """Raise KnnlmError for the first problem, if there is one."""
    for key, problem in found:
        raise KnnlmError(f"config key {key}: {problem}")


def _lm_problems(config: dict) -> Problems:
    architecture, training = config["lm"]["architecture"], config["lm"]["training"]
    yield from told_if(architecture["width"] % architecture["heads"], "lm.architecture.heads", **architecture)
    yield from told_if(architecture["width"] % 2, "lm.architecture.width", **architecture)
    for name in ("minimum_learning_rate", "warmup_initial_learning_rate"):
        rate, key = training[name], f"lm.training.{name}"
        yield from told_if(rate > training["learning_rate"], key, "learning rate", **training, rate=rate)
    yield from told_if(training["warmup_updates"] > training["updates"], "lm.training.warmup_updates", **training)
    is_cold = training["schedule"] == "inverse_sqrt" and not training["warmup_updates"]
    yield from told_if(is_cold, "lm.training.warmup_updates", "warm-up of inverse_sqrt")
    is_uneven = training["patience"] and training["save_every"] != training["validate_every"]
    yield from told_if(is_uneven, "lm.training.save_every", **training)
    yield from told_if(training["fp16"] and config["resources"]["training_gpus"] == 0, "lm.training.fp16")
    longest = training["tokens_per_sample"]
    for name, window in config["windows"].items():
        total = window["context"] + window["new"]
        yield from told_if(total > longest, f"windows.{name}", "window", total=total, longest=longest)


def _resource_problems(config: dict) -> Problems:
    resources, accumulate = config["resources"], config["lm"]["training"]["accumulate"]
    gpus, nodes = resources["training_gpus"], resources["training_nodes"]
    yield from told_if(accumulate % max(gpus, 1), "lm.training.accumulate", accumulate=accumulate, gpus=gpus)
    uneven = gpus % nodes or (nodes > 1 and not gpus)
    yield from told_if(uneven, "resources.training_nodes", nodes=nodes, gpus=gpus)
    for key, why, days in not_on_gpus(config):
        yield from told_if(days > MOST_DAYS, key, "search on the CPU", why=why, days=round(days))


def _index_problems(config: dict) -> Problems:
    index, width = config["index"], config["lm"]["architecture"]["width"]
    factory = parse_factory(index["factory"], width)
    for problem in unfit(index["factory"], width, config["retrieval"]["metrics"]):
        yield "index.factory", problem
    least = factory.least_training_rows
    needed = least + config["datastore"]["chunks"] - 1  # each chunk gives the same share of the rows, rounded down
    few = index["training_rows"] < needed
    yield from told_if(few, "index.training_rows", **index, needed=needed, good=39 * least)
    yield from told_if(index["nprobe"] > factory.lists, "index.nprobe", **index, lists=factory.lists)


def _retrieval_problems(config: dict) -> Problems:
    main, fractions = config["main"], config["fractions"]
    for key, choices in (("h", "h"), ("metric", "metrics")):
        value, there = main[key], config["retrieval"][choices]
        said = {"value": value, "choices": choices, "there": ", ".join(there)}
        yield from told_if(value not in there, f"main.{key}", "main", **said)
    yield from told_if(fractions != sorted(fractions) or fractions[-1] != 1, "fractions", fractions=fractions)
    alike = len({f"{fraction:g}" for fraction in fractions}) < len(fractions)  # they name components
    yield from told_if(alike, "fractions", "fractions alike", fractions=fractions)


def _temperature_problems(config: dict) -> Problems:
    search = config["temperature"]
    yield from told_if(search["low"] >= search["high"], "temperature.low", **search)
    outside = [temperature for temperature in search["grid"] if not search["low"] <= temperature <= search["high"]]
    yield from told_if(outside, "temperature.grid", **search, outside=outside)
    yield from told_if(1 not in search["grid"], "temperature.grid", "untuned temperature")


def _size_problems(config: dict) -> Problems:
    """Find what needs more training tokens than there can be."""
    if (most := corpus.most_training_tokens(config)) is not None:
        yield from text_limits.problems(config, most, "" if config["corpus"]["token_counts"] else "at most")


def _setting_problems(config: dict) -> Problems:
    """Find settings of hypotheses, by their kind in settings.schema.yaml, that do not fit the rest of the config."""
    rows, width = config["index"]["training_rows"], config["lm"]["architecture"]["width"]
    for key, codes in registry.values_of(config, "pq_bytes"):
        few = rows < PQ_CENTROIDS and width % codes == 0  # the step leaves out a code that does not divide the width
        yield from told_if(few, key, "PQ codes", codes=codes, needed=PQ_CENTROIDS, rows=rows)
    for key, factory in registry.values_of(config, "factory"):
        parse_factory(factory, width, key)  # raises KnnlmError; the step leaves out what does not fit the run
    seed = max(config["seeds"] or [config["seed"]])
    for key, offset in registry.values_of(config, "seed_offset"):
        said = {"offset": shown(offset), "made": shown(seed + offset), "seed": seed, "largest": LARGEST_SEED}
        yield from told_if(seed + offset > LARGEST_SEED, key, "seed offset", **said)


CHECKS = (_lm_problems, corpus.problems, _index_problems, _retrieval_problems, _resource_problems)
CHECKS += (_temperature_problems, _size_problems, hypotheses.problems, _setting_problems)
