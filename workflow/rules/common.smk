"""Helpers that rules share: which code, settings and files a step depends on."""

import ast
import json
import os
import time
from functools import cache

from knnlm.config import corpus
from knnlm.corpus import sotu
from knnlm.corpus.text import EVALUATED as EVALUATION_SPLITS, SPLITS
from knnlm.hypotheses import registry
from knnlm.storage import locks
from knnlm.config import text_limits
from knnlm.figures.catalogue import FIGURES

# Replacing the prefix drops strict mode, so it is said again. The allocator keeps freed pages and idle threads sleep: both measured to pay.
# A step ends with the Snakemake that runs it: on a cluster that is the one inside the job, so jobs outlive the one that has submitted them.
# Steps speak UTF-8 in every locale; names of files stay in the locale's encoding, in which Snakemake has found them.
# `logged LOG COMMAND` runs a step, shows what it says and keeps it in LOG; the step leaves its times beside it.
DRIVER = os.getpid()
DRIVER_STARTED = time.time() - time.process_time()  # the imports of Snakemake itself counted
shell.prefix(
    "set -euo pipefail; export KNNLM_DRIVER={DRIVER} KNNLM_DRIVER_STARTED={DRIVER_STARTED} PYTHONPATH={LIBRARY:q} PYTHONIOENCODING=utf-8 OMP_WAIT_POLICY=PASSIVE "
    "MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456; "
    'logged() {{ KNNLM_LOG="$1" "${{@:2}}" 2>&1 | tee "$1"; }}; '
)


