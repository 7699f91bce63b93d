"""One table over the variants of a run: what each differs in, its base LM, its kNN, and every question's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from knnlm.analysis.tables import BASE
from knnlm.components.catalogue import main_name
from knnlm.errors import KnnlmError

KNN = ("rows", "lambda", "temperature", "temperature_in_norms", "gain", "gain_low", "gain_high")  # of the main kNN
OF_QUESTIONS = ("gain", "reaches", "removes")  # those that have intervals
ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Tables:
    """The tables of one variant: `components`, `verdicts` and `convergence`."""

    components: pd.DataFrame
    verdicts: pd.DataFrame
    convergence: pd.DataFrame


def variant_table(varied: pd.DataFrame, tables: Mapping[str, Tables], main: dict) -> pd.DataFrame:
    """Return a row for each variant, in the order of `varied`.

    `varied` has a row for each, by name, and a column for each key of the config that any of them changes; these come
    first. Then stand the
    base LM's word perplexities `ppl_valid` and `ppl_test` and its `lm_state`, the KNN columns of the main kNN component
    on test, and for each question of any variant `<question>_gain` and the other numbers of its verdict, with their
    ends; empty where a variant does not ask it. Raises KnnlmError, naming the variant, where a component is missing.
    """
    found = pd.DataFrame([_row(name, tables[name], main) for name in varied.index], index=varied.index)
    return varied.join(found).rename_axis("variant").reset_index()


def questions(table: pd.DataFrame) -> list[str]:
    """Return the names of the questions of a `variant_table`, in its order."""
    return [column.removesuffix("_verdict") for column in table if column.endswith("_verdict")]


def _row(name: str, tables: Tables, main: dict) -> dict[str, object]:
    found = {(row["component"], row["split"]): row for row in tables.components.to_dict("records")}
    try:
        base = {f"ppl_{split}": found[BASE, split]["ppl"] for split in ("valid", "test")}
        knn = found[main_name(main), "test"]
    except KeyError as error:
        missing = " on ".join(error.args[0])
        raise KnnlmError(f"variant {name}: components.csv has no row of {missing}; remake its tables.") from None
    row = base | {"lm_state": tables.convergence["lm_state"].iloc[0]}
    row |= {column: knn[column] for column in KNN if column in knn}
    for verdict in tables.verdicts.to_dict("records"):
        columns = [f"{number}{end}" for number in OF_QUESTIONS for end in ENDS]
        kept = [column for column in (*columns, "verdict") if column in verdict]
        row |= {f"{verdict['hypothesis']}_{column}": verdict[column] for column in kept}
    return row
