"""What one job of each rule takes (`RULES`), all jobs that a run has (`jobs`), and what its stages take (`plan`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from knnlm.config import text_limits
from knnlm.cost import stages
from knnlm.cost.hypotheses import hypothesis, training_neighbours
from knnlm.cost.sizes import HALF, SINGLE, Run
from knnlm.cost.stages import Work
from knnlm.figures.catalogue import FIGURES
from knnlm.hypotheses import registry

COMPONENTS_OF_A_HYPOTHESIS = 6
TEXT_RULES = ("corpus_text", "tokenise", "bpe", "binarise")
TRAINED = "trained hypotheses"
SNAKEMAKE = "Snakemake"  # what no job does; its rows are jobs
STAGES = (
    stages.training, stages.states, stages.datastore, stages.index, stages.exact_retrieval,
    stages.approximate_retrieval, stages.real_scores,  # both are made by the jobs of approximate retrieval
    stages.components, stages.tables,
)  # fmt: skip
FIGURE_BYTES = 100_000  # as PDF and as PNG
TEXT_FILES = 6  # as large as the text: as it was, tokenised, in pieces, twice as numbers of four bytes, and its borders


def text(run: Run, wildcards: dict, rule: str) -> Work:
    """Read the text and write it in another form: as a stream, but for the distinct words and the line borders."""
    size = run.text_bytes
    return Work(size, 2 * size, Counter({f"{rule}_bytes": size}), Counter(disk_bytes=4 * size))


def chunk_of(work: Work, run: Run) -> Work:
    """Return one chunk's share of what is done to the whole store, and at most that of the largest chunk."""
    return work.share(1 / run.chunks, run.chunk_rows / run.train)


def retrieve_approximate(run: Run, wildcards: dict) -> Work:
    """Search for one block of queries with one hidden state and metric, and score what was found."""
    run = run.of_block(wildcards)
    return stages.approximate_retrieval(run) + stages.real_scores(run)


def join_neighbours(run: Run, wildcards: dict) -> Work:
    """Write the blocks of one retrieval behind one another."""
    found = run.of_pair(wildcards).found_bytes
    return Work(run.largest_split * run.k * SINGLE, 1.5 * found, Counter(disk_bytes=3 * found))


def knn_components(run: Run, wildcards: dict) -> Work:
    """Make the components of one retrieval; approximate search has two of the three variants of a pair."""
    return stages.components(run.of_pair(wildcards)).share(2 / 3 if wildcards["search"] == "approximate" else 1 / 3, 1)


def tables(run: Run, wildcards: dict) -> Work:
    """Make all tables; a hypothesis has some components, at most as many again as the main result."""
    work, main, most = stages.tables(run), len(run.knn_components), 1 + len(run.config["hypotheses"])
    components = main + COMPONENTS_OF_A_HYPOTHESIS * len(registry.with_step(run.config))
    return work.share(components / (main + 1), most)


def helped_tokens(run: Run, wildcards: dict) -> Work:
    """Make the tables of tokens: from the counts of the training text, and several columns of both splits."""
    return Work(3 * SINGLE * run.train + 20 * 8 * run.evaluated, 1e6, Counter(counted_tokens=run.train))


def measure_performance(run: Run, wildcards: dict) -> Work:
    """Measure every stage: a short training, and searches of synthetic stores, the largest of eight times the rows."""
    wanted, keys = run.config["performance"], run.config["performance"]["rows"] * run.width
    memory = max(stages.training(run).memory_bytes, 4 * SINGLE * keys)
    seconds = 900 + 200 * wanted["pairs"] * wanted["seconds"]
    return Work(memory, 3 * 8 * HALF * keys, Counter(measuring_seconds=seconds, disk_bytes=20 * 8 * HALF * keys))


RULES: dict[str, Callable[[Run, dict], Work]] = {
    **{rule: partial(text, rule=rule) for rule in TEXT_RULES},
    **dict.fromkeys(("check_size", "plot"), lambda run, wildcards: Work()),
    "train_lm": lambda run, wildcards: stages.training_job(run),
    "evaluation_states": lambda run, wildcards: stages.states(run),
    "datastore_chunk": lambda run, wildcards: chunk_of(stages.datastore(run), run),
    "train_index": lambda run, wildcards: stages.index_training(run),
    "fill_index": lambda run, wildcards: chunk_of(stages.index_filling(run), run),
    "retrieve_exact": lambda run, wildcards: stages.exact_retrieval(run.of_block(wildcards)),
}
RULES |= {rule.__name__: rule for rule in (retrieve_approximate, join_neighbours, knn_components, hypothesis)}
RULES |= {rule.__name__: rule for rule in (training_neighbours, tables, helped_tokens, measure_performance)}


