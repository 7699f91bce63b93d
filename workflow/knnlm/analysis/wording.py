"""The main result and the verdicts as text: for a terminal, and as reStructuredText for the report's first page."""

import itertools
import math
import re
import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from knnlm.analysis.evidence import ENDS
from knnlm.analysis.rule import DIFFERENCE
from knnlm.analysis.tables import BASE, main_result, tuned
from knnlm.components.catalogue import Component, missing_line
from knnlm.language_model.convergence import LAST, Convergence

QUESTION_WIDTH = 42
LINE_WIDTH = 118
UNKNOWN = "unknown"
TEXTS = yaml.safe_load((Path(__file__).parents[2] / "report" / "wording.yaml").read_text(encoding="utf-8"))
TEXT_COLUMNS = ["question, and its best component", "reaches, gain", "removes, beside it", "verdict", "paper", "agrees"]
MAIN_COLUMNS = ["On test", "Perplexity", "Gain", "λ", "τ"]
SEARCHES = {("faiss", "faiss"): "approximate search", ("faiss", "real"): "approximate search, real scores"}
SEARCHES[("real", "real")] = "exact search"


def summary(components: pd.DataFrame, level: float) -> str:
    """Return the main result as text: the base LM and every component on the whole store, as measured on test."""
    components = main_result(components)
    test = components[(components["split"] == "test") & (components["fraction"].isna() | (components["fraction"] == 1))]
    first, digits = test.iloc[0], decimals(test["ppl"].iloc[0])
    shown = pd.DataFrame({column: test[column].fillna("") for column in ("component", "h", "metric", "mask", "score")})
    shown.loc[test["component"] == BASE, "h"] = "base LM"
    shown["temperature"] = [f"{value:.3g}" if value == value else "" for value in test["temperature"]]
    shown["tuned"] = test["temperature_status"].map({"optimum": "yes", "edge": "edge!", "fixed": "no"}).fillna("")
    shown["lambda"] = [f"{value:.3f}" for value in test["lambda"]]
    shown["ppl"] = [f"{value:.{digits}f}" for value in test["ppl"]]
    shown["gain"] = [_with_ends(values, digits) for values in test[["gain", "gain_low", "gain_high"]].to_numpy()]
    shown["oracle"] = [f"{value:.{digits}f}" for value in test["oracle"]]
    sizes = {"tokens": first["tokens"], "words": first["words"], "resting": resting(first)}
    heading = TEXTS["summary"].format(**sizes, level=level)
    rows = components[components["split"] == "test"][["component", "family", "missing"]].to_dict("records")
    warnings = "".join(f"Warning: {line}.\n" for row in rows if (line := missing_line(Component(**row))))
    return heading + shown.drop(columns="component").to_string(index=False) + "\n" + warnings


def rule_in_words(table: pd.DataFrame, rule: dict, level: float, base: pd.Series) -> list[str]:
    """Return the paragraphs that say what *reaches* and *removes* are, how verdicts follow, and what they rest on."""
    known = {"level": level, "questions": len(table), "resting": resting(base)}
    return [paragraph.format(**rule, **known) for paragraph in TEXTS["rule"]]


def verdict_text(table: pd.DataFrame, rule: dict, level: float, base: pd.Series) -> str:
    """Return the verdicts as text for a terminal; `base` is the base LM's row of `components.csv` on test."""
    paragraphs = [textwrap.wrap(text.replace("*", ""), LINE_WIDTH) for text in rule_in_words(table, rule, level, base)]
    lines = [line for paragraph in paragraphs for line in (*paragraph, "")]
    if table.empty:
        return "\n".join([*lines, TEXTS["no_hypothesis"]])
    cells, digits = [TEXT_COLUMNS], decimals(base["ppl"])
    for row in table.to_dict("records"):
        question = [*textwrap.wrap(row["question"], QUESTION_WIDTH), f"  {row['component']}"]
        question += [f"  {line}" for text in _remarks(row) for line in textwrap.wrap(text, QUESTION_WIDTH - 2)]
        reached, removed = _two_numbers(row, digits)
        columns = [question, reached, removed, [row["verdict"]], [row["paper"]], [row["agrees"]]]
        cells += [*itertools.zip_longest(*columns, fillvalue=""), [""]]
    widths = [max(len(line[column]) for line in cells if len(line) > column) for column in range(len(cells[0]))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) for line in cells)
    return "\n".join([*lines, *(line.rstrip() for line in padded)]) + "\n"


def main_rst(components: pd.DataFrame, main: dict, level: float) -> str:
    """Return the main result as a reStructuredText table: the base LM, and it with the tuned main kNN by search."""
    test = main_result(components)[lambda rows: rows["split"] == "test"]
    whole = test[(test["fraction"] == 1) & (test["h"] == main["h"]) & (test["metric"] == main["metric"]) & tuned(test)]
    base, digits = test[test["component"] == BASE].iloc[0], decimals(test["ppl"].iloc[0])
    lines = [MAIN_COLUMNS, ["base LM", f"{base['ppl']:.{digits}f}", "", "", ""]]
    for row in whole.to_dict("records"):
        gain = _with_ends([row["gain"], row["gain_low"], row["gain_high"]], digits)
        name = f"base LM + kNN, {SEARCHES[row['mask'], row['score']]}"
        lines.append([name, f"{row['ppl']:.{digits}f}", gain, f"{row['lambda']:.3f}", f"{row['temperature']:.3g}"])
    measured = f"Word perplexity; lower is better. Gains with their {level:.0%} intervals."
    return f"{measured} {resting(base)}\n\n{_list_table(lines, (40, 14, 26, 10, 10))}"


