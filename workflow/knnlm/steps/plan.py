"""Say what a run will cost, stage by stage, before anything heavy runs."""

from pathlib import Path

import pandas as pd

from knnlm.config import text_limits
from knnlm.cost import hours, rules, sizes, stages
from knnlm.errors import KnnlmError
from knnlm.storage.manifests import read_manifest
from knnlm.storage.tables import write_table

HEADINGS = ("stage", "rows", "disk (GB)", "memory (GB)", "TFLOP", "hours", "it took")
COLUMNS = ("stage", "rows", "disk_bytes", "memory_bytes", "flops", "predicted_seconds", "measured_seconds")
NO_RATES = "For hours, measure what this machine can do: snakemake performance --cores all, with the same --configfile."
ESTIMATES = (
    "Memory of training is that of one device. Memory and TFLOP are estimates; `knnlm/cost/stages.py` has the formulas."
)
Seconds = dict[str, float]


def formatted(works: dict[str, stages.Work], predicted: Seconds, measured: Seconds) -> str:
    """Return the plan as a table of gigabytes (10⁹ bytes), teraflop (10¹²) and, if they are known, hours."""
    columns = HEADINGS[: 5 + bool(predicted)] + HEADINGS[6:] * bool(measured)
    cells = [columns]
    for stage, work in works.items():
        numbers = [work.disk_bytes / 1e9, work.memory_bytes / 1e9, work.flops / 1e12]
        numbers += [seconds.get(stage, 0) / 3600 for seconds in (predicted, measured) if seconds]
        rows = "" if work.rows is None else f"{work.rows:,}"
        cells.append((stage, rows, *(f"{number:,.{3 if number < 10 else 1}f}" for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    layout = "  ".join(["{:<%d}", *["{:>%d}"] * (len(columns) - 1)]) % tuple(widths)
    head, *lines = (layout.format(*row) for row in cells)
    return "\n".join([head, "-" * len(head), *lines])


def counted(corpus: dict, manifest: Path | None) -> tuple[dict[str, int], int]:
    """Return tokens of each split and types of the vocabulary: the corpus's if it is there, else the config's."""
    if manifest and manifest.exists():
        facts = read_manifest(manifest)
        return facts["tokens"], facts["vocabulary_size"]
    if corpus["token_counts"] is None:
        problem = "not given, and there is no corpus to count; give it or make the corpus first"
        raise KnnlmError(f"config key corpus.token_counts: {problem}.")
    return corpus["token_counts"], sizes.estimated_vocabulary(corpus["bpe_merges"])


def main(
    settings: dict, table: Path, manifest: Path | None = None, rates: Path | None = None, logs: Path | None = None
) -> None:
    """Print the plan and write it as CSV, in bytes, operations and seconds; end with what the run will refuse."""
    tokens, vocabulary = counted(settings["corpus"], manifest)
    run = sizes.Run(settings, tokens, vocabulary)
    works, rows = rules.whole_plan(run), []
    predicted = hours.predicted_seconds(run, hours.read_rates(rates)) if rates else {}
    measured = hours.measured_seconds(run, hours.read_times(logs)) if logs else {}
    for stage, work in works.items():
        seconds = (f"{of[stage]:.1f}" if stage in of else None for of in (predicted, measured))
        rows.append((stage, work.rows, int(work.disk_bytes), int(work.memory_bytes), work.flops, *seconds))
    write_table(table, pd.DataFrame(rows, columns=COLUMNS, dtype=object))
    update = sizes.tokens_per_update(settings)
    epochs = settings["lm"]["training"]["updates"] * update / tokens["train"]
    most = "at most " if settings["lm"]["training"]["patience"] else ""
    print(
        f"{run.parameters:,} parameters, {vocabulary:,} types; {update:,} tokens an update, {most}{epochs:.1f} epochs"
    )
    print(f"BPE tokens: {', '.join(f'{split} {tokens[split]:,}' for split in ('train', 'valid', 'test'))}\n")
    if chosen := settings.get("chosen"):
        print(f"Follow from the size of the text: {', '.join(f'{key} {value}' for key, value in chosen.items())}\n")
    if differs := text_limits.difference(settings["corpus"]["token_counts"], tokens):
        print(f"{differs}\n")
    print(formatted(works, predicted, measured))
    if settings["seeds"] or settings["variants"]:
        print("\nThe table is that of this run alone; `snakemake seed_1_plan` prints that of the variant seed-1.")
    times = f"{stages.times_saved_by_states(run):.1f} times as many operations"
    print(f"\nAn epoch of an output embedding would take {times} if the LM ran before it.")
    print(ESTIMATES)
    print(f"Hours are those of a machine like the one on which {rates} was measured." if predicted else NO_RATES)
    for key, problem in text_limits.problems(settings, tokens["train"]):
        raise KnnlmError(f"config key {key}: {problem}")
