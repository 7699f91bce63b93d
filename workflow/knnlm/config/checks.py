"""What a config may say: checks before any job starts, each failing with one sentence that names the key.

Runs whenever the workflow is read, so it imports nothing heavy. `knnlm.config.readme` explains its keys.
"""

from collections.abc import Iterator
from itertools import chain

from knnlm.config import corpus, hypotheses, text_limits
from knnlm.config.corpus import most_training_tokens, training_bytes
from knnlm.config.schema import Problems, problems, suggestion
from knnlm.config.sizes import text_of
from knnlm.config.values import shown, unfit_values
from knnlm.datastore.factory import PQ_CENTROIDS, parse_factory
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

LARGEST_SEED = 2**32 - 1  # of NumPy, which fairseq seeds
DOUBTFUL = 4  # times as many tokens as the bytes of a text let expect, or as few
GPU_LARGEST_K = 2048  # FAISS's limit for k and nprobe on a GPU


def check(config: dict, schema: dict) -> None:
    """Check a config as the user wrote it, before defaults are filled, against the schema.

    Raises KnnlmError, naming the key of the first problem.
    """

    def unknown(name: str, section: str, subschema: dict) -> str:
        return f"not a known key; {suggestion(name, section, subschema, schema)}."

    for key, problem in chain(unfit_values(config), problems(config, schema, unknown=unknown)):
        _refuse(key, problem)


def check_combinations(config: dict) -> None:
    """Check that the values of a config, defaults filled, fit each other and the text; raises KnnlmError, naming the key of the first problem."""
    for check_of in CHECKS:
        for key, problem in check_of(config):
            _refuse(key, problem)


def warnings(config: dict) -> Iterator[str]:
    """Yield a line for what the size of the text makes doubtful, and counting its tokens may refuse; the config is complete."""
    if training_bytes(config) is None:
        return
    tokens, counts = text_of(config).likely, config["corpus"]["token_counts"]
    if counts and not tokens / DOUBTFUL < counts["train"] < tokens * DOUBTFUL:
        yield f"corpus.token_counts.train: is {counts['train']}, but a text of this size has about {tokens} BPE tokens; correct it."
    for stage in text_limits.CHECKS:
        for key, problem in text_limits.problems(stage, config, tokens, "about"):
            yield f"{key}: will probably be refused when the tokens are counted: {problem}"


def _refuse(key: str, problem: str) -> None:
    raise KnnlmError(f"config key {key}: {problem}")


def _lm_problems(config: dict) -> Problems:
    architecture, training = config["lm"]["architecture"], config["lm"]["training"]
    width, heads = architecture["width"], architecture["heads"]
    if width % heads:
        yield (
            "lm.architecture.heads",
            f"{heads} does not divide lm.architecture.width ({width}); choose a divisor of {width}.",
        )
    if width % 2:
        yield "lm.architecture.width", f"{width} is odd, but sinusoidal positions are pairs; choose an even width."
    for name in ("minimum_learning_rate", "warmup_initial_learning_rate"):
        if training[name] > training["learning_rate"]:
            yield (
                f"lm.training.{name}",
                f"{training[name]} is above lm.training.learning_rate ({training['learning_rate']}); lower it.",
            )
    if training["warmup_updates"] > training["updates"]:
        yield (
            "lm.training.warmup_updates",
            f"{training['warmup_updates']} is more than lm.training.updates ({training['updates']}); lower it.",
        )
    if training["fp16"] and config["resources"]["training_gpus"] == 0:
        yield (
            "lm.training.fp16",
            "float16 training needs a GPU, but resources.training_gpus is 0; set fp16 to false or give GPUs.",
        )


def _resource_problems(config: dict) -> Problems:
    gpus, nodes, accumulate = (
        config["resources"]["training_gpus"],
        config["resources"]["training_nodes"],
        config["lm"]["training"]["accumulate"],
    )
    if accumulate % max(gpus, 1):
        yield (
            "lm.training.accumulate",
            f"{accumulate} passes cannot be shared evenly by resources.training_gpus ({gpus}); choose a multiple of {gpus}.",
        )
    if gpus % nodes or (nodes > 1 and not gpus):
        yield (
            "resources.training_nodes",
            f"{nodes} nodes cannot share resources.training_gpus ({gpus}) evenly; choose a divisor of them, or 1.",
        )


def _window_problems(config: dict) -> Problems:
    longest = config["lm"]["training"]["tokens_per_sample"]
    for name, window in config["windows"].items():
        if (total := window["context"] + window["new"]) > longest:
            yield (
                f"windows.{name}",
                f"context + new is {total}, more than lm.training.tokens_per_sample ({longest}); lower one of them.",
            )


