"""The page of findings: what each claim of the paper came to on each text, from the tables of runs alone."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from knnlm.analysis.tables import BASE
from knnlm.analysis.wording import decimals, units_in_words
from knnlm.components.catalogue import main_name
from knnlm.errors import KnnlmError
from knnlm.storage.tables import read_table

WORDS = yaml.safe_load((Path(__file__).parents[2] / "report" / "findings.yaml").read_text(encoding="utf-8"))
MAIN = {"h": "att", "metric": "l2"}  # the paper's main retrieval, and that of every run of the page
LEAST_RUNGS = 3  # of which a trend is told
UNKNOWN = "unknown"
WIDTH = 125  # characters of a line of prose
# Columns of verdicts.csv that a table of an earlier version names otherwise, and those that it has not.
RENAMED = {f"share{end}": f"reaches{end}" for end in ("", "_low", "_high")}
NUMBERS = ("reaches", "reaches_low", "reaches_high", "removes", "removes_low", "removes_high", "paper_reaches")
TEXTS = ("verdict", "why", "note", "agrees", "paper", "question", "component")


@dataclass(frozen=True)
class Run:
    """The tables of a run: `components` on test by name and `verdicts` by hypothesis.

    `remaining` and `lm_state`, of convergence.csv, are None where the run has no such table.
    """

    name: str
    components: pd.DataFrame
    verdicts: pd.DataFrame
    remaining: pd.DataFrame | None
    lm_state: str | None

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read the tables of a run's folder; raises KnnlmError, naming the file, where one is missing or damaged."""
        tables = folder / "tables"
        components, verdicts = (read_table(tables / f"{name}.csv") for name in ("components", "verdicts"))
        found = verdicts.rename(columns=RENAMED) if "reaches" not in verdicts else verdicts
        found = found.reindex(columns=dict.fromkeys([*found, *NUMBERS, *TEXTS]))
        found[list(TEXTS)] = found[list(TEXTS)].astype(object).fillna("")
        try:
            test = components[components["split"] == "test"].set_index("component", drop=False)
            missing = {BASE, main_name(MAIN)} - set(test.index)
            if missing:
                raise KeyError(min(missing))
            by_name = found.set_index("hypothesis")
        except KeyError as error:
            raise KnnlmError(f"{tables}: there is no {error} in components.csv or verdicts.csv; remake them.") from None
        remaining, lm = (_read_if_there(tables / f"{name}.csv") for name in ("remaining", "convergence"))
        return cls(folder.name, test, by_name, remaining, None if lm is None else str(lm["lm_state"].iloc[0]))

    @cached_property
    def base(self) -> pd.Series:
        """The base LM's row of components.csv, on test."""
        return self.components.loc[BASE]

    @cached_property
    def knn(self) -> pd.Series:
        """The row of the main kNN component: exact search, tuned temperature."""
        return self.components.loc[main_name(MAIN)]

    @property
    def digits(self) -> int:
        """How many decimals its perplexities have."""
        return decimals(self.base["ppl"])

    def gain(self, row: pd.Series) -> str:
        """Return a gain in perplexity with its interval, as text."""
        return _with_ends([row["gain"], row["gain_low"], row["gain_high"]], f".{self.digits}f")


