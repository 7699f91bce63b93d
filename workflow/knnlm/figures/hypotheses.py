"""The pictures of the hypotheses: each of them, gain against added parameters, kinds of index, helped tokens."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, PercentFormatter

from knnlm.analysis.candidates import matching
from knnlm.analysis.tables import BASE
from knnlm.components.catalogue import main_name, resolved_name
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.figures import parts

COLOURS = (parts.DARK, parts.MIDDLE, parts.LIGHT, "#228833", "#66CCEE", "#AA3377", parts.INK)
LINES = ("-", parts.DASHED, parts.DOTTED, (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
ONE_PLACE = 0.02  # places on a curve that differ by no more of themselves are one place on its axis
LOGARITHMIC_FROM = 1.5  # decades that a curve's values must span
ROW = 0.175  # inches of a row that has a name
CHOSEN = {"linestyle": "none", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": parts.INK}
CHOSEN |= {"markeredgewidth": 1.0, "zorder": 9, "marker": "o"}
AGAINST = CHOSEN | {"marker": "s"}
MARKED = {"judged": CHOSEN, "compared with": AGAINST}  # what the verdict of a hypothesis is about
ELSEWHERE = {"judged": (0, (3, 1, 1, 1)), "compared with": (0, (1, 1.5))}  # the line of what is of another family
MEAN = {"color": parts.INK, "linewidth": 0.8, "linestyle": (0, (4, 2))}


def hypothesis(table: pd.DataFrame, components: pd.DataFrame | None, main: dict, about: dict) -> Figure:
    """Every component of a hypothesis, from components.csv: curves over x on both splits, the rest by gain on test."""
    rows = table[table["hypothesis"] == about["name"]]
    rows = rows.assign(series=rows["series"].astype(object).fillna("").astype(str))
    if rows.empty:
        name = about["name"]
        raise KnnlmError(f"figure hypothesis-{name}: its table has no component of this hypothesis; remake the tables.")
    curves, singles = rows[rows["x"].notna()], rows[rows["x"].isna() & (rows["split"] == "test")]
    styles = {name: _style(number) for number, name in enumerate(dict.fromkeys(rows["series"]))}
    marked = _marked(table, rows, main, about)
    elsewhere = _elsewhere(table, rows, main, marked)
    heights = [2.5] * (len(curves) > 0) + [0.7 + ROW * len(singles)] * (len(singles) > 0)
    question = textwrap.wrap(parts.plain(about["question"]), 100)
    picture = Figure(figsize=(parts.PAGE, sum(heights) + 0.15 * len(question) + 0.35), layout="constrained")
    grid = picture.add_gridspec(len(heights), len(EVALUATED), height_ratios=heights)
    if len(curves):
        for column, split in enumerate(EVALUATED):
            axes = picture.add_subplot(grid[0, column])
            _curves(axes, curves[curves["split"] == split], styles, marked)
            _references(axes, table, split, main, {name: row["ppl"] for name, row in elsewhere[split].items()})
            axes.set(title=split, xlabel=parts.plain(about["x_label"] or "x"), ylabel=parts.PERPLEXITY)
    if len(singles):
        axes = picture.add_subplot(grid[-1, :])
        _gains(axes, singles, styles, marked, f"{about['name']}-")
        gain = parts.row_of(table, "test", main_name(main))["gain"]
        axes.axvline(gain, color=parts.PALE, linewidth=1, linestyle=(0, (6, 2)), zorder=1)
        parts.note(axes, f"kNN-LM {gain:.2f}", (gain, 1), (0, 2), parts.HEIGHT, ha="center", color="#606060")
        for name, row in elsewhere["test"].items():
            axes.axvline(row["gain"], **_line(name))
    picture.suptitle("\n".join(question), fontsize=10)
    handles = [Line2D([], [], markersize=3.5, label=name, **style) for name, style in styles.items() if name]
    own = {name: style for name, style in MARKED.items() if marked[name] in set(rows["component"])}
    handles += [Line2D([], [], label=name, **style) for name, style in own.items()]
    others = {name: row["component"] for name, row in elsewhere["test"].items()}
    handles += [Line2D([], [], label=f"{name}: {other}", **_line(name)) for name, other in others.items()]
    if handles:
        picture.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), columnspacing=1.4)
    return picture


def parameters(table: pd.DataFrame, components: pd.DataFrame, main: dict) -> Figure:
    """Gain on test against added parameters, a mark for each hypothesis; the kNN-LM, which adds none, is a line."""
    test = components[(components["split"] == "test") & components["hypothesis"].notna()]
    rows = test[test["added_parameters"] > 0]
    picture, axes = parts.page(3.4)
    axes.axhline(0, color=parts.INK, linewidth=0.8)
    handles = []
    for number, (name, part) in enumerate(rows.groupby("hypothesis", sort=False)):
        style = _style(number) | {"linestyle": "none", "markersize": 4.5}
        bars = {"elinewidth": 0.6, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.errorbar(part["added_parameters"], part["gain"], parts.spread(part, "gain"), **style, **bars)
        handles.append(Line2D([], [], label=name, **style))
    reference = parts.row_of(components, "test", main_name(main))
    axes.axhline(reference["gain"], color=parts.INK, linestyle=(0, (4, 2)), linewidth=0.9)
    axes.axhspan(reference["gain_low"], reference["gain_high"], color=parts.PALE, alpha=0.2, linewidth=0)
    parts.note(axes, f"kNN-LM {reference['gain']:.2f}", (0, reference["gain"]), (3, 2), parts.WIDTH)
    if len(rows):
        axes.set_xscale("log")
        picture.legend(handles=handles, loc="outside right center")
    axes.set(xlabel="added parameters", ylabel=f"gain in {parts.PERPLEXITY} on test")
    return picture


def indexes(table: pd.DataFrame, components: pd.DataFrame, main: dict) -> Figure:
    """Perplexity on test of each kind of index, against bytes of a row, queries a second and recall, beside exact."""
    rows, exact = table[table["split"] == "test"], parts.row_of(components, "test", main_name(main))["ppl"]
    known = {
        "bytes_a_row": "bytes a row",
        "recall": "share of neighbours found",
        "queries_a_second": "queries a second",
    }
    shown = [column for column in known if rows[column].notna().any()] or ["bytes_a_row"]
    picture, panels = parts.page(3.2 + 0.07 * len(rows), ncols=len(shown), sharey=True, squeeze=False)
    styles = [_style(number) | {"linestyle": "none", "markersize": 4.5} for number in range(len(rows))]
    for axes, column in zip(panels[0], shown, strict=True):
        axes.axhline(exact, color=parts.INK, linewidth=0.8)
        for style, x, ppl in zip(styles, rows[column], rows["ppl"], strict=True):
            axes.plot([x], [ppl], **style)
        axes.set(xlabel=known[column])
        if rows[column].max() > 10 * rows[column].min():
            axes.set_xscale("log")
            axes.xaxis.set(major_locator=LogLocator(10, (1, 3)), major_formatter="{x:g}")
            axes.xaxis.set(minor_formatter=NullFormatter())
    parts.note(panels[0, 0], f"exact search {exact:.1f}", (0, exact), (3, -9), parts.WIDTH)
    ends = [*rows["ppl"], exact]
    panels[0, 0].set(ylabel=f"{parts.PERPLEXITY} on test", ylim=parts.margin(min(ends), max(ends)))
    handles = [Line2D([], [], label=name, **style) for name, style in zip(rows["index"], styles, strict=True)]
    if handles:
        picture.legend(handles=handles, loc="outside lower center", ncols=3)
    return picture


def helped_tokens(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """A column for each property of a token: how many tokens are helped, by how much, and where the gain comes from."""
    names = list(dict.fromkeys(table["property"]))
    widths = [len(table[table["property"] == name]) + 1.0 for name in names]
    grid = {"sharex": "col", "sharey": "row", "width_ratios": widths, "squeeze": False}
    picture, panels = parts.page(4.6, nrows=3, ncols=len(names), **grid)
    for name, (helped, gain, both) in zip(names, panels.T, strict=True):
        rows = table[table["property"] == name]
        places, tokens = np.arange(len(rows)), rows["tokens"] / rows["tokens"].sum()
        helped.bar(places, rows["helped"], color=parts.LIGHT, width=0.75)
        helped.axhline((rows["helped"] * tokens).sum(), **MEAN)
        gain.bar(places, rows["gain"], color=parts.DARK, width=0.75)
        gain.axhline((rows["gain"] * tokens).sum(), **MEAN)
        gain.axhline(0, color=parts.INK, linewidth=0.6)
        both.bar(places - 0.2, tokens, color=parts.PALE, width=0.4)
        both.bar(places + 0.2, rows["share_of_gain"], color=parts.DARK, width=0.4)
        both.axhline(0, color=parts.INK, linewidth=0.6)
        both.set_xticks(places, rows["bin"].astype(str), rotation=90)
        both.set(xlim=(-0.7, len(rows) - 0.3), xlabel=textwrap.fill(name, 14))
    for axes, label in zip(panels[:, 0], ("tokens helped", "gain\n(nats per token)", "part of the whole"), strict=True):
        axes.set_ylabel(label)
    for row in (0, 2):
        panels[row, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    picture.align_xlabels(panels[-1])
    picture.align_ylabels(panels[:, 0])
    handles = [Line2D([], [], **MEAN, label="all tokens")]
    meanings = {"part of the tokens": parts.PALE, "part of the gain": parts.DARK}
    handles += [Line2D([], [], color=colour, linewidth=6, label=label) for label, colour in meanings.items()]
    picture.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.6)
    return picture


def _style(number: int) -> dict:
    """Return the colour, line and mark of the n-th curve."""
    kinds = {"color": COLOURS, "linestyle": LINES, "marker": MARKERS}
    return {name: choices[number % len(choices)] for name, choices in kinds.items()}


def _marked(table: pd.DataFrame, rows: pd.DataFrame, main: dict, about: dict) -> dict[str, str]:
    """Return the names of the best candidate on valid, which the verdict is on, and of what it is compared with."""
    valid = table[table["split"] == "valid"]
    own = valid["component"].isin(rows["component"])
    patterns = [resolved_name(pattern, main) for pattern in about["candidates"] or []]
    candidates = valid[matching(valid["component"], patterns) if patterns else own]
    best = (candidates if len(candidates) else valid[own]).sort_values("ppl", kind="stable")["component"].iloc[0]
    return {"judged": best, "compared with": resolved_name(about["against"] or BASE, main)}


def _elsewhere(table: pd.DataFrame, rows: pd.DataFrame, main: dict, marked: dict[str, str]) -> dict[str, dict]:
    """Return, by split, the rows of what is marked but neither of this family nor base LM or kNN-LM, by its mark."""
    known = {*rows["component"], BASE, main_name(main)}
    names = {name: component for name, component in marked.items() if component not in known}
    names = {name: component for name, component in names.items() if component in set(table["component"])}
    return {
        split: {name: parts.row_of(table, split, component) for name, component in names.items()} for split in EVALUATED
    }


def _line(name: str) -> dict:
    return {"color": parts.INK, "linewidth": 0.9, "linestyle": ELSEWHERE[name], "zorder": 1}


def _by_series(rows: pd.DataFrame, styles: dict[str, dict]) -> list[tuple[dict, pd.DataFrame]]:
    return [(styles[name], part) for name in styles if len(part := rows[rows["series"] == name])]


def _curves(axes: Axes, rows: pd.DataFrame, styles: dict[str, dict], marked: dict[str, str]) -> None:
    """Draw one split's perplexity against x with the interval of the gain, and mark what is judged and compared."""
    for style, curve in _by_series(rows.sort_values("x", kind="stable"), styles):
        bars = {"markersize": 3.2, "elinewidth": 0.6, "capsize": 0}
        axes.errorbar(curve["x"], curve["ppl"], parts.spread(curve, "gain")[::-1], **style, **bars)
    for name, component in marked.items():
        if len(chosen := rows[rows["component"] == component]):
            axes.plot(chosen["x"], chosen["ppl"], **MARKED[name])
    values = np.unique(rows["x"])
    if values[0] > 0 and np.log10(values[-1] / values[0]) > LOGARITHMIC_FROM:
        axes.set_xscale("log")
    if np.ptp(values) < ONE_PLACE * np.abs(values).max():
        middle = values.mean()
        values = np.array([float(f"{middle:.2g}")])
        axes.set_xlim(middle - 0.5 * abs(middle), middle + 0.5 * abs(middle))
    scaled = np.log(values) if axes.get_xscale() == "log" else values
    apart = 0.07 if axes.get_xscale() == "log" or np.all(values % 1 == 0) else 0.12  # as wide as a name
    if len(values) == 1 or np.diff(scaled).min() > apart * np.ptp(scaled):  # few enough to name each
        axes.xaxis.set(major_locator=FixedLocator(values), minor_formatter=NullFormatter())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}" if value.is_integer() else f"{value:.3g}")


