"""Checks of a config before any job starts: each fails with a sentence that names the key, which `readme` explains."""

from collections.abc import Iterator
from itertools import chain

from knnlm.config import corpus, hypotheses, sizes, text_limits
from knnlm.config.schema import Problems, problems, suggestion
from knnlm.config.values import shown, unfit_values
from knnlm.datastore.factory import PQ_CENTROIDS, parse_factory
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

LARGEST_SEED = 2**32 - 1  # of NumPy, which fairseq seeds
DOUBTFUL = 4  # times as many tokens as the bytes of a text let expect, or as few
GPU_LARGEST_K = 2048  # FAISS's limit for k and nprobe on a GPU


def check(config: dict, schema: dict) -> None:
    """Check a config, as the user wrote it, against the schema; raises KnnlmError, naming the first wrong key."""

    def unknown(name: str, section: str, subschema: dict) -> str:
        return f"not a known key; {suggestion(name, section, subschema, schema)}."

    _refuse(chain(unfit_values(config), problems(config, schema, unknown=unknown)))


def check_combinations(config: dict) -> None:
    """Check that a complete config's values fit each other and the text; raises KnnlmError for the first wrong key."""
    _refuse(chain.from_iterable(check_of(config) for check_of in CHECKS))


def warnings(config: dict) -> Iterator[str]:
    """Yield a line for each key that counting the tokens of the text will probably refuse. The config is complete."""
    if corpus.training_bytes(config) is None:
        return
    tokens, counts = sizes.text_of(config).likely, config["corpus"]["token_counts"]
    if counts and not tokens / DOUBTFUL < counts["train"] < tokens * DOUBTFUL:
        problem = f"{counts['train']} is given, but a text of this size has about {tokens} BPE tokens"
        yield f"corpus.token_counts.train: {problem}; correct it."
    for key, problem in text_limits.problems(config, tokens, "about"):
        yield f"{key}: will probably be refused when the tokens are counted: {problem}"


def _refuse(found: Problems) -> None:
    """Raise KnnlmError for the first problem, if there is one."""
    for key, problem in found:
        raise KnnlmError(f"config key {key}: {problem}")


def _lm_problems(config: dict) -> Problems:
    architecture, training = config["lm"]["architecture"], config["lm"]["training"]
    width, heads, updates = architecture["width"], architecture["heads"], training["updates"]
    if width % heads:
        problem = f"{heads} does not divide lm.architecture.width ({width})"
        yield "lm.architecture.heads", f"{problem}; choose a divisor of {width}."
    if width % 2:
        yield "lm.architecture.width", f"{width} is odd, but sinusoidal positions are pairs; choose an even width."
    for name in ("minimum_learning_rate", "warmup_initial_learning_rate"):
        if training[name] > (highest := training["learning_rate"]):
            yield f"lm.training.{name}", f"{training[name]} is above lm.training.learning_rate ({highest}); lower it."
    if (warmup := training["warmup_updates"]) > updates:
        yield "lm.training.warmup_updates", f"{warmup} is more than lm.training.updates ({updates}); lower it."
    if training["fp16"] and config["resources"]["training_gpus"] == 0:
        problem = "float16 training needs a GPU, but resources.training_gpus is 0"
        yield "lm.training.fp16", f"{problem}; set fp16 to false or give GPUs."
    longest = training["tokens_per_sample"]
    for name, window in config["windows"].items():
        if (total := window["context"] + window["new"]) > longest:
            problem = f"context + new is {total}, more than lm.training.tokens_per_sample ({longest})"
            yield f"windows.{name}", f"{problem}; lower one of them."


def _resource_problems(config: dict) -> Problems:
    gpus, nodes = (config["resources"][f"training_{what}"] for what in ("gpus", "nodes"))
    if (accumulate := config["lm"]["training"]["accumulate"]) % max(gpus, 1):
        problem = f"{accumulate} passes cannot be shared evenly by resources.training_gpus ({gpus})"
        yield "lm.training.accumulate", f"{problem}; choose a multiple of {gpus}."
    if gpus % nodes or (nodes > 1 and not gpus):
        problem = f"{nodes} nodes cannot share resources.training_gpus ({gpus}) evenly"
        yield "resources.training_nodes", f"{problem}; choose a divisor of them, or 1."
    for key, value in (("retrieval.k", config["retrieval"]["k"]), ("index.nprobe", config["index"]["nprobe"])):
        if config["resources"]["gpus"] and value > GPU_LARGEST_K:
            problem = f"{value} is more than the {GPU_LARGEST_K} that FAISS allows on a GPU"
            yield key, f"{problem}; lower it or set resources.gpus to 0."


