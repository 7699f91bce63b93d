"""Helpers that rules share: the config's checks, and which code, settings and files a step depends on."""

import ast
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(LIBRARY))

from knnlm import configuration
from knnlm.errors import KnnlmError

# Replacing the prefix drops strict mode, so it is said again. The allocator keeps freed pages and idle threads sleep: both measured to pay.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH='{LIBRARY}' OMP_WAIT_POLICY=PASSIVE "
    "MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456; "
)


def check(given):
    """Stop with one sentence if a key is unknown or of the wrong kind."""
    try:
        configuration.check(given, configuration.read_schema())
    except KnnlmError as error:
        raise WorkflowError(str(error))


def check_combinations(given):
    """Stop with one sentence if keys that are right by themselves cannot go together."""
    try:
        configuration.check_combinations(given)
    except KnnlmError as error:
        raise WorkflowError(str(error))


def imported_files(path):
    """Yield the files of our own library that the module at `path` imports."""
    package = path.parent.relative_to(LIBRARY).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join(filter(None, [*parents, node.module]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            target = LIBRARY.joinpath(*name.split("."))
            for file in (target.with_suffix(".py"), target / "__init__.py"):
                if file.is_file():
                    yield file


def sources(step):
    """List every library file that running a step executes, itself included, so that a change of code reruns what depends on it."""
    pending, found = [LIBRARY / "knnlm" / "steps" / f"{step}.py"], set()
    while pending:
        if (path := pending.pop()) not in found:
            found.add(path)
            pending.extend(imported_files(path))
    return sorted(map(os.path.relpath, found))


def settings(*keys, **extra):
    """Return the config below the dotted keys, and extra facts, as canonical JSON: a rule sees only its part, in whatever order it was written."""
    chosen = dict(extra)
    for key in keys:
        *parents, last = key.split(".")
        have, want = config, chosen
        for parent in parents:
            have, want = have[parent], want.setdefault(parent, {})
        want[last] = have[last]
    return json.dumps(chosen, sort_keys=True)


def corpus_files(wildcards):
    """List the user's own text files, so that editing one reruns what depends on it."""
    return configuration.text_files(config["corpus"])


def chunk_settings(wildcards):
    """Settings of one datastore chunk."""
    return settings("seed", "windows.train", "datastore.chunks", chunk=int(wildcards.chunk))


def index_training_settings(wildcards):
    """Settings of one index's training."""
    return settings("seed", "index.factory", "index.training_rows", h=wildcards.h, metric=wildcards.metric)


def index_filling_settings(wildcards):
    """Settings of adding one chunk to an index."""
    return settings("index.factory", h=wildcards.h, metric=wildcards.metric)


def exact_settings(wildcards):
    """Settings of one exact retrieval."""
    return settings("retrieval.k", "main", "fractions", h=wildcards.h, metric=wildcards.metric, search="exact")


def approximate_settings(wildcards):
    """Settings of one approximate retrieval."""
    return settings("retrieval.k", "main", "fractions", "index.nprobe", h=wildcards.h, metric=wildcards.metric, search="approximate")


def component_settings(wildcards):
    """Settings of the components made from one retrieval."""
    return settings("retrieval.k", "main", "fractions", "temperature", **wildcards)


def every_retrieval(pattern):
    """Fill h, metric and search of a path with everything the config asks for."""
    return collect(pattern, h=config["retrieval"]["h"], metric=config["retrieval"]["metrics"], search=["approximate", "exact"])


def known_tokens(wildcards):
    """The corpus's token counts, unless the config tells them in advance."""
    return [] if config["corpus"]["token_counts"] else f"results/{config['name']}/corpus/tokens/manifest.json"


CHUNKS = range(config.get("datastore", {}).get("chunks", 1))
SPLITS = ["train", "valid", "test"]
EVALUATION_SPLITS = ["valid", "test"]

# Each figure and the table it is drawn from.
FIGURES = {
    "components": "components",
    "datastore_size": "datastore_size",
    "temperature": "temperature",
    "lambda": "lambda",
    "loss": "loss",
}