@cache
def imported_files(path):
    """List the files of our own library that the module at `path` imports."""
    package = path.parent.relative_to(LIBRARY).parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join(filter(None, [*parents, node.module]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        targets = [LIBRARY.joinpath(*name.split(".")) for name in names]
        found += [
            file for target in targets for file in (target.with_suffix(".py"), target / "__init__.py") if file.is_file()
        ]
    return found


def sources(step, *modules):
    """List every library file that running a step executes, and those of further modules, so that a change of code reruns what depends on it."""
    names = ["steps/__main__", f"steps/{step}", *modules]
    pending, found = [LIBRARY / "knnlm" / f"{name}.py" for name in names], set()
    while pending:
        if (path := pending.pop()) not in found:
            found.add(path)
            pending.extend(imported_files(path))
    return [local(os.path.relpath(path)) for path in sorted(found)]


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


def asks(job, what):
    """Return the function that tells one of the resources (`knnlm.cost.requests.Request`) that a rule's jobs ask for: by their size, and at which attempt."""

    def amount(wildcards, attempt):
        from knnlm.cost import requests  # imports NumPy, which a run that is finished does not need

        return getattr(requests.asked(config, TOKENS, job, dict(wildcards), attempt), what)

    return amount


def corpus_text_settings(wildcards):
    """Settings of the corpus; the version of the package stands for the addresses in it, which are no files of the project."""
    version = sotu.version() if config["corpus"]["source"] == "sotu" else None
    parts = ["source", "normalisation", "sotu", "text", "wikitext103"]
    return settings("seed", *(f"corpus.{part}" for part in parts), sotu_version=version)


def corpus_files(wildcards):
    """List the user's own text files, so that editing one reruns what depends on it."""
    return [local(path) for path in corpus.text_files(config["corpus"])]


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
    """Settings of one exact retrieval, or of one block of its queries."""
    return settings("retrieval.k", "main", "fractions", search="exact", **retrieval_fields(wildcards))


def approximate_settings(wildcards):
    """Settings of one approximate retrieval, or of one block of its queries."""
    return settings(
        "retrieval.k", "main", "fractions", "index.nprobe", search="approximate", **retrieval_fields(wildcards)
    )


def retrieval_fields(wildcards):
    """Return h and metric, and of a block of queries its number and how many there are."""
    pair = {"h": wildcards.h, "metric": wildcards.metric}
    return pair | {"block": [int(wildcards.block), len(QUERY_BLOCKS)]} if "block" in wildcards.keys() else pair


def behind_manifest(files):
    """Mark inputs whose checksums stand in a manifest that is an input beside them: it is small, and its content tells whether they have changed."""
    return ancient(files)


def of_block(path):
    """Mark a file of one block of queries as temporary; where there is one block alone, it is what it is."""
    return temp(path) if len(QUERY_BLOCKS) > 1 else path


def component_settings(wildcards):
    """Settings of the components made from one retrieval."""
    return settings("retrieval.k", "main", "fractions", "temperature", **wildcards)


# What a hypothesis must know of the config beside its own settings, by what its step needs.
KNOWN = {
    "components": ["main"],
    "neighbours": ["main", "retrieval.k"],
    "index": ["main", "retrieval.k", "index.nprobe", "index.training_rows"],
    "temperature": ["temperature"],
    "training": ["lm", "windows.evaluation"],
    "training_neighbours": ["main"],
}


def hypothesis_settings(wildcards):
    """Settings of one hypothesis: what its step does, not what is asked."""
    needs = registry.needs(config, wildcards.hypothesis)
    known = [key for need in needs for key in KNOWN.get(need, [])]
    own = config["hypotheses"][wildcards.hypothesis]["settings"]
    return settings("seed", *known, hypothesis=wildcards.hypothesis, settings=own)


def training_neighbour_settings(wildcards):
    """Settings of the neighbours of one chunk's training positions."""
    own = config["hypotheses"][wildcards.hypothesis]["settings"]
    known = {"hypothesis": wildcards.hypothesis, "settings": {"k": own["k"]}, "index": {"nprobe": own["nprobe"]}}
    return settings("seed", "main", chunk=int(wildcards.chunk), **known)


def family(wildcards):
    """Return the step that makes the components of a hypothesis."""
    return config["hypotheses"][wildcards.hypothesis]["family"]


def hypothesis_sources(wildcards):
    """List the code that makes the components of a hypothesis."""
    return sources("hypothesis", f"hypotheses/{family(wildcards)}")


def needed(what, pattern, **fields):
    """Return an input function: a path filled with these fields and the main h and metric where the step of a hypothesis reads `what`, else none."""
    return lambda wildcards: of_main(pattern, **fields) if what in registry.needs(config, wildcards.hypothesis) else []


def of_main(pattern, **fields):
    """Fill a path with the main retrieval's h and metric, where it has them, and with these fields."""
    return collect(pattern, **{**config["main"], **fields})


def needed_components(*kinds):
    """Return an input function: files of the kNN components where the step reads components, and those of the hypotheses that it comes after."""

    def files(wildcards):
        if "components" not in registry.needs(config, wildcards.hypothesis):
            return []
        earlier = config["hypotheses"][wildcards.hypothesis]["after"]
        knn = every_retrieval([f"results/<run>/components/knn-{{h}}-{{metric}}-{{search}}.{kind}" for kind in kinds])
        return knn + collect([f"results/<run>/hypotheses/{{hypothesis}}.{kind}" for kind in kinds], hypothesis=earlier)

    return files


def shown_hypotheses():
    """List the hypotheses of tables and figures: all that read stored files, and those that train an LM where this is asked for or was done before."""
    asked = EVERY_HYPOTHESIS in workflow.dag_settings.targets
    done = {name for name in TRAINED if Path(placed(f"results/{config['name']}/hypotheses/{name}.json")).exists()}
    return [name for name in HYPOTHESES if name not in TRAINED or asked or name in done]


def table_settings(wildcards):
    """Settings of the tables; of a hypothesis the question and what is compared, not how its components are made."""
    wanted = ("question", "paper", "share", "against", "candidates")
    asked = {name: {key: entry[key] for key in wanted} for name, entry in registry.active(config).items()}
    return settings("seed", "significance", "main", "fractions", "verdict", hypotheses=asked)


def plan_settings(wildcards):
    """Settings of the plan: everything but the name, and which sizes follow from the text."""
    return settings(*[key for key in config if key != "name"], chosen=CHOSEN)


def measured_rates(wildcards):
    """Return the table of this machine's rates: that of this run, else the newest of any; empty if `performance` has never run here."""
    found = sorted(Path(placed("results")).glob("*/tables/rates.csv"), key=os.path.getmtime)
    measured = [path.parent.parent.name for path in found]
    run = config["name"] if config["name"] in measured else measured[-1] if measured else None
    return f"results/{run}/tables/rates.csv" if run else []


def performance_settings(wildcards):
    """Settings of the measurement of performance: all that shapes the work of the main result but the text."""
    shapes = [
        "lm",
        "windows.train",
        "datastore",
        "index",
        "retrieval",
        "main",
        "fractions",
        "temperature",
        "significance",
    ]
    return settings("seed", "corpus.bpe_merges", *shapes, "performance")


def of_hypotheses(*patterns):
    """Return an input function that fills the name of every shown hypothesis into paths."""
    return lambda wildcards: collect(patterns, hypothesis=shown_hypotheses())


def shown_of(hypothesis):
    """Return what the figure of a hypothesis says of it."""
    entry = config["hypotheses"][hypothesis]
    return {"name": hypothesis, "question": entry["question"], "x_label": entry["x_label"]}


def hypothesis_figure_settings(wildcards):
    """Settings of the figure of one hypothesis."""
    return settings("figures", "main", hypothesis=shown_of(wildcards.hypothesis))


def redraw_settings(wildcards):
    """Settings of all figures: the table of each, and what is known of every hypothesis; the tables say which have been tried."""
    return settings(
        "figures", "main", tables=FIGURES, hypotheses={name: shown_of(name) for name in config["hypotheses"]}
    )


def every_retrieval(pattern):
    """Fill h, metric and search of a path with everything the config asks for."""
    return collect(
        pattern, h=config["retrieval"]["h"], metric=config["retrieval"]["metrics"], search=["approximate", "exact"]
    )


def every_seed(file, **fields):
    """List a file of the runs of all seeds, filled with these fields."""
    return collect(f"results/{config['name']}-seed-{{seed}}/{file}", seed=config["seeds"], **fields)


def run_folders():
    """List the folders of the results: one, or one for each seed."""
    return [f"results/{config['name']}-seed-{seed}" for seed in config["seeds"]] or [f"results/{config['name']}"]


def store_files():
    """List the files of the datastore, of all seeds."""
    files = ["manifest.json", *(f"{array}.npy" for array in CHUNK_ARRAYS)]
    return collect("{run}/datastore/chunk-{chunk}/{file}", run=run_folders(), chunk=CHUNKS, file=files)


def known_tokens(wildcards):
    """The corpus's token counts, unless the config tells them in advance."""
    return [] if config["corpus"]["token_counts"] else TOKENS


def lock_runs():
    """Stop with one sentence if another Snakemake works on this run or on one of its seeds; ours keeps them locked until it ends, however it ends."""
    for name in [config["name"], *(f"{config['name']}-seed-{seed}" for seed in config["seeds"])]:
        folder = Path(placed("results"), name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if locks.lock(folder / ".lock") is None:
                logger.warning(
                    f"{folder}: this file system has no locks; see to it yourself that no other Snakemake works on this run."
                )
        except BlockingIOError:
            raise WorkflowError(
                f"{folder}: another Snakemake works on this run; wait until it has ended, or stop it and run the same command again."
            )
        except OSError as error:
            raise WorkflowError(f"{error.filename}: {error.strerror}; put that right and run the same command again.")


CHUNKS = range(config.get("datastore", {}).get("chunks", 1))
TOKENS = placed(f"results/{config['name']}/corpus/tokens/manifest.json")
BINARY = [
    *(f"results/<run>/corpus/binary/{split}.{kind}" for split in SPLITS for kind in ("bin", "idx")),
    "results/<run>/corpus/binary/dict.txt",
]
SEARCHES = ["exact", "approximate"]
CHUNK_ARRAYS = ["att", "ffn", "values", "positions"]
NEIGHBOUR_ARRAYS = ["ids", "similarities"]
QUERY_BLOCKS = range(config["resources"]["query_blocks"])
# What a search writes for each split, where it is divided into blocks of queries that are joined afterwards.
JOINED = {"exact": NEIGHBOUR_ARRAYS, "approximate": [*NEIGHBOUR_ARRAYS, "real"]} if len(QUERY_BLOCKS) > 1 else {}
# What the rule is called, also where another workflow puts something before the names of this one's rules.
EVERY_HYPOTHESIS = workflow.modifier.modify_rulename("hypotheses")
HYPOTHESES = registry.with_step(config)
TRAINED = [name for name in HYPOTHESES if registry.trains_lm(config, name)]

# Figures of the measurement of performance, each drawn from the table of its name.
PERFORMANCE_FIGURES = ["performance", "scaling"]
