"""Draw one figure from its table, as PDF and as PNG."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from knnlm.config.values import shown
from knnlm.errors import KnnlmError
from knnlm.figures.plots import draw, save
from knnlm.storage.tables import read_table

# fmt: off
NUMBERS = {  # the columns of all tables that are drawn as numbers
    "ppl", "gain", "gain_low", "gain_high", "lambda", "temperature", "fraction", "x", "added_parameters", "step",
    "reaches", "reaches_low", "reaches_high", "removes", "removes_low", "removes_high", "remaining", "remaining_low",
    "remaining_high", "update", "loss", "tokens", "helped", "share_of_gain", "ratio", "ratio_low",
    "ratio_high", "goal", "rows", "seconds", "memory_bytes", "exponent", "recall",
    "bytes_a_row", "queries_a_second",
}
# fmt: on


def main(figure: str, settings: dict, table: Path, pdf: Path, png: Path, components: Path | None = None) -> None:
    """Read the tables, draw, and write both pictures."""
    of_components = read_csv(components) if components else None
    known = (settings.get(key) for key in ("main", "hypothesis", "verdict"))
    picture = drawn(table, figure, read_csv(table), of_components, *known)
    for path in (pdf, png):
        save(picture, path, settings["figures"]["dpi"])


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table; raises KnnlmError, naming the file, if it is none or a column of numbers has something else."""
    table = read_table(path)
    for name in (name for name in table if name in NUMBERS and len(table)):
        if (other := pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()).any():
            wrong = shown(table[name][other].iloc[0])
            raise KnnlmError(f"{path}: the column {name} has {wrong}, which is no number; remake the tables.")
    return table


def drawn(path: str | Path, figure: str, *content: object) -> Figure:
    """Return the picture that `draw` makes of a table's content; the sentence of a mistake also names its path."""
    try:
        return draw(figure, *content)
    except KnnlmError as error:
        raise KnnlmError(f"{path}: {error}") from None
