"""Make the tables of a run from its components, temperature curves and loss curve."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.analysis.tables import (
    LOSS_COLUMNS,
    Split,
    component_table,
    datastore_size_table,
    lambda_table,
    main_variants,
)
from knnlm.analysis.verdicts import input_representation_table, resampled, share_table, verdict_table
from knnlm.analysis.wording import main_rst, summary, verdict_rst, verdict_text, word_is
from knnlm.components.catalogue import Component, main_name
from knnlm.components.columns import FACT_COLUMNS, checkpoint_of, load_components
from knnlm.components.temperature import CURVE_COLUMNS
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import load_array
from knnlm.storage.atomic import atomic
from knnlm.storage.tables import DIGITS, read_text_table, write_table


def main(
    settings: dict,
    descriptions: Sequence[Path],
    tokens: Sequence[Path],
    documents: Sequence[Path],
    continuation: Path,
    temperatures: Sequence[Path],
    loss: Path,
    facts: Sequence[Path],
    tables: Path,
) -> None:
    """Make every table first, then write them all to the folder `tables`, so that a mistake in one leaves none."""
    main_component, rule = settings["main"], settings["verdict"]
    h, metric = main_component["h"], main_component["metric"]
    resamples, level, seed = settings["significance"]["resamples"], settings["significance"]["level"], settings["seed"]
    splits = read_splits(tokens, documents, continuation)
    opened = read_components(descriptions, splits)
    described, read = [asdict(component) for component, _ in opened.values()], reader(opened)
    components = component_table(described, read, splits, main_name(main_component), resamples, level, seed)
    samples = resampled(components, read, splits, resamples, seed)
    verdicts = verdict_table(settings["hypotheses"], components, samples, main_component, rule, level)
    shares = share_table(components, samples, main_component, level)
    words = word_is(settings["corpus"]["tokeniser"])
    base = float(components.loc[components["component"] == "base", "ppl"].iloc[-1])
    made = {
        "components.csv": components,
        "temperature.csv": pd.concat([read_text_table(path, CURVE_COLUMNS) for path in temperatures]),
        "datastore_size.csv": datastore_size_table(components, h, metric, settings["fractions"]),
        "lambda.csv": lambda_table(main_variants(components, h, metric), read, splits),
        "loss.csv": read_text_table(loss, LOSS_COLUMNS),
        "verdicts.csv": verdicts,
        "shares.csv": shares,
        "input_representation.csv": input_representation_table(
            components, shares, settings["hypotheses"], main_component
        ),
        "facts.csv": pd.concat(
            [pd.DataFrame(columns=FACT_COLUMNS), *(read_text_table(path, FACT_COLUMNS) for path in facts)]
        ),
        "summary.txt": f"{summary(components, level)}\n{words}",
        "verdicts.txt": verdict_text(verdicts, rule, level, base),
        "verdicts.rst": f"{main_rst(components, main_component, level)}\n{words}\n.. verdicts\n\n"
        + verdict_rst(verdicts, rule, level, base),
    }
    for name, content in made.items():
        if isinstance(content, str):
            with atomic(tables / name) as unfinished:
                unfinished.write_text(content, encoding="utf-8")
        else:
            write_table(tables / name, content, DIGITS)


def read_splits(tokens: Sequence[Path], documents: Sequence[Path], continuation: Path) -> list[Split]:
    """Read valid and test; raises KnnlmError, naming the file, if documents do not span the tokens of their split."""
    continues, splits = load_array(continuation, "bool", (None,)), []
    for name, gold, borders in zip(EVALUATED, tokens, documents, strict=True):
        arrays = load_array(gold, "int32", (None,)), load_array(borders, "int64", (None,))
        try:
            splits.append(Split.of(name, *arrays, continues))
        except KnnlmError as error:
            raise KnnlmError(f"{borders}: {error}") from None
        except IndexError:
            raise KnnlmError(
                f"{gold}: holds ids beyond the {continues.size} pieces of {continuation}; rerun the corpus steps."
            ) from None
    return splits


def read_components(paths: list[Path], splits: list[Split]) -> dict[str, tuple[Component, dict[str, np.ndarray]]]:
    """Open every component by name: its description, and for each split its log p, float32 (n,), memory-mapped.

    Raises KnnlmError, naming the file, if one does not belong to the base LM of the first file.
    """
    opened: dict[str, tuple[Component, dict[str, np.ndarray]]] = {}
    checkpoint = checkpoint_of(paths[0])
    for path in paths:
        for split in splits:
            for component, log_p in load_components(path, split.name, split.tokens.size, checkpoint):
                opened.setdefault(component.component, (component, {}))[1][split.name] = log_p
    return opened


def reader(components: dict[str, tuple[Component, dict[str, np.ndarray]]]) -> Callable[[str, str], np.ndarray]:
    """Return the function that reads one component's log p on one split; it refuses what is no log-probability."""

    def read(component: str, split: str) -> np.ndarray:
        log_p = np.array(components[component][1][split])
        if not (log_p <= 1e-3).all():  # NaN fails too; float32 rounding may exceed 0 a little
            problem = "not log-probabilities (NaN or above 0); rerun the step that makes it"
            raise KnnlmError(f"component {component}, {split}: {problem}.")
        return log_p

    return read
