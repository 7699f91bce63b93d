"""Draw every figure of a run again, from its tables as they are."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from knnlm.errors import KnnlmError
from knnlm.figures.plots import save
from knnlm.running.progress import progress
from knnlm.steps.plot import drawn, read_csv


def main(settings: dict, folders: Sequence[Path], over_variants: Path | None = None) -> None:
    """Read all tables of all runs first, so that a missing one leaves the figures as they are.

    `over_variants` is the folder of the table over the variants, if there are any.
    """
    tables = {folder: read_tables(folder, set(settings["tables"].values())) for folder in folders}
    if over_variants:
        table = read_tables(over_variants, {"variants"})["variants"]
        write(drawn(over_variants / "tables" / "variants.csv", "variants", table), over_variants, "variants", settings)
    for folder, of_run in tables.items():
        figures = [(name, table, None) for name, table in settings["tables"].items()]
        components, path = of_run["components"], folder / "tables" / "components.csv"
        if "hypothesis" not in components:
            raise KnnlmError(f"{path}: there is no column 'hypothesis'; remake the tables.")
        for name in components["hypothesis"].dropna().unique().tolist():
            if name not in settings["hypotheses"]:
                remedy = "give the config that the tables were made with"
                raise KnnlmError(f"{path}: the config has no hypothesis {name}; {remedy}.")
            figures.append((f"hypothesis-{name}", "components", settings["hypotheses"][name]))
        for name, table, about in progress(figures, f"figures of {folder}"):
            path = folder / "tables" / f"{table}.csv"
            picture = drawn(path, name, of_run[table], components, settings["main"], about, settings["verdict"])
            write(picture, folder, name, settings)


def write(picture: Figure, folder: Path, name: str, settings: dict) -> None:
    """Write a figure of a run as PDF and as PNG."""
    for kind in ("pdf", "png"):
        save(picture, folder / "figures" / f"{name}.{kind}", settings["figures"]["dpi"])


def read_tables(folder: Path, names: set[str]) -> dict:
    """Return the tables of a run by name; raises KnnlmError, naming it, where one is missing."""
    paths = {name: folder / "tables" / f"{name}.csv" for name in sorted(names)}
    for path in paths.values():
        if not path.exists():
            remedy = "bring it back, or run the whole workflow"
            raise KnnlmError(f"{path}: the table is missing, and redraw makes none; {remedy}.")
    return {name: read_csv(path) for name, path in paths.items()}
