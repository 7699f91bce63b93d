"""What every picture shares: sizes and style, how the main result's variants are drawn, notes, lines and limits."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knnlm.errors import KnnlmError

COLUMN, PAGE = 3.25, 6.75  # widths in inches of one column and of the text block of a two-column paper
STYLE = Path(__file__).parents[2] / "report" / "figures.mplstyle"
DARK, MIDDLE, LIGHT, INK, PALE = "#004488", "#BB5566", "#DDAA33", "#222222", "#8a8a8a"
DASHED, DOTTED = (0, (4, 1.5)), (0, (1, 1.2))
# (mask, score): the paper's name and the style. Solid lies below dashed below dotted, so curves that coincide all show.
VARIANTS = {
    ("faiss", "faiss"): ("FAISS mask, FAISS score", {"color": DARK, "linestyle": "-", "marker": "o", "zorder": 3}),
    ("faiss", "real"): ("FAISS mask, real score", {"color": MIDDLE, "linestyle": DASHED, "marker": "^", "zorder": 4}),
    ("real", "real"): ("real mask, real score", {"color": LIGHT, "linestyle": DOTTED, "marker": "s", "zorder": 5}),
}
Point = tuple[float, float]
METRICS = {"l2": "L2", "ip": "IP"}
PERPLEXITY = "word perplexity"
WIDTH, HEIGHT = ("axes fraction", "data"), ("data", "axes fraction")  # coordinates of a note at a value of y, of x


def page(height: float, width: float = PAGE, **panels: object) -> tuple[Figure, Axes | np.ndarray]:
    """Return an empty picture of so many inches, and its axes: one, or as `panels` says to `Figure.subplots`."""
    picture = Figure(figsize=(width, height), layout="constrained")
    return picture, picture.subplots(**panels)


def base_perplexity(components: pd.DataFrame, split: str) -> float:
    """Return the base LM's perplexity on a split."""
    return float(row_of(components, split, "base")["ppl"])


def row_of(components: pd.DataFrame, split: str, name: str) -> pd.Series:
    """Return a component's row of components.csv; raises KnnlmError if there is not exactly one."""
    rows = components[(components["component"] == name) & (components["split"] == split)]
    if len(rows) != 1:
        found = f"components.csv has {len(rows)} rows of {name} on {split}, expected one"
        raise KnnlmError(f"figure: {found}; remake the tables.")
    return rows.iloc[0]


def base_line(axes: Axes, base: float, side: str = "right") -> None:
    """Draw the base LM as a horizontal line over the whole width, named at one side."""
    axes.axhline(base, color=INK, linewidth=0.8, zorder=2)
    note(axes, f"base LM {base:.1f}", ({"left": 0.03, "right": 1.0}[side], base), (0, 2), WIDTH, ha=side)


def note(axes: Axes, text: str, place: Point, shift: Point, coordinates: object, **style: object) -> None:
    """Write a small text, shifted by points from a place that is given in `coordinates`, such as WIDTH."""
    axes.annotate(text, place, shift, xycoords=coordinates, textcoords="offset points", fontsize=8, **style)


def spread(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return the lengths of error bars (2, rows) around a column, down and up, 0 where the interval is unknown."""
    middle = rows[name]
    return np.nan_to_num(np.abs(np.array([middle - rows[f"{name}_low"], rows[f"{name}_high"] - middle])))


def gain_bars(axes: Axes, rows: pd.DataFrame, style: dict) -> None:
    """Draw the gain of each component with its interval, at the height of its index."""
    marks = style | {"linestyle": "none", "markersize": 4.5, "elinewidth": 1}
    axes.errorbar(rows["gain"], rows.index, xerr=spread(rows, "gain"), **marks)


def gain_axes(axes: Axes, rows: pd.DataFrame, names: list[str], air: float) -> None:
    """Name the rows that have been drawn by `gain_bars`, with some air around them."""
    base = (rows["ppl"] + rows["gain"]).median()  # the same in every row up to rounding
    named_rows(axes, names, air)
    axes.set_xlabel(f"gain in {PERPLEXITY} over the base LM ({base:.1f}) on test")


def named_rows(axes: Axes, names: list[str] | pd.Series, air: float) -> None:
    """Name the rows of a picture from below, without ticks, with some air around them."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-air, len(names) - 1 + air)


def readable(values: pd.Series | np.ndarray, base: float) -> tuple[float, float]:
    """Return limits that hold the best value and the base LM, and only the beginning of what is worse than it."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    low = min(finite.min(initial=base), base)
    worst = base + 0.4 * max(base - low, 0.02 * base)
    return margin(low, min(max(finite.max(initial=base), base), worst))


def margin(low: float, high: float) -> tuple[float, float]:
    """Return limits with some air around low and high."""
    air = 0.08 * (high - low) or 1.0
    return low - air, high + air


def plain(text: str) -> str:
    """Return a text of the user's so that matplotlib sees no mathematics between its dollar signs."""
    return text.replace("$", r"\$")
