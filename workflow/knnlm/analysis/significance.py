"""The spread of a run's numbers over its seeds."""

from collections.abc import Sequence

import pandas as pd

# What has a spread over seeds
MEASURES = ["temperature", "lambda", "ppl_alone", "ppl", "oracle", "gain", "reaches", "removes"]


def over_seeds(tables: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame:
    """Return one row for each value of the `key` columns, in the first table's order, with mean, spread and counts.

    The standard deviation is that of a sample (n-1); NaN is left out. `verdicts` counts them: `explains 2, worse 1`.
    """
    stacked = pd.concat(tables, ignore_index=True)
    groups = stacked.groupby(key, sort=False)
    columns = [groups.size().rename("seeds")]  # how many tables have the row
    for measure in (name for name in MEASURES if name in stacked):
        columns.append(groups[measure].agg(["mean", "std", "min", "max"]).add_prefix(f"{measure}_"))
    if "verdict" in stacked:
        columns.append(groups["verdict"].agg(_counted).rename("verdicts"))
    return pd.concat(columns, axis=1).reset_index()


def _counted(verdicts: pd.Series) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in verdicts.value_counts(sort=False).items())
