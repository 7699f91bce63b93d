"""The pictures of what explains the kNN's gain: all verdicts, reaches against removes, and what is left in the end."""

import textwrap
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from knnlm.components.catalogue import may_explain
from knnlm.figures import parts

COLOURS = {
    "explains": parts.DARK, "better": parts.DARK, "contributes": "#228833", "helps otherwise": "#AA3377",
    "does nothing": parts.MIDDLE, "no different": parts.MIDDLE, "worse": parts.MIDDLE,
}  # fmt: skip
OPEN = "#707070"  # the colour of what is inconclusive or not tested
SHARES_SHOWN = (-0.6, 1.8)  # shares of the kNN-LM's gain: what lies beyond is an arrow
PLANE = (-0.25, 1.25)  # the same for both axes of the plane
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
HUES = (parts.DARK, parts.MIDDLE, parts.LIGHT, "#228833", "#66CCEE", "#AA3377", "#44AA99", "#EE7733")
SECOND_SEED = "second-seed"  # the hypothesis whose LM any good second model is compared with
NUMBERS = {"reaches": ("s", "white"), "removes": ("o", None)}  # mark and filling; None is the verdict's colour


def verdicts(table: pd.DataFrame, components: pd.DataFrame | None, main: dict, rule: dict) -> Figure:
    """What each hypothesis reaches and removes of the kNN-LM's gain, with intervals, and the verdict on it."""
    names = [textwrap.fill(parts.plain(question), 46) for question in table["question"].astype(str)]
    heights = np.array([max(0.14 * (name.count("\n") + 1), 0.22) + 0.11 for name in names])
    places = heights.cumsum() - heights / 2
    picture, axes = parts.page(1.1 + heights.sum())
    _lines(axes.axvline, axes.axvspan, rule)
    ends = [f"{number}{end}" for number in NUMBERS for end in ("", "_low", "_high")]
    shown = np.concatenate([*(table[column].astype(np.float64) for column in ends), [0, 1]])
    limits = parts.margin(*np.clip([np.nanmin(shown), np.nanmax(shown)], *SHARES_SHOWN))
    for place, row in zip(places, table.to_dict("records"), strict=True):
        colour = COLOURS.get(row["verdict"], OPEN)
        for number, step in zip(NUMBERS, (-0.055, 0.055), strict=True):
            known = np.array([row[f"{number}{end}"] for end in ("", "_low", "_high")], np.float64)
            _interval(axes, place + step, known, limits, colour, NUMBERS[number])
        text = f"{row['verdict']} (paper: {row['paper']})" if row["paper"] != "silent" else row["verdict"]
        style = {"color": colour, "fontweight": "bold" if row["agrees"] == "no" else "normal"}
        parts.note(axes, text, (1, place), (6, 0), parts.WIDTH, va="center", **style)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0, pad=10)
    axes.spines["left"].set_visible(False)
    axes.set(ylim=(max(heights.sum(), 0.2), 0), xlim=limits)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the kNN-LM's gain on test")
    _legend_of_numbers(picture)
    return picture


def explanations(table: pd.DataFrame, components: pd.DataFrame | None, main: dict, rule: dict) -> Figure:
    """Every component by what it reaches and what it removes, from shares.csv; those that questions chose are named."""
    picture, axes = parts.page(4.3)
    for lines in ((axes.axhline, axes.axhspan), (axes.axvline, axes.axvspan)):
        _lines(*lines, rule, explains=lines[0] == axes.axhline)
    parts.note(axes, "explains", (0, rule["explains"]), (4, 3), parts.WIDTH, color="#606060")
    axes.plot(PLANE, PLANE, color=parts.PALE, linewidth=0.8, linestyle=parts.DOTTED, zorder=1)
    explains = np.array([*map(may_explain, table["component"], table["family"])], bool)
    places = table.assign(**{name: table[name].clip(*PLANE) for name in NUMBERS})
    quiet = {"linestyle": "none", "markersize": 3, "markeredgewidth": 0, "zorder": 2}
    axes.plot(*places.loc[~explains, [*NUMBERS]].to_numpy().T, marker="o", color="#c4c4c4", **quiet)
    axes.plot(*places.loc[explains, [*NUMBERS]].to_numpy().T, marker="o", color=parts.INK, **quiet)
    handles = [Line2D([], [], marker="o", color=parts.INK, label="a component", **quiet)]
    handles.append(Line2D([], [], marker="o", color="#c4c4c4", label="a variant of the kNN", **quiet))
    for number, row in enumerate(table[table["answers"].notna()].to_dict("records")):
        style = {"color": HUES[number % len(HUES)], "marker": MARKS[number % len(MARKS)]}
        if row["hypothesis"] == SECOND_SEED:
            style |= {"marker": "*", "color": parts.INK, "markersize": 11}
        _in_plane(axes, row, style)
        label = "\n".join(textwrap.wrap(row["answers"], 30, break_on_hyphens=False))
        handles.append(Line2D([], [], label=label, linestyle="none", **{"markersize": 6} | style))
    axes.set(xlim=PLANE, ylim=PLANE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("reaches: share of the kNN-LM's gain that it has by itself")
    axes.set_ylabel("removes: share of that gain\nthat is gone beside it")
    picture.legend(handles=handles, loc="outside right center", labelspacing=0.7)
    return picture


def remaining(table: pd.DataFrame, components: pd.DataFrame | None, main: dict, rule: dict) -> Figure:
    """A waterfall of the kNN's gain: what each further component takes away, and what is left in the end."""
    rows = table.sort_values("step").reset_index(drop=True)
    left = rows["remaining"].to_numpy(np.float64)
    names = [parts.plain(name) for name in rows["component"].iloc[1:]]
    names = ["what the kNN adds to the base LM", *names, "what none of them explains"]
    picture, axes = parts.page(1.0 + 0.26 * len(names))
    places, height = np.arange(len(names)), 0.62
    axes.barh(0, left[0], height, color=parts.PALE)
    axes.barh(places[1:-1], left[1:] - left[:-1], height, left[:-1], color=parts.LIGHT)
    axes.barh(places[-1], left[-1], height, color="#7799bb")
    axes.vlines(left, places[:-1], places[1:], color=parts.INK, linewidth=0.6, linestyle=parts.DOTTED)
    whiskers = {"color": parts.INK, "elinewidth": 1, "linestyle": "none", "capsize": 2.5}
    spread = parts.spread(rows, "remaining")
    ends, spread = np.append(left[1:], left[-1]), np.append(spread[:, 1:], spread[:, -1:], axis=1)
    axes.errorbar(ends, places[1:], xerr=spread, **whiskers)
    for place, beyond, share in _waterfall_notes(left, ends + spread[1]):
        text = "unknown" if np.isnan(share) else f"{round(share, 2) + 0.0:.0%}".replace("-", "−")  # never −0%
        parts.note(axes, text, (np.nan_to_num(beyond), place), (5, 0), "data", va="center")
    axes.axvline(0, color=parts.INK, linewidth=0.8)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(places[-1] + 0.6, -0.6), xlim=(min(0, np.nan_to_num(ends).min() - 0.05), 1.12))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the kNN's gain that it still adds, in nats a word on test")
    return picture