@dataclass(frozen=True)
class Job:
    """A job: its stage, its rule, the wildcards by which its work differs, and its name, which is that of its log."""

    stage: str
    rule: str
    wildcards: dict[str, str]
    name: str


def jobs(run: Run) -> Iterator[Job]:
    """Yield every job of a run, those of the hypotheses that train an LM too."""
    chunk, names, blocks = range(run.chunks), registry.with_step(run.config), run.config["resources"]["query_blocks"]
    pair = {"h": run.config["retrieval"]["h"], "metric": run.config["retrieval"]["metrics"]}
    trained = [name for name in names if registry.trains_lm(run.config, name)]
    taught = [name for name in names if "training_neighbours" in registry.needs(run.config, name)]
    untrained = [name for name in names if name not in trained]
    for rule in TEXT_RULES:
        yield from _each("corpus", rule, rule)
    yield from _each("corpus", "check_size", "check_size/{stage}", stage=text_limits.CHECKS)
    yield from _each("training", "train_lm", "train_lm")
    yield from _each("states", "evaluation_states", "evaluation_states")
    yield from _each("datastore", "datastore_chunk", "datastore_chunk/{chunk}", chunk=chunk)
    yield from _each("index", "train_index", "train_index/{h}-{metric}", **pair)
    yield from _each("index", "fill_index", "fill_index/{h}-{metric}-{chunk}", **pair, chunk=chunk)
    folder = "block-{block}/" if blocks > 1 else ""
    for search in ("exact", "approximate"):
        stage, name = f"{search} retrieval", f"{{h}}-{{metric}}-{search}"
        yield from _each(stage, f"retrieve_{search}", f"retrieve/{folder}{name}", **pair, block=range(blocks))
        if blocks > 1:
            yield from _each(stage, "join_neighbours", f"join_neighbours/{name}", **pair)
        yield from _each("components", "knn_components", f"knn_components/{name}", **pair, search=[search])
    yield from _each("hypotheses", "hypothesis", "hypothesis/{hypothesis}", hypothesis=untrained)
    yield from _each("tables", "tables", "tables")
    yield from _each("tables", "helped_tokens", "helped_tokens")
    yield from _each("figures", "plot", "plot/{figure}", figure=FIGURES)
    yield from _each("figures", "plot", "plot/hypothesis-{hypothesis}", hypothesis=untrained)
    chunks = "training_neighbours/{hypothesis}-{chunk}"
    yield from _each(TRAINED, "training_neighbours", chunks, hypothesis=taught, chunk=chunk)
    yield from _each(TRAINED, "hypothesis", "hypothesis/{hypothesis}", hypothesis=trained)


def _each(stage: str, rule: str, name: str, /, **values: Iterable[object]) -> Iterator[Job]:
    """Yield a job of a rule for every combination of the values of its wildcards, which fill its name."""
    for combination in product(*values.values()):
        wildcards = dict(zip(values, map(str, combination), strict=True))
        yield Job(stage, rule, wildcards, name.format(**wildcards))


def plan(run: Run) -> dict[str, Work]:
    """Return the work of every stage of the main result, and in `total` that of all."""
    return _with_total({stage.__name__.replace("_", " "): stage(run) for stage in STAGES})


def whole_plan(run: Run) -> dict[str, Work]:
    """Return the work of every stage, in `total` of all, and behind it of LMs that hypotheses train (TRAINED)."""
    main, all_jobs, text = plan(run), list(jobs(run)), run.text_bytes
    del main["total"]
    tables, figures = main.pop("tables"), sum(job.rule == "plot" for job in all_jobs)
    hypotheses, trained = (
        [RULES[job.rule](run, job.wildcards) for job in all_jobs if (job.stage, job.rule) == (stage, "hypothesis")]
        for stage in ("hypotheses", TRAINED)
    )
    found = {"corpus": Work(text, TEXT_FILES * text, rows=sum(run.tokens.values())), **main}
    found["hypotheses"] = sum(hypotheses, Work(rows=len(hypotheses)))
    found["tables"] = tables
    found["figures"] = Work(disk_bytes=FIGURE_BYTES * figures, rows=figures)
    found[SNAKEMAKE] = Work(rows=sum(job.stage != TRAINED for job in all_jobs))
    return _with_total(found) | ({TRAINED: sum(trained, Work(rows=len(trained)))} if trained else {})


def _with_total(works: dict[str, Work]) -> dict[str, Work]:
    return works | {"total": sum(works.values(), Work())}
