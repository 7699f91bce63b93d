"""Put the main numbers of all variants of a run into one table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from knnlm.analysis.variants import Tables, variant_table
from knnlm.storage.tables import DIGITS, read_table, write_table


def main(
    settings: dict, components: Sequence[Path], verdicts: Sequence[Path], convergence: Sequence[Path], table: Path
) -> None:
    """Write the table; the files stand in the order of the settings' `varied`."""
    varied = pd.DataFrame(**settings["varied"])
    paths = zip(varied.index, components, verdicts, convergence, strict=True)
    tables = {name: Tables(*map(read_table, files)) for name, *files in paths}
    write_table(table, variant_table(varied, tables, settings["main"]), DIGITS)
