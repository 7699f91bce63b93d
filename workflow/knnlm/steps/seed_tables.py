"""Put the tables of several seeds together: mean and spread."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.analysis.significance import over_seeds
from knnlm.storage.tables import DIGITS, read_table, write_table


def main(components: Sequence[Path], verdicts: Sequence[Path], components_table: Path, verdicts_table: Path) -> None:
    """Write both tables."""
    for paths, key, output in (
        (components, ["component", "split"], components_table),
        (verdicts, ["hypothesis", "question", "paper"], verdicts_table),
    ):
        table = over_seeds([read_table(path) for path in paths], key)
        write_table(output, table, DIGITS)
