"""Every job of a run, and how much each does of the operations whose rates `snakemake performance` measures.

Beside those rates, amounts are in `core_seconds`, which its threads share, and in `seconds`, of one core alone. What no rate is known for has a constant
here; those of time are to be set by the times that the demo's jobs have left (`knnlm.cost.step_times`): `snakemake plan` shows them beside the predicted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from knnlm.components.catalogue import real_score_fractions
from knnlm.config import text_limits
from knnlm.cost import plan
from knnlm.cost.hypothesis_sizes import Work, hypothesis_parts, training, training_neighbours
from knnlm.cost.plan import SINGLE, Run
from knnlm.cost.requests import BYTES_PER_TOKEN, of_block, of_pair
from knnlm.figures.catalogue import FIGURES
from knnlm.hypotheses import registry

Amounts = dict[str, float]

FAISS_OR_PANDAS, TORCH = (
    0.7,
    2.0,
)  # seconds from the start of a job to its step's first own line, by the heaviest that it imports
FAIRSEQ = 2.5  # to import it, where a step does so later
TRAINING = 5.0  # to start fairseq for one training, and to keep its checkpoints
TEXT_BYTES = {"corpus_text": 2e6, "tokenise": 2e5, "bpe": 5e5, "binarise": 2e6}  # a second, on one core
TABLE_OPERATIONS = 1e9  # a second, on one core
COUNTED_TOKENS = 5e6  # a second, of the training text, for the table of helped tokens
FIGURE = 1.0  # seconds to draw one and to write it as PDF and as PNG
HYPOTHESIS = 1.0  # seconds of what has no amount: files read, λ of its components, linear programs
COMPONENTS_OF_A_HYPOTHESIS = 6

# The stages of the plan and their rules; the real scores are made by the jobs of approximate retrieval.
TRAINED = "trained hypotheses"
STAGES = {
    "corpus": ("corpus_text", "tokenise", "bpe", "binarise", "check_size"),
    "training": ("train_lm",),
    "states": ("evaluation_states",),
    "datastore": ("datastore_chunk",),
    "index": ("train_index", "fill_index"),
    "exact retrieval": ("retrieve_exact", "join_exact"),
    "approximate retrieval": ("retrieve_approximate", "join_approximate"),
    "components": ("knn_components",),
    "hypotheses": ("hypothesis",),
    "tables": ("tables", "helped_tokens"),
    "figures": ("plot",),
    TRAINED: ("training_neighbours", "trained_hypothesis"),
}


@dataclass(frozen=True)
class Job:
    """A job: its rule, as STAGES calls it, the wildcards by which its amounts differ, and its name, that of its log."""

    rule: str
    wildcards: dict
    name: str


def jobs(run: Run) -> Iterator[Job]:
    """Yield every job of a run; those of the hypotheses that train an LM too."""
    for rule in (
        "corpus_text",
        "tokenise",
        "bpe",
        "binarise",
        "train_lm",
        "evaluation_states",
        "tables",
        "helped_tokens",
    ):
        yield Job(rule, {}, rule)
    yield from (Job("check_size", {"stage": stage}, f"check_size/{stage}") for stage in text_limits.CHECKS)
    yield from (Job("plot", {}, f"plot/{figure}") for figure in FIGURES)
    chunks = [{"chunk": str(chunk)} for chunk in range(run.config["datastore"]["chunks"])]
    yield from (Job("datastore_chunk", chunk, f"datastore_chunk/{chunk['chunk']}") for chunk in chunks)
    for h, metric in run.pairs:
        yield from _jobs_of_pair(run, {"h": h, "metric": metric}, chunks)
    for name in registry.with_step(run.config):
        trained = registry.trains_lm(run.config, name)
        yield Job("trained_hypothesis" if trained else "hypothesis", {"hypothesis": name}, f"hypothesis/{name}")
        if "training_neighbours" in registry.needs(run.config, name):
            yield from (
                Job("training_neighbours", chunk | {"hypothesis": name}, f"training_neighbours/{name}-{chunk['chunk']}")
                for chunk in chunks
            )
        if not trained:
            yield Job("plot", {"hypothesis": name}, f"plot/hypothesis-{name}")


def _jobs_of_pair(run: Run, pair: dict, chunks: list[dict]) -> Iterator[Job]:
    """Yield the jobs that make one index, search it and the store, and turn what they find into components."""
    name, count = "{h}-{metric}".format(**pair), run.config["resources"]["query_blocks"]
    yield Job("train_index", pair, f"train_index/{name}")
    yield from (Job("fill_index", pair | chunk, f"fill_index/{name}-{chunk['chunk']}") for chunk in chunks)
    for search in ("exact", "approximate"):
        for block in range(count):
            folder = f"block-{block}/" if count > 1 else ""
            yield Job(f"retrieve_{search}", pair | {"block": str(block)}, f"retrieve/{folder}{name}-{search}")
        if count > 1:
            yield Job(f"join_{search}", pair, f"join_neighbours/{name}-{search}")
        yield Job("knn_components", pair | {"search": search}, f"knn_components/{name}-{search}")


def starting_seconds(rule: str) -> float:
    """Return the seconds that a job takes before its step begins to compute."""
    with_torch = {
        "evaluation_states",
        "datastore_chunk",
        "retrieve_exact",
        "retrieve_approximate",
        "knn_components",
        "training_neighbours",
    }
    return TORCH if rule in with_torch or rule.endswith("hypothesis") else FAISS_OR_PANDAS


def amounts(run: Run, job: Job) -> Amounts:
    """Return how much a job does of each operation."""
    return AMOUNTS[job.rule](run, job)


def _text(run: Run, job: Job) -> Amounts:
    seconds = BYTES_PER_TOKEN * sum(run.tokens.values()) / TEXT_BYTES[job.rule]
    if job.rule == "tokenise":
        return {"core_seconds": seconds}
    return {"seconds": seconds + (FAIRSEQ if job.rule == "binarise" else 0)}


def _train_lm(run: Run, job: Job) -> Amounts:
    work = training(run)
    return {"training_flops": work.flops + work.half_flops, "seconds": TRAINING}


def _evaluation_states(run: Run, job: Job) -> Amounts:
    return {"states_flops": plan.states(run).flops, "seconds": FAIRSEQ}


def _datastore_chunk(run: Run, job: Job) -> Amounts:
    return {"states_flops": plan.datastore(run).flops / run.config["datastore"]["chunks"], "seconds": FAIRSEQ}


def _train_index(run: Run, job: Job) -> Amounts:
    return {"exact_flops": plan.index_training(run).flops}


def _fill_index(run: Run, job: Job) -> Amounts:
    return {"exact_flops": plan.index_filling(run).flops / run.config["datastore"]["chunks"]}


def _retrieve_exact(run: Run, job: Job) -> Amounts:
    stage = plan.exact_retrieval(of_block(run, job.wildcards))
    return {"exact_flops": stage.flops, "disk_bytes": stage.disk_bytes}


def _retrieve_approximate(run: Run, job: Job) -> Amounts:
    """The keys of the neighbours count as float32, as their rate does."""
    run = of_block(run, job.wildcards)
    stage, scores, looked_up = plan.approximate_retrieval(run), plan.real_scores(run), plan.scanned(run)
    scored = len(real_score_fractions(run.config, *run.pairs[0])) * run.evaluated * run.k
    found = {
        "choosing_flops": stage.flops - looked_up,
        "lookups": looked_up,
        "real_score_bytes": SINGLE * run.width * scored,
    }
    return found | {"disk_bytes": stage.disk_bytes + scores.disk_bytes}


def _join(run: Run, job: Job) -> Amounts:
    return {"disk_bytes": 3 * plan.exact_retrieval(of_pair(run, job.wildcards)).disk_bytes}


def _knn_components(run: Run, job: Job) -> Amounts:
    """Two of the three variants of a pair's components have an approximate search's neighbours."""
    terms = plan.components(of_pair(run, job.wildcards)).flops / plan.OPERATIONS_PER_NEIGHBOUR
    return {"neighbour_terms": terms * (2 / 3 if job.wildcards["search"] == "approximate" else 1 / 3)}


def _hypothesis(run: Run, job: Job) -> Amounts:
    parts, nothing = hypothesis_parts(run, job.wildcards["hypothesis"]), Work(0)
    searches = parts.get("searches", nothing)
    found = {
        "head_flops": parts["heads"].flops,
        "neighbour_terms": parts["temperatures"].operations / plan.OPERATIONS_PER_NEIGHBOUR,
        "exact_flops": searches.flops + parts.get("clusters", nothing).flops,
        "lookups": searches.operations,
        "seconds": HYPOTHESIS,
    }
    if "trainings" in parts:
        found |= {
            "training_flops": parts["trainings"].flops + parts["trainings"].half_flops,
            "seconds": HYPOTHESIS + 2 * TRAINING,
        }
    return found


def _training_neighbours(run: Run, job: Job) -> Amounts:
    work = training_neighbours(run, job.wildcards)
    return {"choosing_flops": work.flops, "lookups": work.operations, "disk_bytes": work.disk_bytes}


def _tables(run: Run, job: Job) -> Amounts:
    components = len(run.knn_components) + COMPONENTS_OF_A_HYPOTHESIS * len(registry.with_step(run.config))
    return {"seconds": components / (len(run.knn_components) + 1) * plan.tables(run).flops / TABLE_OPERATIONS}


def _helped_tokens(run: Run, job: Job) -> Amounts:
    return {"seconds": run.tokens["train"] / COUNTED_TOKENS}


AMOUNTS: dict[str, Callable[[Run, Job], Amounts]] = {
    **dict.fromkeys(TEXT_BYTES, _text),
    "check_size": lambda run, job: {},
    "train_lm": _train_lm,
    "evaluation_states": _evaluation_states,
    "datastore_chunk": _datastore_chunk,
    "train_index": _train_index,
    "fill_index": _fill_index,
    "retrieve_exact": _retrieve_exact,
    "retrieve_approximate": _retrieve_approximate,
    **dict.fromkeys(("join_exact", "join_approximate"), _join),
    "knn_components": _knn_components,
    **dict.fromkeys(("hypothesis", "trained_hypothesis"), _hypothesis),
    "training_neighbours": _training_neighbours,
    "tables": _tables,
    "helped_tokens": _helped_tokens,
    "plot": lambda run, job: {"seconds": FIGURE},
}
