"""The pictures of the measurement of performance, each drawn from its table alone."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from knnlm.figures import parts

COLOURS, MARKERS = (parts.DARK, parts.MIDDLE, parts.LIGHT, parts.PALE), ("o", "^", "s", "D")
STYLES = list(zip(COLOURS, MARKERS, ("-", parts.DASHED, parts.DOTTED, (0, (3, 1, 1, 1))), strict=True))


def performance(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """Ratio of every stage to what it is measured against, the spread of the pairs and the goal, but for memory."""
    rows = table[table["unit"] != "MB"].iloc[::-1].reset_index(drop=True)
    picture, axes = parts.page(0.7 + 0.22 * len(rows))
    axes.axvline(1, color=parts.INK, linewidth=0.8)
    whiskers = parts.spread(rows, "ratio")
    reached = rows["reached"].astype(str).str.lower()
    for place, row in rows.iterrows():
        color = parts.PALE if np.isnan(row["goal"]) else parts.DARK
        fill = "white" if reached[place] == "false" else color
        mark = {"color": color, "marker": "o", "markersize": 5, "markerfacecolor": fill, "elinewidth": 1}
        axes.errorbar(row["ratio"], place, xerr=whiskers[:, [place]], **mark)
    goal = {"linestyle": "none", "marker": "|", "markersize": 11, "markeredgewidth": 1.4, "color": parts.MIDDLE}
    axes.plot(rows["goal"], rows.index, **goal, label="goal")
    axes.set(xscale="log", xlabel="speed, as a multiple of what stands behind the colon")
    axes.xaxis.set_major_formatter("{x:g}")
    parts.named_rows(axes, rows["stage"], 0.6)
    picture.legend(loc="outside upper right")
    return picture


def scaling(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """Seconds and peak memory of each stage against rows, with the fitted line and its exponent."""
    picture, (times, memory) = parts.page(3.1, ncols=2)
    for (stage, rows), (color, marker, line) in zip(table.groupby("stage", sort=False), STYLES, strict=True):
        exponent = rows["exponent"].iloc[0]
        middle = rows.groupby("rows")["seconds"].median()
        ends = np.array([rows["rows"].min(), rows["rows"].max()])
        scale = np.exp(np.mean(np.log(middle.to_numpy()) - exponent * np.log(middle.index.to_numpy())))
        times.plot(rows["rows"], rows["seconds"], linestyle="none", marker=marker, markersize=3.5, color=color)
        times.plot(ends, scale * ends**exponent, color=color, linestyle=line)
        peaks = rows.groupby("rows")["memory_bytes"].max() / 1e6
        label = f"{stage}, exponent {exponent:.2f}"
        memory.plot(peaks.index, peaks, color=color, linestyle=line, marker=marker, markersize=3.5, label=label)
    for axes in (times, memory):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("rows")
        axes.xaxis.set(major_formatter=_short, minor_formatter=NullFormatter())
    times.set(yscale="log", ylabel="seconds")
    times.yaxis.set_major_formatter("{x:g}")
    memory.set(ylim=(0, 1.1e-6 * table["memory_bytes"].max()), ylabel="peak memory (MB)")
    picture.legend(loc="outside upper center", ncols=2, columnspacing=1.4)
    return picture


def _short(value: float, _: int) -> str:
    """Return a number of rows in powers of 1,024."""
    size, unit = next(((size, unit) for size, unit in ((2**20, "M"), (2**10, "k")) if value >= size), (1, ""))
    return f"{value / size:.3g}{unit}"