def page(folder: Path) -> str:
    """Return the page, in Markdown, of those runs of the template that have tables in `folder`.

    Raises KnnlmError where none has, or where a table cannot be read.
    """
    runs = [Run.read(folder / name) for name in WORDS["runs"] if _has_tables(folder / name)]
    rungs = [Run.read(path) for path in sorted(folder.glob(f"{WORDS['rungs']}*")) if _has_tables(path)]
    rungs.sort(key=lambda run: -run.base["ppl"])
    if not runs:
        names = ", ".join(WORDS["runs"])
        raise KnnlmError(f"{folder}: no run of {names} has tables here; run one of them first.")
    parts = [WORDS["page"], WORDS["texts"], texts_table(runs), WORDS["overview"], overview(runs)]
    for title, claims in _sections(runs).items():
        parts.append(f"## {title}\n")
        parts += [text for name, claim in claims.items() for text in claim_text(name, claim, runs, rungs)]
    if any(run.remaining is not None for run in runs):
        parts += [WORDS["remaining"], *(remaining_table(run) for run in runs if run.remaining is not None)]
    if rungs:
        parts += [WORDS["ladder"], ladder_table(rungs)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def texts_table(runs: Sequence[Run]) -> str:
    """Return the table of the runs, the paper's first: text, size, base LM and kNN-LM."""
    head = ["run", "text", "keys", "words", "intervals rest on", "base LM", "it is", "with kNN", "gain"]
    head += ["of the perplexity", "λ", "τ", "τ by the keys' mean squared norm"]
    paper = WORDS["paper"]
    gain, digits = paper["base"] - paper["knn"], decimals(paper["base"])
    rows = [
        ["the paper", paper["text"], f"{paper['keys']:,}", f"{paper['words']:,}", "", f"{paper['base']:.{digits}f}", ""]
    ]
    rows[0] += [f"{paper['knn']:.{digits}f}", f"{gain:.{digits}f}", _percent(gain / paper["base"], 1)]
    rows[0] += [f"{paper['lambda']:.3f}", "", ""]
    for run in runs:
        base, knn = run.base, run.knn
        rests_on = units_in_words(base) if "units" in base else UNKNOWN
        cells = [run.name, WORDS["runs"][run.name], f"{knn['rows']:,.0f}", f"{base['words']:,.0f}", rests_on]
        cells += [f"{base['ppl']:.{run.digits}f}", run.lm_state or UNKNOWN, f"{knn['ppl']:.{run.digits}f}"]
        cells += [run.gain(knn), _percent(knn["gain"] / base["ppl"], 1), f"{knn['lambda']:.3f}"]
        temperatures = (knn[name] for name in ("temperature", "temperature_per_squared_norm") if name in knn)
        cells += [f"{temperature:.3g}" for temperature in temperatures]
        rows.append(cells + [UNKNOWN] * (len(head) - len(cells)))
    return _table(head, rows)


def overview(runs: Sequence[Run]) -> str:
    """Return the table of all claims and runs, and how many of the paper's answers hold in each run."""
    rows = []
    for claims in _sections(runs).values():
        for name in claims:
            found = {run.name: run.verdicts.loc[name] for run in runs if name in run.verdicts.index}
            paper = _paper(next(iter(found.values())))
            rows.append([f"[{name}](#{name})", paper, *(_cell(found.get(run.name)) for run in runs)])
    lines = [_table(["claim", "paper", *(run.name for run in runs)], rows)]
    for run in runs:
        asked = run.verdicts[run.verdicts["paper"] != "silent"]["agrees"]
        counts = {"asked": len(asked), "yes": sum(asked == "yes"), "no": sum(asked == "no"), "open": sum(asked == "")}
        lines.append(f"- {WORDS['counts'].format(run=run.name, **counts)}\n")
    return lines[0] + "\n" + "".join(lines[1:])


def claim_text(name: str, claim: str, runs: Sequence[Run], rungs: Sequence[Run]) -> Iterator[str]:
    """Yield heading, claim, table and comparison of one hypothesis."""
    found = [(run, run.verdicts.loc[name]) for run in runs if name in run.verdicts.index]
    first = found[0][1]
    said = [claim] if claim else []
    said.append(WORDS["found"][first["paper"]])
    if not pd.isna(first["paper_reaches"]):
        said.append(WORDS["share"].format(share=_percent(first["paper_reaches"])))
    yield f"### {name}\n\n*{first['question']}*\n\n{_wrapped(' '.join(said))}"
    head = ["run", "best component", "gain", "reaches", "removes", "verdict", "as the paper"]
    rows = []
    for run, row in found:
        verdict = f"{row['verdict']} ({row['why']})" if row["why"] else row["verdict"]
        cells = [run.name, f"`{row['component']}`", run.gain(row), _share(row, "reaches"), _share(row, "removes")]
        rows.append([*cells, verdict, row["agrees"]])
    yield _table(head, rows)
    remarks = [f"{run.name}: {row['note']}" for run, row in found if row["note"]]
    remarks += [_comparison(found)] if len(found) > 1 else []
    remarks += [text for number in ("reaches", "removes") if (text := _trend(name, number, rungs))]
    if remarks:
        yield "\n".join(map(_wrapped, remarks))


def remaining_table(run: Run) -> str:
    """Return the table of what is left of the kNN's gain beside more and more components."""
    ends = ("remaining", "remaining_low", "remaining_high")
    rows = [
        [
            run.name,
            f"`{row['component']}`",
            f"{row['ppl']:.{run.digits}f}",
            _with_ends([row[end] for end in ends], ".0%"),
        ]
        for row in run.remaining.to_dict("records")
    ]
    return _table(["run", "beside base LM, one more", "perplexity without kNN", "left of kNN's gain"], rows)


def ladder_table(rungs: Sequence[Run]) -> str:
    """Return the table of the ladder: base LM, kNN-LM and a few questions for each rung."""
    asked = [name for name in WORDS["of_ladder"] if any(name in run.verdicts.index for run in rungs)]
    head = ["rung", "keys", "base LM", "it is", "kNN's gain", "of the perplexity", "τ", *asked]
    rows = []
    for run in rungs:
        cells = [run.name.removeprefix(WORDS["rungs"]), f"{run.knn['rows']:,.0f}", f"{run.base['ppl']:.{run.digits}f}"]
        cells += [run.lm_state or UNKNOWN, run.gain(run.knn), _percent(run.knn["gain"] / run.base["ppl"], 1)]
        cells.append(f"{run.knn['temperature']:.3g}")
        rows.append(cells + [_cell(run.verdicts.loc[name] if name in run.verdicts.index else None) for name in asked])
    return _table(head, rows)


def _sections(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """Return the claims of the template by section, of hypotheses that a run has; what it lacks stands last."""
    asked = {name for run in runs for name in run.verdicts.index}
    sections = {title: dict(claims) for title, claims in WORDS["sections"].items()}
    known = {name for claims in sections.values() for name in claims}
    sections[list(sections)[-1]] |= dict.fromkeys(sorted(asked - known), "")
    chosen = {title: {name: claims[name] for name in claims if name in asked} for title, claims in sections.items()}
    return {title: claims for title, claims in chosen.items() if claims}


def _comparison(found: Sequence[tuple[Run, pd.Series]]) -> str:
    groups: dict[str, list[str]] = {}
    for run, row in found:
        groups.setdefault(row["verdict"], []).append(run.name)
    if len(groups) == 1:
        return WORDS["same"]
    return WORDS["differ"].format(groups="; ".join(f"*{word}* in {_and(names)}" for word, names in groups.items()))


def _trend(name: str, number: str, rungs: Sequence[Run]) -> str:
    """Return how a number changes over the ladder's rungs, from the weakest base LM on; empty where it is not told."""
    pairs = [(run, run.verdicts[number].get(name)) for run in rungs]
    known = [(run, value) for run, value in pairs if value is not None and not pd.isna(value)]
    if len(known) < LEAST_RUNGS:
        return ""
    perplexities, values = (pd.Series(column) for column in zip(*((r.base["ppl"], v) for r, v in known), strict=True))
    ends = {"weak": f"{perplexities.iloc[0]:.1f}", "strong": f"{perplexities.iloc[-1]:.1f}"}
    ends |= {"first": _percent(values.iloc[0]), "last": _percent(values.iloc[-1])}
    correlation = perplexities.corr(values, method="spearman")
    told = UNKNOWN if pd.isna(correlation) else _spaced(f"{correlation:+.2f}")
    what = {"reaches": "what is reached", "removes": "what is removed"}[number]
    return WORDS["trend"].format(rungs=len(known), number=what, correlation=told, **ends)


def _cell(row: pd.Series | None) -> str:
    """Return a verdict with its two numbers, bold where it is not the paper's; empty where the run did not ask."""
    if row is None:
        return ""
    numbers = " / ".join(_percent(row[name]) for name in ("reaches", "removes") if not pd.isna(row[name]))
    text = f"{row['verdict']}, {numbers}" if numbers else row["verdict"]
    return f"**{text}**" if row["agrees"] == "no" else text


def _paper(row: pd.Series) -> str:
    answer = {"supported": "yes", "refuted": "no", "silent": ""}[row["paper"]]
    return answer if pd.isna(row["paper_reaches"]) else f"{answer}, {_percent(row['paper_reaches'])}".lstrip(", ")


def _share(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    return _with_ends([row[name], row[f"{name}_low"], row[f"{name}_high"]], ".0%")


def _with_ends(values: Sequence[float], how: str) -> str:
    value, low, high = (UNKNOWN if pd.isna(value) else _spaced(f"{value:{how}}") for value in values)
    return f"{value} [{low}, {high}]"


def _percent(value: float, digits: int = 0) -> str:
    return UNKNOWN if pd.isna(value) else _spaced(f"{value:.{digits}%}")


def _spaced(number: str) -> str:
    """Return a formatted number without the sign of a zero, with a minus and a space before the percent sign."""
    number = number.removeprefix("-") if not any(digit in number for digit in "123456789") else number
    return number.replace("-", "−").replace("%", " %")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _has_tables(folder: Path) -> bool:
    return (folder / "tables" / "verdicts.csv").exists()


def _read_if_there(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.exists() else None
