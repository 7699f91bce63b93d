"""The pictures of a run and of the measurement of performance, each drawn from its tables alone.

Only this room knows matplotlib. Series differ in colour and its lightness, line style and marker, so they read in grey.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from knnlm.analysis.tables import main_result
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.figures import parts
from knnlm.figures.explanations import explanations, remaining, verdicts
from knnlm.figures.hypotheses import helped_tokens, hypothesis, indexes, parameters
from knnlm.figures.variants import variants
from knnlm.storage.atomic import atomic

LARGE = {"markersize": 6.5, "markeredgecolor": parts.INK, "markeredgewidth": 0.8}  # the mark of a tuned value
COLOURS, MARKERS = (parts.DARK, parts.MIDDLE, parts.LIGHT, parts.PALE), ("o", "^", "s", "D")
STYLES = list(zip(COLOURS, MARKERS, ("-", parts.DASHED, parts.DOTTED, (0, (3, 1, 1, 1))), strict=True))


def draw(
    figure: str, table: pd.DataFrame, components: pd.DataFrame | None = None,
    main: dict | None = None, about: dict | None = None, rule: dict | None = None,
) -> Figure:  # fmt: skip
    """Return the picture called `figure`: one of FIGURES, or `hypothesis-<name>` for that of any hypothesis.

    Some also need the table `components`, for the base LM and the optima, and `main` = {"h", "metric"}. `about` is what
    the table does not say: {"name", "question", "x_label", "against", "candidates"} for a hypothesis. `rule` is the
    config's section `verdict`, for the pictures of verdicts. Raises KnnlmError on an unknown name, a missing companion
    or a table without a needed column or row.
    """
    kind = figure.partition("-")[0]
    if kind not in FIGURES or (kind != figure and kind != "hypothesis"):
        raise KnnlmError(f"figure {figure}: unknown; choose one of {', '.join(FIGURES)}.")
    if kind in WITH_COMPONENTS and components is None:
        raise KnnlmError(f"figure {figure}: needs the table components.csv too; add --components.")
    if kind in ("temperature", "hypothesis", "parameters", "indexes") and main is None:
        raise KnnlmError(f"figure {figure}: needs to know the main component; add main to the settings.")
    extra = about if kind == "hypothesis" else rule if kind in BY_RULE else {}
    if extra is None:
        key = "hypothesis" if kind == "hypothesis" else "verdict"
        raise KnnlmError(f"figure {figure}: needs to know what it is about; add {key} to the settings.")
    if table.empty and kind not in EMPTY_WITHOUT_HYPOTHESES:
        raise KnnlmError(f"figure {figure}: its table has no rows; remake the tables.")
    try:
        with rc_context(fname=parts.STYLE):
            return FIGURES[kind](table, components, main, *([extra] if extra else []))
    except KeyError as error:
        source = "its table or components.csv" if kind in WITH_COMPONENTS else "its table"
        raise KnnlmError(f"figure {figure}: there is no column {error} in {source}; remake the tables.") from None


def save(picture: Figure, path: str | Path, dpi: int) -> None:
    """Write the picture as PDF or PNG, by its suffix, whole or not at all; the same table gives the same bytes."""
    kind = Path(path).suffix.lstrip(".")
    metadata = {"pdf": {"CreationDate": None}, "png": {"Software": None}}  # no dates or versions
    if kind not in metadata:
        raise KnnlmError(f"{path}: pictures are written as .pdf or .png.")
    with rc_context(fname=parts.STYLE), atomic(path) as unfinished:
        picture.savefig(unfinished, format=kind, dpi=dpi, metadata=metadata[kind])


def _temperature(table: pd.DataFrame, components: pd.DataFrame, main: dict) -> Figure:
    """Perplexity against temperature: a column for the smallest and for the whole store, a row for each split."""
    components = main_result(components)
    table, tuned = _of_main(table, main), _of_main(components[components["temperature_status"] != "fixed"], main)
    fractions = sorted({table["fraction"].min(), table["fraction"].max()})
    sizes = {"width": parts.PAGE if len(fractions) > 1 else parts.COLUMN, "nrows": len(EVALUATED)}
    picture, panels = parts.page(4.3, **sizes, ncols=len(fractions), sharex=True, sharey="row", squeeze=False)
    for split, row in zip(EVALUATED, panels, strict=True):
        base = parts.base_perplexity(components, split)
        curves, optima = (rows[(rows["split"] == split) & rows["fraction"].isin(fractions)] for rows in (table, tuned))
        for fraction, axes in zip(fractions, row, strict=True):
            parts.base_line(axes, base)
            for variant, curve in _by_variant(curves[curves["fraction"] == fraction].sort_values("temperature")):
                axes.plot(curve["temperature"], curve["ppl"], markersize=2.4, **parts.VARIANTS[variant][1])
            _mark_optima(axes, optima[optima["fraction"] == fraction], "temperature")
            axes.set_title(f"{split}, {100 * fraction:g} % of the datastore")
        limits = parts.readable(np.concatenate([curves["ppl"], optima["ppl"]]), base)
        row[0].set(ylim=limits, ylabel=parts.PERPLEXITY)
    panels[0, 0].set_xscale("log")
    panels[0, 0].xaxis.set(major_locator=LogLocator(10), major_formatter="{x:g}", minor_formatter=NullFormatter())
    for axes in panels[-1]:
        axes.set_xlabel(r"softmax temperature $\tau$")
    return _with_legend(picture, table, "o", "tuned on valid")


def _datastore_size(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """Perplexity against the fraction of the store, a panel a split, with the interval of the gain."""
    picture, panels = parts.page(2.7, ncols=len(EVALUATED))
    for split, axes in zip(EVALUATED, panels, strict=True):
        rows = table[table["split"] == split].sort_values("fraction")
        base = (rows["ppl"] + rows["gain"]).median()  # the same in every row up to rounding
        parts.base_line(axes, base)
        for offset, (variant, curve) in zip((-0.9, 0, 0.9), _by_variant(rows), strict=False):
            style = parts.VARIANTS[variant][1] | {"markersize": 3, "elinewidth": 0.7, "capsize": 0}
            places = 100 * curve["fraction"] + offset
            axes.errorbar(places, curve["ppl"], parts.spread(curve, "gain")[::-1], **style)
        shown = np.concatenate([rows["ppl"], base - rows["gain_low"], base - rows["gain_high"], [base]])
        axes.set(ylim=parts.margin(np.nanmin(shown), np.nanmax(shown)), xlim=(0, 103), xticks=range(0, 101, 20))
        axes.set(title=split, xlabel="part of the datastore (%)", ylabel=parts.PERPLEXITY)
    return _with_legend(picture, table, "|", "interval of the gain")


def _lambda(table: pd.DataFrame, components: pd.DataFrame, main: dict | None) -> Figure:
    """Perplexity against the weight of the component, a panel a split; the mark stands where valid has its minimum."""
    picture, panels = parts.page(2.6, ncols=len(EVALUATED))
    named = table.join(components.set_index(["component", "split"])[["mask", "score"]], on=["component", "split"])
    for split, axes in zip(EVALUATED, panels, strict=True):
        base, rows = parts.base_perplexity(components, split), named[named["split"] == split].sort_values("lambda")
        parts.base_line(axes, base, "left")
        for variant, curve in _by_variant(rows):
            style = {key: value for key, value in parts.VARIANTS[variant][1].items() if key != "marker"}
            axes.plot(curve["lambda"], curve["ppl"].where(np.isfinite(curve["ppl"])), **style)
        optima = components[(components["split"] == split) & components["component"].isin(rows["component"])]
        _mark_optima(axes, optima, "lambda")
        axes.set(title=split, xlim=(0, 1), ylim=parts.readable(rows["ppl"], base))
        axes.set(xlabel=r"weight $\lambda$ of the kNN component", ylabel=parts.PERPLEXITY)
    return _with_legend(picture, named, "o", "tuned on valid")


def _loss(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """Training and validation loss of the base LM against updates; the mark is the checkpoint that is used."""
    picture, axes = parts.page(2.3, parts.COLUMN)
    train, valid = (table[table["split"] == split].sort_values("update") for split in ("train", "valid"))
    axes.plot(train["update"], train["loss"], color=parts.LIGHT, linewidth=1, label="train (with dropout)")
    dashed = {"color": parts.DARK, "linestyle": parts.DASHED, "marker": "o", "markersize": 2.6}
    axes.plot(valid["update"], valid["loss"], **dashed, label="valid")
    best = valid.loc[valid["loss"].idxmin()]
    mark = {"color": parts.DARK, "markersize": 6, "markeredgecolor": parts.INK}
    axes.plot(best["update"], best["loss"], "o", **mark, label=f"checkpoint used: {best['loss']:.3f}")
    axes.set(ylim=parts.margin(table["loss"].min(), table["loss"].max()))
    axes.set(xlabel="update", ylabel="loss (nats per BPE token)")
    axes.legend()
    return picture


def _components(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
    """The gain on test of every tuned kNN component over the whole store, best on top, with its interval."""
    table = main_result(table)
    tuned = (table["family"] == "knn") & (table["fraction"] == 1) & (table["temperature_status"] != "fixed")
    rows = table[tuned & (table["split"] == "test")].sort_values("gain", kind="stable").reset_index(drop=True)
    if rows.empty:
        lacking = "its table has no tuned kNN component over the whole store on test"
        raise KnnlmError(f"figure components: {lacking}; remake the tables.")
    picture, axes = parts.page(0.6 + 0.19 * len(rows), parts.PAGE * 0.8)
    axes.axvline(0, color=parts.INK, linewidth=0.8)
    for variant, chosen in _by_variant(rows):
        parts.gain_bars(axes, chosen, parts.VARIANTS[variant][1])
    keys = rows["h"] + ", " + rows["metric"].replace(parts.METRICS)
    variants = (parts.VARIANTS[variant][0] for variant in zip(rows["mask"], rows["score"], strict=True))
    parts.gain_axes(axes, rows, [f"{key}, {name}" for key, name in zip(keys, variants, strict=True)], 0.6)
    return picture


def _performance(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
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


def _scaling(table: pd.DataFrame, components: pd.DataFrame | None, main: dict | None) -> Figure:
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


WITH_COMPONENTS = ("temperature", "lambda", "parameters", "indexes")
BY_RULE = ("verdicts", "explanations", "remaining")
EMPTY_WITHOUT_HYPOTHESES = ("verdicts", "parameters", "indexes")
FIGURES: dict[str, Callable[..., Figure]] = {  # table, components, main, and what a hypothesis or a rule says
    "temperature": _temperature, "datastore_size": _datastore_size, "lambda": _lambda, "loss": _loss,
    "components": _components, "verdicts": verdicts, "parameters": parameters, "helped_tokens": helped_tokens,
    "performance": _performance, "scaling": _scaling, "hypothesis": hypothesis,
    "indexes": indexes, "explanations": explanations, "remaining": remaining, "variants": variants,
}  # fmt: skip


def _of_main(table: pd.DataFrame, main: dict) -> pd.DataFrame:
    rows = table[(table["h"] == main["h"]) & (table["metric"] == main["metric"])]
    if rows.empty:
        lacking = f"the table has no row of {main['h']} keys with the metric {main['metric']}"
        raise KnnlmError(f"figure: {lacking}; see `main` in the config.")
    return rows


def _by_variant(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Split rows by mask and score, in the order of VARIANTS, leaving out what has none."""
    found = dict(list(rows.groupby(["mask", "score"])))
    return [(variant, found[variant]) for variant in parts.VARIANTS if variant in found]


