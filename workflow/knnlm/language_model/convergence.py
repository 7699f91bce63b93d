"""When patience ends a training, and whether the LM has converged (docs/results.md#has-the-base-lm-converged).

Losses are on valid, in nats per BPE token, one for each validation and in the order of the updates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from knnlm.errors import KnnlmError
from knnlm.storage.tables import RERUN, read_table

LAST = 3  # validations over which the loss must be flat
FLAT = 0.01  # nats per BPE token: a smaller change over them is none
CONVERGED, FALLING, RISING, UNKNOWN = STATES = "converged", "still falling", "rising", "unknown"
CONVERGENCE_COLUMNS = ["lm_state", "change", "ended_by", "valid_loss", "update", "last_update", "epoch", "train_loss"]


@dataclass(frozen=True)
class Convergence:
    """What a loss curve says of the LM; its fields stand in `tables/convergence.csv` under the same names.

    `change` is what the loss on valid has done over the last validations, in nats per BPE token, NaN where there are
    too few. `ended_by` is `patience` or `updates`. `valid_loss` and `update` are those of the checkpoint that is used,
    `train_loss` that of the last logged updates (with dropout).
    """

    lm_state: str
    change: float
    ended_by: str
    valid_loss: float
    update: int
    last_update: int
    epoch: int
    train_loss: float

    @property
    def is_converged(self) -> bool:
        """Whether a verdict may rest on this LM: more training would not lower its loss on valid."""
        return self.lm_state == CONVERGED


def stops_at(losses: Sequence[float], patience: int | None) -> int | None:
    """Return the place of the validation after which training ends, None where it goes on.

    It ends once `patience` validations in a row have not been lower than the lowest before them; None never ends it.
    fairseq's own `--patience` has the same rule, but it forgets the count when a training is resumed.
    """
    best, waited = math.inf, 0
    for place, loss in enumerate(losses):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            return place
    return None


def valid_losses(curve: pd.DataFrame, update: float = math.inf) -> pd.Series:
    """Return the losses on valid up to an update, float64 (validations,), from a table of `training.COLUMNS`."""
    rows = curve[(curve["split"] == "valid") & (curve["update"] <= update)].sort_values("update")
    return rows.set_index("update")["loss"]


def read_convergence(loss: Path, patience: int | None) -> Convergence:
    """Judge the loss curve that a training with this patience has left; KnnlmError, naming the file, if it is none."""
    kinds = {"update": "int64", "epoch": "int64", "split": "str", "loss": "float64"}
    try:
        return convergence(read_table(loss, RERUN, usecols=list(kinds), dtype=kinds), patience)
    except KnnlmError as error:
        raise KnnlmError(f"{loss}: {error}") from None


def convergence(curve: pd.DataFrame, patience: int | None) -> Convergence:
    """Judge a loss curve, a table of `training.COLUMNS` that was made with this patience.

    Patience that has ended the training means *converged*. Else the last LAST validations tell: a change of less than
    FLAT from the first to the last of them is *converged*, a lower loss *still falling*, a higher one *rising*; fewer
    are *unknown*. Raises KnnlmError where there is no validation at all.
    """
    losses = valid_losses(curve)
    if losses.empty:
        raise KnnlmError("no validation stands in the loss curve; delete it and rerun train_lm.")
    train = curve[curve["split"] == "train"]
    change = losses.iloc[-1] - losses.iloc[-LAST] if len(losses) >= LAST else math.nan
    ended_by = "updates" if stops_at(losses, patience) is None else "patience"
    if ended_by == "patience" or abs(change) < FLAT:
        state = CONVERGED
    else:
        state = UNKNOWN if math.isnan(change) else FALLING if change < 0 else RISING
    best = losses.idxmin()
    epoch = int(curve.loc[curve["update"] == losses.index[-1], "epoch"].max())
    train_loss = float(train.sort_values("update")["loss"].iloc[-1]) if len(train) else math.nan
    place = {"update": int(best), "last_update": int(losses.index[-1]), "epoch": epoch}
    return Convergence(state, float(change), ended_by, float(losses[best]), **place, train_loss=train_loss)
