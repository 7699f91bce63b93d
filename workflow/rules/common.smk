"""What rules share: names of files, a rule's part of the config, what its jobs ask for, entries of the report."""

import json

from knnlm.config import corpus, text_limits
from knnlm.corpus import sotu
from knnlm.corpus.text import EVALUATED, SPLITS
from knnlm.figures.catalogue import FIGURES

SEARCHES = ["exact", "approximate"]
CHUNKS = range(config.get("datastore", {}).get("chunks", 1))
CHUNK_ARRAYS = ["att", "ffn", "values", "positions"]
NEIGHBOUR_ARRAYS = ["ids", "similarities"]
QUERY_BLOCKS = range(config["resources"]["query_blocks"])
# What a search that is divided into blocks of queries writes for each split; it is joined afterwards.
JOINED = {"exact": NEIGHBOUR_ARRAYS, "approximate": [*NEIGHBOUR_ARRAYS, "real"]} if len(QUERY_BLOCKS) > 1 else {}
# What such a search must know: the number of its block, and how many there are.
BLOCK = {"block": lambda wildcards: [int(wildcards.block), len(QUERY_BLOCKS)]} if JOINED else {}
BINARY = [
    *collect("<corpus>/binary/{split}.{kind}", split=SPLITS, kind=["bin", "idx"]),
    "<corpus>/binary/dict.txt",
]
TOKENS = placed(f"results/{MAKERS['corpus']}/corpus/tokens/manifest.json")
SEEDS = variants.of_seeds_alone(config)  # the runs of other seeds
# Tokens that the config gives, for `check_size`. They are none of its parameters: correcting them must repeat nothing.
GIVEN_TOKENS = " ".join(str((config["corpus"]["token_counts"] or {}).get(split, "")) for split in SPLITS)
FRONT_PICTURES = ["remaining", "explanations", "verdicts"]  # the figures on the report's first page
# Figures of the measurement of performance, each drawn from the table of its name.
PERFORMANCE_FIGURES = ["performance", "scaling"]
# Keys that shape the work of the main result, the text left aside; the measurement of performance does the same work.
SHAPING = ["seed", "corpus.bpe_merges", "lm", "windows.train", "datastore", "index", "retrieval", "main", "fractions"]
SHAPING += ["temperature", "significance"]
# The priority of the main result's own tables and picture: nothing is to keep them waiting.
BEFORE_ALL = 100_000
# Of a job that computes on a device, beside what every job asks for.
DEVICE = ["gres", "nodes", "mpi", "tasks", "tasks_per_gpu"]


def settings(*keys, **facts):
    """Return the function that gives a job its settings as canonical JSON, whatever the order in the config file.

    A job sees the config below the dotted keys, its wildcards, and further facts, which may be functions of them.
    """

    def of_job(wildcards):
        chosen = {name: int(value) if name == "chunk" else value for name, value in wildcards.items()}
        chosen |= {name: fact(wildcards) if callable(fact) else fact for name, fact in facts.items()}
        for key in keys:
            *parents, last = key.split(".")
            have, want = config, chosen
            for parent in parents:
                have, want = have[parent], want.setdefault(parent, {})
            want[last] = have[last]
        return json.dumps(chosen, sort_keys=True)

    return of_job


def asked(rule, what):
    """Return the function that tells what a rule's job asks for at an attempt: one field of `cost.requests.Request`."""

    def amount(wildcards, attempt):
        from knnlm.cost import requests  # a run that is finished does not need it

        found = getattr(requests.asked(config, TOKENS, rule, dict(wildcards), attempt), what)
        cores = workflow.resource_settings.cores if workflow.is_main_process and not workflow.non_local_exec else None
        return requests.threads_beside_others(rule, found, cores) if what == "threads" and cores else found

    return amount


def asks(rule, *more):
    """Return what a rule's jobs ask for by the size of their data: GPUs, memory, disk, minutes, and `more` by name."""
    return {what: asked(rule, what) for what in ("gpu", "mem_mb", "disk_mb", "runtime", *more)}


def first(rule):
    """Return the function that tells which of a rule's jobs, and of all, goes first where more of them could start."""

    def priority(wildcards):
        from knnlm.cost import order

        return order.priority(config, TOKENS, rule, dict(wildcards))

    return priority