def verdict_rst(table: pd.DataFrame, rule: dict, level: float, base: pd.Series) -> str:
    """Return the verdicts as reStructuredText: a table that says where one is not the paper's, and the rule."""
    paragraphs = "\n\n".join(rule_in_words(table, rule, level, base)) + "\n"
    if table.empty:
        return f"{TEXTS['no_hypothesis']}\n{paragraphs}"
    lines = [["Question, and its best component", "Reaches", "Removes", "Verdict"]]
    for row in table.to_dict("records"):
        against = f" (the paper: {row['paper']})" if row["agrees"] == "no" else ""
        said = [_escaped(row["question"]), f"``{row['component']}``", *map(_escaped, _remarks(row))]
        numbers = (
            "\n       | ".join(["| " + lines[0], *lines[1:]]) for lines in _two_numbers(row, decimals(base["ppl"]))
        )
        question = "\n       | ".join(["| " + said[0], *said[1:]])
        lines.append([question, *numbers, f"**{row['verdict']}**{against}"])
    return f"{_list_table(lines, (44, 20, 20, 16))}\n{paragraphs}"


def _remarks(row: dict) -> list[str]:
    """Return what else is to be said of a verdict: what was measured of its component, and why it is open."""
    return [text for text in (row["note"], row["why"]) if isinstance(text, str) and text]


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def units_in_words(row: pd.Series) -> str:
    """Return what the intervals of a row of `components.csv` rest on: its documents, or the blocks of these."""
    return _of_units(row, "units")


def resting(row: pd.Series) -> str:
    """Return `units_in_words` as a sentence, which says what intervals of blocks do not speak of."""
    return _of_units(row, "resting")


def _of_units(row: pd.Series, texts: str) -> str:
    documents, units = int(row["documents"]), int(row["units"])
    few = "one_document" if documents == 1 else "documents" if units == documents else "blocks"
    known = {"split": row["split"], "documents": documents, "units": units, "size": row["words"] / units}
    return TEXTS[texts]["one_unit" if units == 1 else few].format(**known)


def remaining_text(table: pd.DataFrame, rule: dict) -> str:
    """Return what is left of the kNN's gain, of the table of REMAINING_COLUMNS, in one sentence, wrapped."""
    names, kinds = table["component"].iloc[1:].tolist(), ("nothing", "one", "left")
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    unknown = np.isnan(table["remaining"].iloc[-1])
    said = TEXTS["remaining"]["unknown" if unknown else kinds[min(len(names), 2)]]
    left = _shares(table.iloc[-1], "remaining")
    return "\n".join(textwrap.wrap(said.format(names=listed, left=left, **rule), LINE_WIDTH)) + "\n"


def convergence_text(lm: Convergence) -> str:
    """Return the sentence that stands beside the base LM's perplexity: whether more training would lower it."""
    said = TEXTS["convergence"]["patience" if lm.ended_by == "patience" else lm.lm_state]
    return "\n".join(textwrap.wrap(said.format(**asdict(lm), size=abs(lm.change), last=LAST), LINE_WIDTH)) + "\n"


def _list_table(lines: list[list[str]], widths: tuple[int, ...]) -> str:
    """Return a reStructuredText table whose first line is its header."""
    items = [f"   {' ' if place else '*'} - {cell}".rstrip() for line in lines for place, cell in enumerate(line)]
    head = f".. list-table::\n   :header-rows: 1\n   :widths: {' '.join(map(str, widths))}\n\n"
    return head + "\n".join(items) + "\n"


def decimals(perplexity: float) -> int:
    """Return the decimals that show a difference of a ten-thousandth of a perplexity, and no fewer than two."""
    return max(2, 4 - math.ceil(math.log10(perplexity))) if 1 <= perplexity < math.inf else 2


def _two_numbers(row: dict, digits: int) -> list[list[str]]:
    """Return the lines on what a row reaches and what it removes: the share, and what it is in word perplexity."""
    gain = _with_ends([row[f"gain{end}"] for end in ENDS], digits)
    reached = [_shares(row, "reaches"), gain]
    if row["asks"] == DIFFERENCE:
        return [reached, [""]]
    return [reached, [_shares(row, "removes"), f"kNN adds {row['ppl'] - row['ppl_with_knn']:.{digits}f}"]]


def _shares(row: dict, name: str) -> str:
    values = [row[f"{name}{end}"] for end in ENDS]
    share, low, high = (UNKNOWN if np.isnan(value) else f"{round(value, 2) + 0.0:.0%}" for value in values)  # never -0%
    return f"{share} [{low}, {high}]"


def _with_ends(values: list[float], digits: int) -> str:
    """Return a value and its interval as text; an end that is not known says so."""
    value, low, high = (UNKNOWN if np.isnan(value) else f"{value:.{digits}f}" for value in values)
    return f"{value} [{low}, {high}]"
