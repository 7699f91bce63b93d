"""Make the components of one hypothesis, and measure what else its family measures."""

import math
from importlib import import_module
from pathlib import Path

import pandas as pd

from knnlm.components.columns import FACT_COLUMNS, save_components
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.hypotheses.inputs import Inputs, Stored
from knnlm.hypotheses.results import KEPT, Fact, forget, show
from knnlm.running.devices import Job
from knnlm.storage.tables import DIGITS, write_table


def main(
    settings: dict,
    family: str,
    stored: Stored,
    job: Job,
    checkpoints: Path,
    descriptions: Path,
    facts: Path,
    speeds: Path,
) -> None:
    """Make every component with the family's `components`; write all of them at the end, whole or not at all.

    `settings` names fields of Inputs. The folder `checkpoints` survives a crash.
    """
    inputs, results = Inputs(**settings, family=family, stored=stored, job=job, checkpoints=checkpoints), []
    for result in import_module(f"knnlm.hypotheses.{family}").components(inputs):
        show(result, inputs.log_p_base["valid"], inputs.words["valid"])
        results.append(result)
    if not results:
        raise KnnlmError(f"config key hypotheses.{inputs.hypothesis}: makes no component; correct its settings.")
    measured = [(result.component.component, result.facts) for result in results] + [("", inputs.run_facts)]
    timed = [(result.component.component, result.speeds) for result in results]
    for path, found in ((facts, measured), (speeds, timed)):
        rows = [(inputs.hypothesis, name, *as_text(fact)) for name, known in found for fact in known.items()]
        write_table(path, pd.DataFrame(rows, columns=FACT_COLUMNS))
    log_p = {split: [result.log_p[split] for result in results] for split in EVALUATED}
    made = [result.component for result in results]
    save_components(descriptions, made, log_p, inputs.checkpoint, more_files=[facts])
    forget(checkpoints / KEPT)


def as_text(fact: tuple[str, Fact]) -> tuple[str, str]:
    """Return a quantity and its value as they stand in the table; an unknown number (NaN) is empty.

    In a column that has other text too, pandas would give a number all of its digits.
    """
    quantity, value = fact
    if isinstance(value, bool | str):
        return quantity, str(value)
    return quantity, "" if math.isnan(value) else DIGITS % value