def _references(axes: Axes, table: pd.DataFrame, split: str, main: dict, others: dict[str, float]) -> None:
    """Draw the base LM and the kNN-LM as lines, named beside the axes, and the perplexities of others that are marked.

    The axis is limited to what is worth seeing.
    """
    base, reference = parts.base_perplexity(table, split), parts.row_of(table, split, main_name(main))["ppl"]
    ends = [segment[:, 1] for container in axes.containers for segment in container[2][0].get_segments()]
    axes.set_ylim(parts.readable(np.concatenate([*ends, [reference], [*others.values()]]), base))
    axes.axhline(base, color=parts.INK, linewidth=0.8, zorder=2)
    axes.axhline(reference, color=parts.PALE, linewidth=1, linestyle=(0, (6, 2)), zorder=1)
    for name, ppl, side in (("base LM", base, "bottom"), ("kNN-LM", reference, "top")):
        parts.note(axes, f"{name}\n{ppl:.1f}", (1, ppl), (4, 0), parts.WIDTH, va=side, linespacing=0.95)
    for name, ppl in others.items():
        axes.axhline(ppl, **_line(name))


def _gains(axes: Axes, rows: pd.DataFrame, styles: dict[str, dict], marked: dict[str, str], prefix: str) -> None:
    """Draw the gain of each component with its interval, the largest on top; mark what is judged and compared."""
    rows = rows.sort_values("gain", kind="stable").reset_index(drop=True)
    axes.axvline(0, color=parts.INK, linewidth=0.8)
    for style, part in _by_series(rows, styles):
        parts.gain_bars(axes, part, style)
    for name, component in marked.items():
        if len(chosen := rows[rows["component"] == component]):
            axes.plot(chosen["gain"], chosen.index, **MARKED[name] | {"markersize": 8.5})
    parts.gain_axes(axes, rows, [parts.plain(name.removeprefix(prefix)) for name in rows["component"]], 0.7)
