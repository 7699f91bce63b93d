"""Tables as CSV: one reader, one writer. UTF-8, `\n` at the end of each line, whole or not at all.

Imports pandas only where a table becomes a DataFrame, so that reading the workflow stays quick.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic

if TYPE_CHECKING:
    import pandas as pd

DIGITS = "%.10g"  # of numbers in the tables of a run: more than a result has, fewer than rounding makes
RERUN, REMAKE = "rerun the step that makes it", "remake the tables"


def read_rows(path: str | Path, remedy: str = RERUN) -> list[dict[str, str]]:
    """Return the rows of a CSV file, each as text by column. Raises KnnlmError, naming the file and the remedy."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error, remedy) from None


def read_table(path: str | Path, remedy: str = REMAKE, **how: object) -> "pd.DataFrame":
    """Return a table; `how` are options of pandas. Raises KnnlmError, naming file and remedy, if it is not a table."""
    import pandas as pd

    try:
        return pd.read_csv(path, encoding="utf-8", **how)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, remedy) from None


def read_text_table(path: str | Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Return a table as text, to copy every digit; raises KnnlmError, naming the file, if it has not these columns."""
    table = read_table(path, RERUN, dtype=str, keep_default_na=False)
    if list(table) != list(columns):
        raise KnnlmError(f"{path}: has the columns {', '.join(table)}, expected {', '.join(columns)}; {RERUN}.")
    return table


def write_table(path: str | Path, table: "pd.DataFrame", digits: str | None = None) -> None:
    """Write a table as CSV, unknown values empty, floats in the format `digits`, or by as many as tell them apart."""
    with atomic(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format=digits, encoding="utf-8", lineterminator="\n")


def _unreadable(path: str | Path, error: Exception, remedy: str) -> KnnlmError:
    return KnnlmError(f"{path}: not a readable table ({error}); {remedy}.")
