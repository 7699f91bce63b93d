"""Draw one figure from its table, as PDF and as PNG."""

import argparse

import pandas as pd

from knnlm.errors import KnnlmError
from knnlm.plots import draw, save
from knnlm.steps import run


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--figure", required=True, help="temperature, components ... or hypothesis-<name>")
    options.add_argument("--settings", required=True, help="JSON with figures, main, and for a hypothesis what it is about")
    options.add_argument("--table", required=True)
    options.add_argument("--components", help="components.csv, for the figures temperature, lambda and parameters")
    options.add_argument("--pdf", required=True)
    options.add_argument("--png", required=True)
    return options


def main(arguments: argparse.Namespace) -> None:
    """Read the tables, draw, and write both pictures."""
    settings = arguments.settings
    components = read_csv(arguments.components) if arguments.components else None
    picture = draw(arguments.figure, read_csv(arguments.table), components, settings.get("main"), settings.get("hypothesis"))
    for path in (arguments.pdf, arguments.png):
        save(picture, path, settings["figures"]["dpi"])


def read_csv(path: str) -> pd.DataFrame:
    """Read a table, refusing by name what is not one."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise KnnlmError(f"{path}: not a readable table ({error}); remake the tables.") from None


if __name__ == "__main__":
    run(main, parser())