def _waterfall_notes(left: np.ndarray, high: np.ndarray) -> list[tuple[int, float, float]]:
    """Return place, end and share of what is written beside each bar: all, each fall, and what is left in the end."""
    falls = [
        (place, max(before, high[place - 1]), after - before) for place, (before, after) in enumerate(pairwise(left), 1)
    ]
    return [(0, left[0], left[0]), *falls, (len(left), high[-1], left[-1])]


def _lines(line: object, span: object, rule: dict, explains: bool = True) -> None:
    """Draw 0 and 1, the margin of equivalence around 0 and, where it is judged, the share from which one explains."""
    for share in (0, 1):
        line(share, color=parts.INK, linewidth=0.8, zorder=1)
    span(-rule["margin"], rule["margin"], color=parts.PALE, alpha=0.25, linewidth=0, zorder=0)
    if explains:
        line(rule["explains"], color=parts.INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)


def _in_plane(axes: Axes, row: dict, style: dict) -> None:
    """Draw one component with both its intervals, at the edge where it lies beyond."""
    x, y = (np.clip(row[name], *PLANE) for name in NUMBERS)
    if np.isnan([x, y]).any():
        return
    across, up = (np.clip([row[f"{name}_low"], row[f"{name}_high"]], *PLANE) for name in NUMBERS)
    for ends in ((across, [y, y]), ([x, x], up)):
        axes.plot(*ends, color=style["color"], linewidth=0.9, zorder=4)
    mark = {"linestyle": "none", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 5}
    axes.plot(x, y, clip_on=False, **mark | style)


def _legend_of_numbers(picture: Figure) -> None:
    marks = {"linestyle": "none", "markersize": 5, "color": OPEN}
    handles = [
        Line2D([], [], marker=mark, markerfacecolor=fill or OPEN, label=name, **marks)
        for name, (mark, fill) in NUMBERS.items()
    ]
    picture.legend(handles=handles, loc="outside lower right", ncols=2)


def _interval(
    axes: Axes, place: float, ends: np.ndarray, limits: tuple[float, float], colour: str, mark: tuple[str, str | None]
) -> None:
    """Draw a share and its interval: an arrow where it goes on beyond the limits, a number where the share lies so."""
    (share, low, high), (marker, fill) = ends, mark
    if low <= high:
        axes.plot(np.clip([low, high], *limits), [place, place], color=colour, linewidth=1.2, zorder=3)
        for beyond, limit, arrow in ((low < limits[0], limits[0], "<"), (high > limits[1], limits[1], ">")):
            if beyond:
                axes.plot(limit, place, marker=arrow, color=colour, markersize=4.5, clip_on=False, zorder=3)
    if limits[0] <= share <= limits[1]:
        shape = {"marker": marker, "color": colour, "markerfacecolor": fill or colour, "markersize": 4.5}
        axes.plot(share, place, linestyle="none", zorder=4, **shape)
    elif not np.isnan(share):
        side, step = ("right", -8) if share > limits[1] else ("left", 8)
        parts.note(axes, f"{share:.0%}", (np.clip(share, *limits), place), (step, 3), "data", ha=side, color=colour)
