"""Make the components of one hypothesis, and measure what else its family measures."""

from importlib import import_module
from pathlib import Path

import pandas as pd

from knnlm.components.columns import FACT_COLUMNS, save_components
from knnlm.errors import KnnlmError
from knnlm.hypotheses import kept_results
from knnlm.hypotheses.inputs import KEPT, SPLITS, Inputs, Stored, reported
from knnlm.running.devices import Job
from knnlm.storage.tables import DIGITS, write_table


def main(
    settings: dict, family: str, stored: Stored, job: Job, checkpoints: Path, descriptions: Path, facts: Path
) -> None:
    """Make every component of the hypothesis with its family's `components`, and write them all at the end, whole or not at all.

    `checkpoints` is a folder that survives a crash.
    """
    inputs = Inputs(settings, stored, job, checkpoints, family)
    results = [reported(result, inputs) for result in import_module(f"knnlm.hypotheses.{family}").components(inputs)]
    if not results:
        raise KnnlmError(f"config key hypotheses.{inputs.hypothesis}: makes no component; correct its settings.")
    rows = [
        (inputs.hypothesis, result.component.component, quantity, value)
        for result in results
        for quantity, value in result.facts.items()
    ]
    rows += [(inputs.hypothesis, "", quantity, value) for quantity, value in inputs.run_facts.items()]
    write_table(facts, pd.DataFrame(rows, columns=FACT_COLUMNS), DIGITS)
    components = [result.component for result in results]
    log_p = {split: [result.log_p[split] for result in results] for split in SPLITS}
    save_components(descriptions, components, log_p, inputs.checkpoint, more_files=[facts])
    kept_results.forget(checkpoints / KEPT)
