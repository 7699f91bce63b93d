"""What a config may say: checks before any job starts, each failing with one sentence that names the key.

Runs whenever the workflow is read, so it imports nothing heavy. `knnlm.config.readme` explains its keys.
"""

import difflib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import yaml

from knnlm.config import corpus, text_limits
from knnlm.config.corpus import most_training_tokens
from knnlm.config.files import LOADER
from knnlm.config.values import dotted, shown, unfit_values
from knnlm.datastore.factory import PQ_CENTROIDS, parse_factory
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

SCHEMA = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"
LARGEST_SEED = 2**32 - 1  # of NumPy, which fairseq seeds
GPU_LARGEST_K = 2048  # FAISS's limit for k and nprobe on a GPU
KINDS_OF_VALUE = {
    "object": "a section of keys",
    "array": "a list",
    "string": "text",
    "number": "a finite number",
    "integer": "a whole number",
}
KINDS_OF_VALUE |= {"boolean": "true or false", "null": "null"}

Problems = Iterator[tuple[str, str]]


def read_schema(path: str | Path = SCHEMA) -> dict:
    """Return the schema of the config."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), LOADER)


def check(config: dict, schema: dict) -> None:
    """Check a config as the user wrote it, before defaults are filled, against the schema.

    Stricter than JSON schema: 1.0 is not a whole number and NaN is no number. Raises KnnlmError, naming the key of the first problem.
    """
    for key, problem in unfit_values(config):
        _refuse(key, problem)
    problems = sorted(
        _validator(schema).iter_errors(config),
        key=lambda error: (error.validator != "additionalProperties", len(error.absolute_path)),
    )
    if problems:
        _refuse(*_explained(problems[0], schema))


def check_combinations(config: dict) -> None:
    """Check that the values of a config, defaults filled, fit each other and the text; raises KnnlmError, naming the key of the first problem."""
    for problems in CHECKS:
        for key, problem in problems(config):
            _refuse(key, problem)


def _refuse(key: str, problem: str) -> None:
    raise KnnlmError(f"config key {key}: {problem}")


def _validator(schema: dict) -> jsonschema.Draft202012Validator:
    plain = jsonschema.Draft202012Validator
    checker = plain.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    checker = checker.redefine(
        "number",
        lambda _, value: checker.is_type(value, "integer") or (isinstance(value, float) and math.isfinite(value)),
    )
    return jsonschema.validators.extend(plain, type_checker=checker)(schema)


def _explained(error: jsonschema.ValidationError, schema: dict) -> tuple[str, str]:
    """Return the key and the sentence for one schema error."""
    key, value, limit = dotted(error.absolute_path), error.instance, error.validator_value
    if error.validator == "additionalProperties":
        unknown = next(name for name in value if name not in error.schema["properties"])
        return dotted(
            [*error.absolute_path, str(unknown)]
        ), f"not a known key; {_suggestion(str(unknown), key, error.schema, schema)}."
    if error.validator == "required":
        missing = next(name for name in limit if name not in value)
        return dotted([*error.absolute_path, missing]), "missing; add it."
    if error.validator == "type":
        return key or "(the whole file)", _type_problem(value, limit)
    sentences = {
        "enum": lambda: f"{shown(value)} is not one of the choices; write {', '.join(map(str, limit))}.",
        "minimum": lambda: f"{shown(value)} is too small; choose at least {limit}.",
        "exclusiveMinimum": lambda: f"{shown(value)} is too small; choose more than {limit}.",
        "maximum": lambda: f"{shown(value)} is too large; choose at most {limit}.",
        "exclusiveMaximum": lambda: f"{shown(value)} is too large; choose less than {limit}.",
        "pattern": lambda: f"{shown(value)} has characters that are not allowed; write what matches {limit}.",
        "uniqueItems": lambda: f"{shown(value)} has an entry twice; list each once.",
        "minItems": lambda: f"has {len(value)} entries; list at least {limit}.",
        "maxItems": lambda: f"has {len(value)} entries; list at most {limit}.",
        "minLength": lambda: f"{shown(value)} is too short; write at least {limit} characters.",
        "maxLength": lambda: f"{shown(value)} is too long; write at most {limit} characters.",
    }
    return key, sentences[error.validator]()


def _type_problem(value: object, wanted: str | list[str]) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    if value is None:
        return f"has no value; give {KINDS_OF_VALUE[names[0]]} or remove the line to have the default."
    problem = f"{shown(value)} is not {' or '.join(KINDS_OF_VALUE[name] for name in names)}"
    if isinstance(value, str) and {"number", "integer", "boolean"} & set(names):
        if re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
            return f"{problem}, because YAML reads an exponent without a point as text; write {value.lower().replace('e', '.0e', 1)}."
        if re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?|true|false", value):
            return f"{problem} but text; write it without quotation marks, and not inside the braces of --config, which reads all as text."
    return f"{problem}; correct it."


def _suggestion(unknown: str, section: str, subschema: dict, schema: dict) -> str:
    """Say which key may have been meant: one spelled alike in this section, one of this name elsewhere, or any spelled alike."""
    prefix = f"{section}." if section else ""
    if close := difflib.get_close_matches(unknown.lower(), subschema["properties"], n=1):
        return f"did you mean {prefix}{close[0]}"
    known = [key for key, _ in flattened(schema)]
    if elsewhere := [key for key in known if key.split(".")[-1] == unknown]:
        return f"did you mean {elsewhere[0]}"
    if close := difflib.get_close_matches(f"{prefix}{unknown}", known, n=1, cutoff=0.8):
        return f"did you mean {close[0]}"
    return f"known here are {', '.join(subschema['properties'])}"


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
        yield from text_limits.problems(stage, config, most, counted=config["corpus"]["token_counts"] is not None)


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


LIMITS = {  # by the kind of a setting (`setting_kinds.KINDS`): what is wrong with a value beside the rest of the config
    "bytes of a PQ code": _untrainable_code,
    "seed offset": _too_large_seed,
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
    registry.problems,
    _limit_problems,
)


def flattened(schema: dict, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (dotted key, subschema) of every key and section, in the order of the schema."""
    for name, subschema in schema.get("properties", {}).items():
        yield f"{prefix}{name}", subschema
        yield from flattened(subschema, f"{prefix}{name}.")
        if isinstance(subschema.get("additionalProperties"), dict):  # entries under names of the user's own
            yield from flattened(subschema["additionalProperties"], f"{prefix}{name}.<name>.")
