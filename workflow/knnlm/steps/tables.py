"""Make the tables of a run from its components, temperature curves and loss curve."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.analysis.tables import (
    LOSS_COLUMNS,
    TEMPERATURE_COLUMNS,
    TUNED_ON,
    Split,
    component_table,
    datastore_size_table,
    lambda_table,
    main_variants,
)
from knnlm.analysis.verdicts import input_representation_table, resampled, share_table, verdict_table
from knnlm.analysis.wording import summary, verdict_rst, verdict_text
from knnlm.components.catalogue import Component, main_name
from knnlm.components.columns import FACT_COLUMNS, checkpoint_of, load_components
from knnlm.errors import KnnlmError
from knnlm.running.step import run
from knnlm.storage.files import atomic, load_array
from knnlm.storage.tables import DIGITS, read_text_table, write_table

SPLITS = (TUNED_ON, "test")


def main(arguments: argparse.Namespace) -> None:
    """Make every table first, then write them all, so that a mistake in one leaves none."""
    settings = arguments.settings
    main_component, rule = settings["main"], settings["verdict"]
    h, metric = main_component["h"], main_component["metric"]
    resamples, level, seed = settings["significance"]["resamples"], settings["significance"]["level"], settings["seed"]
    splits = read_splits(arguments)
    opened = read_components(arguments.descriptions, splits)
    descriptions, read = [asdict(component) for component, _ in opened.values()], reader(opened)
    components = component_table(descriptions, read, splits, main_name(main_component), resamples, level, seed)
    samples = resampled(components, read, splits, resamples, seed)
    verdicts = verdict_table(settings["hypotheses"], components, samples, main_component, rule, level)
    shares = share_table(components, samples, main_component, level)
    temperatures = pd.concat([read_text_table(path, TEMPERATURE_COLUMNS) for path in arguments.temperatures])
    tables = {
        arguments.components_table: components,
        arguments.temperature_table: temperatures,
        arguments.datastore_size_table: datastore_size_table(components, h, metric, settings["fractions"]),
        arguments.lambda_table: lambda_table(main_variants(components, h, metric), read, splits),
        arguments.loss_table: read_text_table(arguments.loss, LOSS_COLUMNS),
        arguments.verdicts_table: verdicts,
        arguments.shares_table: shares,
        arguments.input_representation_table: input_representation_table(
            components, shares, settings["hypotheses"], main_component
        ),
        arguments.facts_table: pd.concat(
            [pd.DataFrame(columns=FACT_COLUMNS), *(read_text_table(path, FACT_COLUMNS) for path in arguments.facts)]
        ),
    }
    base = float(components.loc[components["component"] == "base", "ppl"].iloc[-1])
    texts = {
        arguments.summary: summary(components, level),
        arguments.verdicts_text: verdict_text(verdicts, rule, level, base),
        arguments.verdicts_rst: verdict_rst(verdicts, rule, level, base),
    }
    for path, table in tables.items():
        write_table(path, table, DIGITS)
    for path, text in texts.items():
        with atomic(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def read_splits(arguments: argparse.Namespace) -> list[Split]:
    """Read valid and test; a split whose documents do not span its tokens is refused by name."""
    continuation = load_array(arguments.continuation, "bool", (None,))
    splits = []
    for name, tokens, documents in zip(SPLITS, arguments.tokens, arguments.documents, strict=True):
        try:
            splits.append(
                Split.of(
                    name, load_array(tokens, "int32", (None,)), load_array(documents, "int64", (None,)), continuation
                )
            )
        except KnnlmError as error:
            raise KnnlmError(f"{documents}: {error}") from None
        except IndexError:
            raise KnnlmError(
                f"{tokens}: holds ids beyond the {continuation.size} pieces of {arguments.continuation}; rerun the corpus steps."
            ) from None
    return splits


def read_components(paths: list[Path], splits: list[Split]) -> dict[str, tuple[Component, dict[str, np.ndarray]]]:
    """Open every component by name: its description, and for each split its log p, memory-mapped; all must belong to the base LM of the first file."""
    opened: dict[str, tuple[Component, dict[str, np.ndarray]]] = {}
    checkpoint = checkpoint_of(paths[0])
    for path in paths:
        for split in splits:
            for component, log_p in load_components(path, split.name, split.tokens.size, checkpoint):
                opened.setdefault(component.component, (component, {}))[1][split.name] = log_p
    return opened


def reader(components: dict[str, tuple[Component, dict[str, np.ndarray]]]) -> Callable[[str, str], np.ndarray]:
    """Return the function that reads one component's log p on one split and refuses what cannot be log-probabilities."""

    def read(component: str, split: str) -> np.ndarray:
        log_p = np.array(components[component][1][split])
        if not (log_p <= 1e-3).all():  # NaN fails too; float32 rounding may exceed 0 a little
            raise KnnlmError(
                f"component {component}, {split}: not log-probabilities (NaN or above 0); rerun the step that makes it."
            )
        return log_p

    return read


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument(
        "--settings", required=True, help="JSON with seed, significance, main, fractions, hypotheses and verdict"
    )
    options.add_argument(
        "--descriptions", required=True, type=Path, nargs="+", help="description files; their arrays lie beside them"
    )
    options.add_argument("--tokens", required=True, nargs=2, metavar=("VALID", "TEST"))
    options.add_argument("--documents", required=True, nargs=2, metavar=("VALID", "TEST"))
    options.add_argument("--continuation", required=True)
    options.add_argument("--temperatures", required=True, nargs="+", help="components/*.temperature.csv")
    options.add_argument("--loss", required=True, help="lm/loss.csv")
    options.add_argument("--facts", nargs="*", default=[], help="components/*.facts.csv of the hypotheses")
    for table in (
        "components",
        "temperature",
        "datastore-size",
        "lambda",
        "loss",
        "verdicts",
        "shares",
        "input-representation",
        "facts",
    ):
        options.add_argument(f"--{table}-table", required=True)
    options.add_argument("--summary", required=True, help="the main result as text")
    options.add_argument("--verdicts-text", required=True, help="the verdicts as text for a terminal")
    options.add_argument(
        "--verdicts-rst", required=True, help="the verdicts as reStructuredText, for the first page of the report"
    )
    return options


if __name__ == "__main__":
    run(main, parser())
