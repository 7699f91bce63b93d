"""Put the tables of several seeds together: mean and spread."""

import argparse
from pathlib import Path

from knnlm.analysis.seeds import over_seeds
from knnlm.running.step import run
from knnlm.storage.tables import DIGITS, read_table, write_table


def main(arguments: argparse.Namespace) -> None:
    """Write both tables."""
    for paths, key, output in (
        (arguments.components, ["component", "split"], arguments.components_table),
        (arguments.verdicts, ["hypothesis", "question", "paper"], arguments.verdicts_table),
    ):
        table = over_seeds([read_table(path) for path in paths], key)
        write_table(output, table, DIGITS)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--components", type=Path, nargs="+", required=True, help="components.csv of every seed")
    options.add_argument("--verdicts", type=Path, nargs="+", required=True, help="verdicts.csv of every seed")
    options.add_argument("--components-table", type=Path, required=True)
    options.add_argument("--verdicts-table", type=Path, required=True)
    return options


if __name__ == "__main__":
    run(main, parser())
