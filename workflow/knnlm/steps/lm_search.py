"""Compare the base LMs of several runs by their loss on valid: which size and dropout to take."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from knnlm.language_model.convergence import CONVERGENCE_COLUMNS, read_convergence
from knnlm.storage.tables import DIGITS, write_table

COLUMNS = ["run", "changes", *CONVERGENCE_COLUMNS]


def main(settings: dict, losses: Sequence[Path], table: Path) -> None:
    """Write COLUMNS, a row for each run, the lowest loss first; `settings` has each run, in the order of `losses`."""
    rows = []
    for run, loss in zip(settings["runs"], losses, strict=True):
        judged = read_convergence(loss, run["patience"])
        rows.append({"run": run["name"], "changes": run["changes"]} | asdict(judged))
    found = pd.DataFrame(rows, columns=COLUMNS).sort_values("valid_loss", kind="stable")
    write_table(table, found, DIGITS)
    print(found[["run", "changes", "valid_loss", "update", "lm_state"]].to_string(index=False))