def _index_problems(config: dict) -> Problems:
    index, width = config["index"], config["lm"]["architecture"]["width"]
    factory = parse_factory(index["factory"], width)
    if factory.sub_quantisers and width % factory.sub_quantisers:
        codes = f"{factory.sub_quantisers} PQ codes do not divide lm.architecture.width ({width})"
        yield "index.factory", f"{codes}; choose a divisor of {width}."
    needed, lost = (
        factory.least_training_rows,
        config["datastore"]["chunks"] - 1,
    )  # every chunk gives the same share, rounded down
    if index["training_rows"] - lost < needed:
        problem = f"{index['training_rows']} rows are too few for {index['factory']}, which needs {needed + lost}"
        yield "index.training_rows", f"{problem} and for a good index {39 * needed}; raise it."
    if index["nprobe"] > factory.lists:
        yield "index.nprobe", f"{index['nprobe']} is more than the {factory.lists} lists of index.factory; lower it."


def _retrieval_problems(config: dict) -> Problems:
    retrieval, main, fractions = config["retrieval"], config["main"], config["fractions"]
    if main["h"] not in retrieval["h"]:
        yield (
            "main.h",
            f"{main['h']} is not in retrieval.h ({', '.join(retrieval['h'])}); choose one of them or add it there.",
        )
    if main["metric"] not in retrieval["metrics"]:
        yield (
            "main.metric",
            f"{main['metric']} is not in retrieval.metrics ({', '.join(retrieval['metrics'])}); choose one of them or add it there.",
        )
    if fractions != sorted(fractions) or fractions[-1] != 1:
        yield "fractions", f"{fractions} does not ascend to 1.0; sort it and end it with 1.0."
    if len({f"{fraction:g}" for fraction in fractions}) < len(fractions):  # they name components
        yield "fractions", f"{fractions} has two that agree in six digits; remove one."
    for key, value in (("retrieval.k", retrieval["k"]), ("index.nprobe", config["index"]["nprobe"])):
        if config["resources"]["gpus"] and value > GPU_LARGEST_K:
            yield (
                key,
                f"{value} is more than the {GPU_LARGEST_K} that FAISS allows on a GPU; lower it or set resources.gpus to 0.",
            )


def _temperature_problems(config: dict) -> Problems:
    grid, low, high = (config["temperature"][name] for name in ("grid", "low", "high"))
    if low >= high:
        yield "temperature.low", f"{low} is not below temperature.high ({high}); lower it."
    if outside := [temperature for temperature in grid if not low <= temperature <= high]:
        yield (
            "temperature.grid",
            f"{outside[0]} is outside temperature.low to temperature.high ({low} to {high}); remove it or widen them.",
        )
    if 1 not in grid:
        yield "temperature.grid", "lacks the untuned temperature 1.0; add it."


def _size_problems(config: dict) -> Problems:
    """Find what needs more training tokens than there can be."""
    if (most := most_training_tokens(config)) is None:
        return
    for stage in text_limits.CHECKS:
        yield from text_limits.problems(stage, config, most, "" if config["corpus"]["token_counts"] else "at most")


def _untrainable_code(config: dict, codes: int) -> str | None:
    rows, width = config["index"]["training_rows"], config["lm"]["architecture"]["width"]
    if rows >= PQ_CENTROIDS or width % codes:  # the step leaves out a code that does not divide the width
        return None
    return f"a code of {codes} bytes needs {PQ_CENTROIDS} rows to train, but index.training_rows is {rows}; raise that, or empty the list here."


def _too_large_seed(config: dict, offset: int) -> str | None:
    seed = max(config["seeds"] or [config["seed"]])
    if seed + offset <= LARGEST_SEED:
        return None
    return f"{shown(offset)} makes {shown(seed + offset)} of the seed {seed}, and a training's can be {LARGEST_SEED} at most; lower it."


LIMITS = {  # by the kind of a setting in settings.schema.yaml: what is wrong with a value beside the rest of the config
    "pq_bytes": _untrainable_code,
    "seed_offset": _too_large_seed,
}


def _limit_problems(config: dict) -> Problems:
    """Find settings of hypotheses, each of its kind, that do not fit the rest of the config."""
    for kind, problem_of in LIMITS.items():
        for key, value in registry.values_of(config, kind):
            if problem := problem_of(config, value):
                yield key, problem


CHECKS = (
    _lm_problems,
    _resource_problems,
    _window_problems,
    corpus.problems,
    _index_problems,
    _retrieval_problems,
    _temperature_problems,
    _size_problems,
    hypotheses.problems,
    _limit_problems,
)
