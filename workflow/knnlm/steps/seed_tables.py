"""Put the tables of several seeds together: mean and spread."""

import argparse
from pathlib import Path

import pandas as pd

from knnlm.analysis.seeds import over_seeds
from knnlm.errors import KnnlmError
from knnlm.running.step import run
from knnlm.storage.files import atomic


def main(arguments: argparse.Namespace) -> None:
    """Write both tables."""
    for paths, key, output in (
        (arguments.components, ["component", "split"], arguments.components_table),
        (arguments.verdicts, ["hypothesis", "question", "paper"], arguments.verdicts_table),
    ):
        table = over_seeds([read(path) for path in paths], key)
        with atomic(output) as unfinished:
            table.to_csv(unfinished, index=False, float_format="%.10g")


def read(path: Path) -> pd.DataFrame:
    """Read a table, refusing by name what is not one."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise KnnlmError(f"{path}: not a readable table ({error}); remake the tables.") from None


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