def _mark_optima(axes: Axes, optima: pd.DataFrame, x: str) -> None:
    """Put a large mark at each tuned value; open where the search ended at its edge."""
    for variant, rows in _by_variant(optima):
        style = parts.VARIANTS[variant][1] | {"linestyle": "none", "zorder": 9}
        for row in rows.to_dict("records"):
            fill = "white" if row["temperature_status"] == "edge" else style["color"]
            axes.plot(row[x], row["ppl"], markerfacecolor=fill, **LARGE, **style)


def _with_legend(picture: Figure, rows: pd.DataFrame, sign: str, meaning: str) -> Figure:
    """Add one legend above all panels: the variants that occur, and what the marker `sign` means."""
    styles = (parts.VARIANTS[variant] for variant, _ in _by_variant(rows))
    handles = [Line2D([], [], markersize=3.5, label=name, **style) for name, style in styles]
    handles.append(Line2D([], [], color=parts.PALE, linestyle="none", marker=sign, label=meaning, **LARGE))
    columns = len(handles) if picture.get_figwidth() > parts.COLUMN else 2
    picture.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.4)
    return picture


def _short(value: float, _: int) -> str:
    """Return a number of rows in powers of 1,024."""
    size, unit = next(((size, unit) for size, unit in ((2**20, "M"), (2**10, "k")) if value >= size), (1, ""))
    return f"{value / size:.3g}{unit}"
