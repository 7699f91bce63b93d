"""Say what a run will cost, stage by stage, before anything heavy runs."""

import argparse
import csv
from dataclasses import asdict

from knnlm.artifacts import atomic, read_manifest
from knnlm.errors import KnnlmError
from knnlm.plan import Stage, estimated_vocabulary, parameter_count, plan, tokens_per_update
from knnlm.steps import run

HEADINGS = ("stage", "rows", "disk (GB)", "memory (GB)", "TFLOP")


def formatted(stages: list[Stage]) -> str:
    """Return the plan as an aligned table in gigabytes (10⁹ bytes) and teraflop (10¹² operations)."""
    cells = [HEADINGS]
    for stage in stages:
        numbers = (stage.disk_bytes / 1e9, stage.memory_bytes / 1e9, stage.flops / 1e12)
        cells.append((stage.stage, "" if stage.rows is None else f"{stage.rows:,}", *(f"{number:,.{3 if number < 10 else 1}f}" for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def sizes(corpus: dict, manifest: str | None) -> tuple[dict[str, int], int]:
    """Return tokens of each split and types of the vocabulary: counted where the corpus is there, else as the config knows them."""
    if corpus["token_counts"] is not None:
        return corpus["token_counts"], estimated_vocabulary(corpus["bpe_merges"])
    if manifest is None:
        raise KnnlmError("config key corpus.token_counts: not given, and there is no corpus to count; give it or make the corpus first.")
    facts = read_manifest(manifest)
    return facts["tokens"], facts["vocabulary_size"]


def main(arguments: argparse.Namespace) -> None:
    """Print the plan and write it as CSV, in bytes and operations."""
    config = arguments.settings
    tokens, vocabulary = sizes(config["corpus"], arguments.manifest)
    stages = plan(config, tokens, vocabulary)
    with atomic(arguments.table) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(stages[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, stages))
    update = tokens_per_update(config)
    parameters = parameter_count(config["lm"]["architecture"], vocabulary)
    epochs = config["lm"]["training"]["updates"] * update / tokens["train"]
    print(f"{parameters:,} parameters, {vocabulary:,} types; {update:,} tokens an update, {epochs:.1f} epochs")
    print(f"BPE tokens: {', '.join(f'{split} {tokens[split]:,}' for split in ('train', 'valid', 'test'))}\n")
    print(formatted(stages))
    print("\nMemory of training is that of one device. Memory and TFLOP are estimates; `knnlm/plan.py` has the formulas.")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON: the whole config, defaults filled")
    options.add_argument("--manifest", nargs="?", help="corpus/tokens/manifest.json; needed where corpus.token_counts is null")
    options.add_argument("--table", required=True, help="CSV to write")
    return options


if __name__ == "__main__":
    run(main, parser())
