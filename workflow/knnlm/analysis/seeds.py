"""What several seeds say together: mean and spread of every measure of a table that each seed has made."""

from collections.abc import Sequence

import pandas as pd

OUTCOMES = ("supported", "refuted", "inconclusive")
MEASURES = ["temperature", "lambda", "ppl_alone", "ppl", "oracle", "gain", "share"]


def over_seeds(tables: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame:
    """Return one row for each value of the `key` columns, in the order of the first table.

    `seeds` counts the tables that have it. Every measure has its mean, standard deviation (of a sample: n-1), lowest
    and highest value; NaN is left out. A verdict is counted by its three outcomes.
    """
    stacked = pd.concat(tables, ignore_index=True)
    groups = stacked.groupby(key, sort=False)
    columns = [groups.size().rename("seeds")]
    for measure in (name for name in MEASURES if name in stacked):
        columns.append(groups[measure].agg(["mean", "std", "min", "max"]).add_prefix(f"{measure}_"))
    for said in OUTCOMES if "verdict" in stacked else ():
        columns.append(groups["verdict"].agg(lambda verdicts, said=said: int((verdicts == said).sum())).rename(said))
    return pd.concat(columns, axis=1).reset_index()