def _index_problems(config: dict) -> Problems:
    index, width = config["index"], config["lm"]["architecture"]["width"]
    factory = parse_factory(index["factory"], width)
    if factory.sub_quantisers and width % factory.sub_quantisers:
        codes = f"{factory.sub_quantisers} PQ codes do not divide lm.architecture.width ({width})"
        yield "index.factory", f"{codes}; choose a divisor of {width}."
    # Every chunk gives the same share of the training rows, rounded down.
    needed, lost = factory.least_training_rows, config["datastore"]["chunks"] - 1
    if (rows := index["training_rows"]) - lost < needed:
        problem = f"{rows} rows are too few for {index['factory']}, which needs {needed + lost}"
        yield "index.training_rows", f"{problem} and for a good index {39 * needed}; raise it."
    if index["nprobe"] > factory.lists:
        yield "index.nprobe", f"{index['nprobe']} is more than the {factory.lists} lists of index.factory; lower it."


def _retrieval_problems(config: dict) -> Problems:
    main, fractions = config["main"], config["fractions"]
    for key, choices in (("h", "h"), ("metric", "metrics")):
        if main[key] not in (there := config["retrieval"][choices]):
            problem = f"{main[key]} is not in retrieval.{choices} ({', '.join(there)})"
            yield f"main.{key}", f"{problem}; choose one of them or add it there."
    if fractions != sorted(fractions) or fractions[-1] != 1:
        yield "fractions", f"{fractions} does not ascend to 1.0; sort it and end it with 1.0."
    if len({f"{fraction:g}" for fraction in fractions}) < len(fractions):  # they name components
        yield "fractions", f"{fractions} has two that agree in six digits; remove one."


def _temperature_problems(config: dict) -> Problems:
    grid, low, high = (config["temperature"][name] for name in ("grid", "low", "high"))
    if low >= high:
        yield "temperature.low", f"{low} is not below temperature.high ({high}); lower it."
    if outside := [temperature for temperature in grid if not low <= temperature <= high]:
        problem = f"{outside[0]} is outside temperature.low to temperature.high ({low} to {high})"
        yield "temperature.grid", f"{problem}; remove it or widen them."
    if 1 not in grid:
        yield "temperature.grid", "lacks the untuned temperature 1.0; add it."


def _size_problems(config: dict) -> Problems:
    """Find what needs more training tokens than there can be."""
    if (most := corpus.most_training_tokens(config)) is not None:
        yield from text_limits.problems(config, most, "" if config["corpus"]["token_counts"] else "at most")


def _setting_problems(config: dict) -> Problems:
    """Find settings of hypotheses, by their kind in settings.schema.yaml, that do not fit the rest of the config."""
    rows, width = config["index"]["training_rows"], config["lm"]["architecture"]["width"]
    for key, codes in registry.values_of(config, "pq_bytes"):
        if rows < PQ_CENTROIDS and width % codes == 0:  # the step leaves out a code that does not divide the width
            problem = f"a code of {codes} bytes needs {PQ_CENTROIDS} rows to train, but index.training_rows is {rows}"
            yield key, f"{problem}; raise that, or empty the list here."
    seed = max(config["seeds"] or [config["seed"]])
    for key, offset in registry.values_of(config, "seed_offset"):
        if seed + offset > LARGEST_SEED:
            problem = f"{shown(offset)} makes {shown(seed + offset)} of the seed {seed}"
            yield key, f"{problem}, and a training's can be {LARGEST_SEED} at most; lower it."


CHECKS = (_lm_problems, corpus.problems, _index_problems, _retrieval_problems, _resource_problems)
CHECKS += (_temperature_problems, _size_problems, hypotheses.problems, _setting_problems)
