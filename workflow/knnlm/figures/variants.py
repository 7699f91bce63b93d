"""The picture of all variants of a run: where each finding begins to hold, against the base LM's perplexity."""

import math
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

from knnlm.analysis.variants import OF_QUESTIONS, questions
from knnlm.figures import parts
from knnlm.language_model.convergence import CONVERGED

COLUMNS = 3  # panels side by side
COLOURS = (parts.DARK, parts.MIDDLE, parts.LIGHT, "#228833", "#66CCEE", "#AA3377")
MARKERS = ("o", "^", "s", "D", "v", "P")
NUMBERS = OF_QUESTIONS[1:]  # shares of the kNN's gain, each a panel
SHOWN = (-1.0, 2.5)  # of them: what lies beyond is not shown
KNOWN = {"variant", "ppl_valid", "ppl_test", "lm_state"}


def variants(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """A panel for the kNN's gain, one for its temperature, and one for each number of each question."""
    table = table.assign(**{f"part{end}": table[f"gain{end}"] / table["ppl_test"] for end in ("", "_low", "_high")})
    panels = [("part", "kNN-LM's gain,\npart of the perplexity")]
    panels += [("temperature", "best temperature τ")]
    panels += [(f"{name}_{number}", f"{name}:\n{number}") for name in questions(table) for number in NUMBERS]
    panels = [(column, title) for column, title in panels if column in table and table[column].notna().any()]
    rows = math.ceil(len(panels) / COLUMNS)
    picture, grid = parts.page(0.7 + 1.9 * rows, nrows=rows, ncols=COLUMNS, squeeze=False)
    colours, markers = _styles(table)
    for axes, (column, title) in zip(grid.ravel(), panels, strict=False):
        _panel(axes, table, column, colours, markers)
        axes.set_title(title, fontsize=8)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes in grid.ravel()[max(len(panels) - COLUMNS, 0) : len(panels)]:  # the lowest of each column
        axes.set_xlabel("base LM's word perplexity")
    picture.legend(handles=_handles(table, colours, markers), loc="outside lower center", ncols=4, columnspacing=1.2)
    return picture


def _panel(axes: Axes, table: pd.DataFrame, column: str, colours: dict, markers: dict) -> None:
    """Draw one number of every variant with its interval; the mark is filled where the base LM has converged."""
    first, second = (list(styles) for styles in (colours, markers))
    for row in table.to_dict("records"):
        colour = colours[first[0]][row[first[0]]] if first else parts.DARK
        marker = markers[second[0]][row[second[0]]] if second else "o"
        fill = colour if row["lm_state"] == CONVERGED else "white"
        axes.plot(row["ppl_test"], row[column], marker=marker, color=colour, markerfacecolor=fill, markersize=4.5)
        if f"{column}_low" in row:
            ends = [row[f"{column}_low"], row[f"{column}_high"]]
            axes.plot([row["ppl_test"]] * 2, ends, color=colour, linewidth=0.9, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set(major_locator=MaxNLocator(4), major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())
    axes.invert_xaxis()
    if column == "temperature":
        axes.set_ylim(0, 1.1 * table[column].max())
        return
    axes.axhline(0, color=parts.INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if column != "part":
        shown = table[[f"{column}{end}" for end in ("", "_low", "_high")]].to_numpy(np.float64)
        axes.set_ylim(parts.margin(*np.clip([min(np.nanmin(shown), 0), max(np.nanmax(shown), 0)], *SHOWN)))


def _styles(table: pd.DataFrame) -> tuple[dict, dict]:
    """Return, by key, a colour for each value of the first key that varies, and a mark for each of a further one."""
    keys = [key for key in table.columns[: list(table).index("ppl_valid")] if key not in KNOWN]
    keys = [key for key in keys if 1 < table[key].nunique() <= len(COLOURS) and table[key].notna().all()]
    if not keys:
        return {}, {}
    first, *others = keys
    # a key that says no more than the first, such as the heads that go with a width, is none of its own
    second = next((key for key in others if table.groupby(first)[key].nunique().max() > 1), None)
    marks = {second: dict(zip(sorted(table[second].unique()), cycle(MARKERS), strict=False))} if second else {}
    return {first: dict(zip(sorted(table[first].unique()), cycle(COLOURS), strict=False))}, marks


def _handles(table: pd.DataFrame, colours: dict, markers: dict) -> list[Line2D]:
    def handle(label: str, **style: object) -> Line2D:
        return Line2D([], [], linestyle="none", markersize=4.5, label=label, **style)

    def told(styles_by_key: dict) -> list[tuple[str, object]]:
        return [
            (f"{key.rpartition('.')[2]} {value}", style)
            for key, styles in styles_by_key.items()
            for value, style in styles.items()
        ]

    handles = [handle(label, marker="s", color=colour) for label, colour in told(colours)]
    handles += [handle(label, marker=marker, color=parts.PALE) for label, marker in told(markers)]
    if (table["lm_state"] != CONVERGED).any():
        handles.append(handle("base LM not converged", marker="o", color=parts.INK, markerfacecolor="white"))
    return handles
