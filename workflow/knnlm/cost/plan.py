"""What a run will cost, before it runs: rows, bytes on disk, peak memory and operations of each stage."""

from knnlm.cost import stages
from knnlm.cost.rules import RULES, TRAINED, jobs
from knnlm.cost.sizes import Run

SNAKEMAKE = "Snakemake"  # what no job does; its rows are jobs
STAGES = (
    stages.training, stages.states, stages.datastore, stages.index, stages.exact_retrieval,
    stages.approximate_retrieval, stages.real_scores,  # both are made by the jobs of approximate retrieval
    stages.components, stages.tables,
)  # fmt: skip
FIGURE_BYTES = 100_000  # as PDF and as PNG
TEXT_FILES = 6  # as large as the text: as it was, tokenised, in pieces, twice as numbers of four bytes, and its borders


def plan(run: Run) -> dict[str, stages.Work]:
    """Return the work of every stage of the main result, and in `total` that of all."""
    return _with_total({stage.__name__.replace("_", " "): stage(run) for stage in STAGES})


def whole_plan(run: Run) -> dict[str, stages.Work]:
    """Return the work of every stage from text to figures and in `total` of all; behind it that of TRAINED, if any."""
    main, all_jobs, text = plan(run), list(jobs(run)), run.text_bytes
    del main["total"]
    tables, figures = main.pop("tables"), sum(job.rule == "plot" for job in all_jobs)
    hypotheses, trained = (
        [RULES[job.rule](run, job.wildcards) for job in all_jobs if (job.stage, job.rule) == (stage, "hypothesis")]
        for stage in ("hypotheses", TRAINED)
    )
    found = {"corpus": stages.Work(text, TEXT_FILES * text, rows=sum(run.tokens.values())), **main}
    found["hypotheses"] = sum(hypotheses, stages.Work(rows=len(hypotheses)))
    found["tables"] = tables
    found["figures"] = stages.Work(disk_bytes=FIGURE_BYTES * figures, rows=figures)
    found[SNAKEMAKE] = stages.Work(rows=sum(job.stage != TRAINED for job in all_jobs))
    return _with_total(found) | ({TRAINED: sum(trained, stages.Work(rows=len(trained)))} if trained else {})


def _with_total(works: dict[str, stages.Work]) -> dict[str, stages.Work]:
    return works | {"total": sum(works.values(), stages.Work())}