def behind_manifest(files):
    """Mark inputs whose checksums a manifest has that is an input too: its content tells whether they have changed."""
    return ancient(files)


def of_block(path):
    """Mark a file of one block of queries as temporary; where there is one block alone, it is what it is."""
    return temp(path) if len(QUERY_BLOCKS) > 1 else path


def of_main(pattern, **fields):
    """Fill a path with the main retrieval's h and metric, where it has them, and with these fields."""
    return collect(pattern, **{**config["main"], **fields})


def every_retrieval(pattern):
    """Fill h, metric and search of a path with everything that the config asks for."""
    retrieval = config["retrieval"]
    return collect(pattern, h=retrieval["h"], metric=retrieval["metrics"], search=["approximate", "exact"])


def rule_prefix(run):
    """Return what stands before the names of a variant's rules."""
    return f"{run.removeprefix(config['name'] + '-').replace('-', '_')}_"


def of_runs(names, file):
    """List a file of several runs."""
    return collect("results/{name}/{file}", name=names, file=file)


def run_folders():
    """List the folders of the results: one, or one for each variant."""
    return of_runs(VARIANTS or [config["name"]], "")


def trained_lms():
    """List the runs whose LMs can be compared, this or its variants: name, what changes, patience, and who trains."""
    overlays = variants.overlays(config)
    found = []
    for name, overlay in zip(VARIANTS, overlays.values()):
        own = VARIANTS[name]
        told = {"name": name, "changes": variants.changes(overlay), "patience": own["lm"]["training"]["patience"]}
        found.append(told | {"maker": own["variant"][1]["language_model"]})
    this = {"name": config["name"], "changes": "", "patience": config["lm"]["training"]["patience"]}
    return found or [this | {"maker": MAKERS["language_model"]}]


def store_files():
    """List the files of the datastore; those of variants are among what `over_variants` lists."""
    files = ["manifest.json", *(f"{array}.npy" for array in CHUNK_ARRAYS)]
    return [] if VARIANTS else collect("<datastore>/chunk-{chunk}/{file}", chunk=CHUNKS, file=files)


def over_variants():
    """List the tables over all variants, and what `all` makes of each; nothing where there are none."""
    if not VARIANTS:
        return []
    each = [getattr(rules, f"{rule_prefix(run)}all").input for run in VARIANTS]
    return [*each, rules.plot_variants.output, rules.seed_tables.output if SEEDS else []]


def corpus_files(wildcards):
    """List the user's own files, so that editing one reruns what depends on it."""
    return [local(path) for path in corpus.own_files(config["corpus"])]


def sotu_version(wildcards):
    """Return the version of the package of addresses, which stands for its files; none where the text is another."""
    return sotu.version() if config["corpus"]["source"] == "sotu" else None


def stage_settings(wildcards):
    """Return the settings of what a stage needs the text to be long enough for."""
    return settings(*text_limits.KEYS[wildcards.stage])(wildcards)


def known_tokens(wildcards):
    """Return the manifest that has the corpus's token counts; none where the config tells them in advance."""
    return [] if config["corpus"]["token_counts"] else TOKENS


def measured_rates(wildcards):
    """Return the table of this machine's rates: this run's, else the newest; none if `performance` has never run."""
    found = sorted(Path(placed("results")).glob("*/tables/rates.csv"), key=os.path.getmtime)
    measured = [path.parent.parent.name for path in found]
    run = config["name"] if config["name"] in measured else measured[-1] if measured else None
    return f"results/{run}/tables/rates.csv" if run else []


def table(name, label=None, category="Tables"):
    """Return a table as an output that the report shows, under a label and with the caption of its name."""
    labels = {"table": label or name.replace("_", " ")}
    return report(
        f"results/<run>/tables/{name}.csv", caption=f"../report/{name}_table.rst", category=category, labels=labels
    )


def figure(name, category="Figures"):
    """Return a figure as an output that the report shows with the caption of its name."""
    labels = {"figure": name.replace("_", " ")}
    return report(
        f"results/<run>/figures/{name}.png", caption=f"../report/{name}.rst", category=category, labels=labels
    )
