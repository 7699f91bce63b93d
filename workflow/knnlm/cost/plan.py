"""What a run will cost, before it runs: rows, bytes on disk, peak memory and floating-point operations of each stage (`knnlm.cost.stages`)."""

from dataclasses import dataclass

from knnlm.cost import stages
from knnlm.cost.rules import RULES, TRAINED, jobs, text_bytes
from knnlm.cost.sizes import Run
from knnlm.cost.work import Work

SNAKEMAKE = "Snakemake"  # what no job does; its rows are jobs
FIGURE_BYTES = 100_000  # as PDF and as PNG
TEXT_FILES = 6  # as large as the text: as it was, tokenised, in pieces, twice as numbers of four bytes, and its borders
MAIN = {
    "training": stages.training,
    "states": stages.states,
    "datastore": stages.datastore,
    "index": stages.index,
    "exact retrieval": stages.exact_retrieval,
    "approximate retrieval": stages.approximate_retrieval,
    "real scores": stages.real_scores,  # made by the jobs of approximate retrieval
    "components": stages.components,
    "tables": stages.tables,
}


@dataclass(frozen=True)
class Stage:
    """One line of the plan; `rows` is what the stage counts by (tokens, keys, queries, table rows), None for the total."""

    stage: str
    rows: int | None
    disk_bytes: int
    memory_bytes: int
    flops: float


def plan(run: Run) -> list[Stage]:
    """Return the stages of the main result, and their total."""
    return _with_total({stage: work(run) for stage, work in MAIN.items()})


def whole_plan(run: Run) -> list[Stage]:
    """Return all stages of a run from its text to its figures, and their total; beyond it the hypotheses that train another LM, if there are any."""
    works, all_jobs, text = {stage: work(run) for stage, work in MAIN.items()}, list(jobs(run)), text_bytes(run)
    tables, figures = works.pop("tables"), sum(job.rule == "plot" for job in all_jobs)
    stages_of_hypotheses = {
        stage: [
            RULES[job.rule](run, job.wildcards) for job in all_jobs if job.rule == "hypothesis" and job.stage == stage
        ]
        for stage in ("hypotheses", TRAINED)
    }
    hypotheses, trained = (sum(found, Work(rows=len(found))) for found in stages_of_hypotheses.values())
    works = {"corpus": Work(text, TEXT_FILES * text, rows=sum(run.tokens.values())), **works, "hypotheses": hypotheses}
    works |= {"tables": tables, "figures": Work(disk_bytes=FIGURE_BYTES * figures, rows=figures)}
    works[SNAKEMAKE] = Work(rows=sum(job.stage != TRAINED for job in all_jobs))
    return _with_total(works) + [_line(TRAINED, trained)] * bool(trained.rows)


def _with_total(works: dict[str, Work]) -> list[Stage]:
    """Return a line for each stage and their total: bytes and operations added, memory the largest."""
    return [_line(stage, work) for stage, work in (works | {"total": sum(works.values(), Work())}).items()]


def _line(stage: str, work: Work) -> Stage:
    return Stage(stage, work.rows, int(work.disk_bytes), int(work.memory_bytes), work.flops)
