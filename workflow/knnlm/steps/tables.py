"""Make the tables of a run from its components, temperature curves and loss curve."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.analysis import evidence, shares, tables, verdicts, wording
from knnlm.analysis.block_lengths import block_length_table
from knnlm.components import catalogue, columns, temperature
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.store import read_squared_norms
from knnlm.errors import KnnlmError
from knnlm.language_model.convergence import read_convergence
from knnlm.storage.arrays import load_array
from knnlm.storage.atomic import atomic
from knnlm.storage.tables import DIGITS, read_text_table, write_table


def main(
    settings: dict, descriptions: Sequence[Path], tokens: Sequence[Path], documents: Sequence[Path], continuation: Path,
    temperatures: Sequence[Path], chunks: Sequence[Path], loss: Path, facts: Sequence[Path], folder: Path,
    speeds: Sequence[Path] = (), only: Sequence[str] = (),
) -> None:  # fmt: skip
    """Make every table first, then write them to a folder, all or `only` some: a mistake in one leaves none."""
    main_component, rule, hypotheses = settings["main"], settings["verdict"], settings["hypotheses"]
    h, metric = main_component["h"], main_component["metric"]
    significance = settings["significance"]
    level = significance["level"]
    splits = read_splits(tokens, documents, continuation, significance["block"])
    confidence = next(split for split in splits if split.name == tables.JUDGED_ON).confidence(level)
    certainty = verdicts.Certainty(confidence, significance["resamples"], settings["seed"])
    described, read = open_components(descriptions, splits)
    reference = catalogue.main_name(main_component)
    norms = read_squared_norms(chunks)
    components = tables.component_table(described, read, splits, reference, level, norms)
    none = pd.DataFrame(columns=columns.FACT_COLUMNS)
    measured, timed = (
        pd.concat([none, *(read_text_table(path, columns.FACT_COLUMNS) for path in paths)]) for paths in (facts, speeds)
    )
    found = evidence.gathered(components, read, splits, reference)
    judged = verdicts.verdict_table(hypotheses, components, found, measured, main_component, rule, certainty)
    of_each = shares.share_table(components, found, judged, confidence)
    curves = [read_text_table(path, temperature.CURVE_COLUMNS) for path in temperatures]
    words = wording.TEXTS["words"][settings["corpus"]["tokeniser"]]
    losses = read_text_table(loss, tables.LOSS_COLUMNS)
    lm = read_convergence(loss, settings["lm"]["training"]["patience"])
    converged = wording.convergence_text(lm)
    remaining = shares.remaining_table(components, found, read, splits, rule["margin"], confidence)
    left = f"\n{wording.remaining_text(remaining, rule)}" if hypotheses else ""
    report = f"{converged}\n{wording.main_rst(components, main_component, level)}\n{words}{left}\n.. verdicts\n\n"
    base = components[components["component"] == tables.BASE].iloc[-1]  # on test
    cut, weights = partial(read_splits, tokens, documents, continuation), components.set_index("component")["lambda"]
    lengths = (reference, weights[reference].iloc[0], read, cut, significance["block"], level)
    made = {
        "components.csv": components,
        "temperature.csv": pd.concat(curves),
        "datastore_size.csv": tables.datastore_size_table(components, h, metric, settings["fractions"]),
        "lambda.csv": tables.lambda_table(tables.main_variants(components, h, metric), read, splits),
        "loss.csv": losses,
        "convergence.csv": pd.DataFrame([asdict(lm)]),
        "convergence.rst": converged,
        "intervals.rst": f"{wording.resting(base)}\n",
        "verdicts.csv": judged.assign(lm_state=lm.lm_state),
        "shares.csv": of_each,
        "remaining.csv": remaining,
        "input_representation.csv": shares.input_representation_table(components, of_each, hypotheses, main_component),
        "block_lengths.csv": block_length_table(*lengths),
        "facts.csv": measured,
        "indexes.csv": tables.index_table(components, pd.concat([measured, timed])),
        "summary.txt": f"{converged}\n{wording.summary(components, level)}\n{words}{left}",
        "verdicts.txt": f"{converged}\n{wording.verdict_text(judged, rule, level, base)}",
        "verdicts.rst": f"{report}{converged}\n{wording.verdict_rst(judged, rule, level, base)}",
    }
    for name, content in {name: made[name] for name in only or made}.items():
        if isinstance(content, str):
            with atomic(folder / name) as unfinished:
                unfinished.write_text(content, encoding="utf-8")
        else:
            write_table(folder / name, content, DIGITS)
    print(made["summary.txt"])


def read_splits(
    tokens: Sequence[Path], documents: Sequence[Path], continuation: Path, block: int
) -> list[tables.Split]:
    """Read valid and test, with their resampling units, blocks of `block` words where documents are few.

    Raises KnnlmError, naming the file, if documents do not span the tokens of their split.
    """
    continues, splits = load_array(continuation, "bool", (None,)), []
    for name, gold, borders in zip(EVALUATED, tokens, documents, strict=True):
        arrays = load_array(gold, "int32", (None,)), load_array(borders, "int64", (None,))
        try:
            splits.append(tables.Split.of(name, *arrays, continues, block))
        except KnnlmError as error:
            raise KnnlmError(f"{borders}: {error}") from None
        except IndexError:
            problem = f"holds ids beyond the {continues.size} pieces of {continuation}; rerun the corpus steps"
            raise KnnlmError(f"{gold}: {problem}.") from None
    return splits


def open_components(paths: list[Path], splits: list[tables.Split]) -> tuple[list[dict], tables.Reader]:
    """Return each component's description, and the function that reads its log p on a split, float32 (n,) in nats.

    Raises KnnlmError, naming the file, if one is not of the first's base LM. The function refuses what is no log p.
    """
    described, arrays, checkpoint = {}, {}, columns.checkpoint_of(paths[0])
    for path in paths:
        for split in splits:
            for component, log_p in columns.load_components(path, split.name, split.tokens.size, checkpoint):
                described.setdefault(component.component, asdict(component))
                arrays[component.component, split.name] = log_p  # memory-mapped

    def read(component: str, split: str) -> np.ndarray:
        log_p = np.array(arrays[component, split])
        if not (log_p <= 1e-3).all():  # NaN fails too; float32 rounding may exceed 0 a little
            problem = "not log-probabilities (NaN or above 0); rerun the step that makes it"
            raise KnnlmError(f"component {component}, {split}: {problem}.")
        return log_p

    return list(described.values()), read
