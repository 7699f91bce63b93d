import importlib
import math
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from knnlm.language_model.convergence import CONVERGENCE_COLUMNS, STATES, convergence, stops_at, valid_losses
from knnlm.language_model.training import COLUMNS

# A curve made by hand: it falls, waits twice, falls once more by little, and then only rises.
BY_HAND = [6.0, 5.2, 5.25, 5.2, 5.19, 5.3, 5.28, 5.27, 5.26]
LOSSES = some.lists(some.floats(0, 20, allow_nan=False), min_size=1, max_size=30)


def curve(losses, every=100, train=()):
    rows = [(every * (place + 1), place, "valid", loss, math.exp(loss), math.nan, math.nan) for place, loss in losses]
    rows += [(update, 0, "train", loss, math.exp(loss), 0.01, 5000.0) for update, loss in train]
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(*losses, patience=None):
    return convergence(curve(enumerate(losses)), patience)


@pytest.mark.parametrize(("patience", "place"), [(1, 2), (2, 3), (3, 7), (4, 8), (5, None), (None, None)])
def test_patience_ends_where_a_curve_made_by_hand_says(patience, place):
    assert stops_at(BY_HAND, patience) == place


@pytest.fixture(scope="module")
def should_stop_early():
    """fairseq's own rule, which keeps its count as attributes of the function."""
    return importlib.import_module("fairseq_cli.train").should_stop_early


@given(LOSSES, some.integers(1, 6))
def test_patience_is_that_of_fairseq_in_one_go(should_stop_early, losses, patience):
    for attribute in ("best", "num_runs"):
        vars(should_stop_early).pop(attribute, None)
    cfg = SimpleNamespace(checkpoint=SimpleNamespace(patience=patience, maximize_best_checkpoint_metric=False))
    stops = [place for place, loss in enumerate(losses) if should_stop_early(cfg, loss)]
    assert stops_at(losses, patience) == (stops[0] if stops else None)


@given(LOSSES, some.integers(1, 6), some.data())
def test_a_training_that_is_resumed_ends_where_it_would_have_ended(losses, patience, data):
    """The end depends on the losses up to it alone, so no cut between two validations moves it."""
    place = stops_at(losses, patience)
    cut = data.draw(some.integers(0, len(losses)))
    ends_before = place is not None and place < cut
    assert stops_at(losses[:cut], patience) == (place if ends_before else None)


@pytest.mark.parametrize(
    ("losses", "state", "change"),
    [
        ((6.0, 5.0, 4.602, 4.544), "still falling", -0.456),
        ((5.0, 4.509, 4.503, 4.500), "converged", -0.009),
        ((5.0, 4.511, 4.503, 4.500), "still falling", -0.011),
        ((5.0, 4.500, 4.505, 4.509), "converged", 0.009),
        ((5.0, 4.500, 4.600, 4.700), "rising", 0.2),
        ((5.0, 4.9), "unknown", math.nan),
        ((5.0,), "unknown", math.nan),
    ],
)
def test_the_last_three_validations_tell(losses, state, change):
    found = judged(*losses)
    assert (found.lm_state, found.is_converged, found.ended_by) == (state, state == "converged", "updates")
    assert found.change == pytest.approx(change, abs=1e-9, nan_ok=True)


def test_patience_that_ended_a_training_is_convergence_and_the_best_is_used():
    falling = judged(*BY_HAND[:6], patience=3)
    assert (falling.lm_state, falling.ended_by) == ("rising", "updates")
    found = judged(*BY_HAND[:8], patience=3)
    assert (found.lm_state, found.ended_by, found.valid_loss) == ("converged", "patience", 5.19)
    assert (found.update, found.last_update, found.epoch) == (500, 800, 7)


def test_the_table_has_the_train_loss_that_was_logged_last():
    found = convergence(curve(enumerate(BY_HAND), train=[(900, 4.0), (50, 7.0)]), None)
    assert list(vars(found)) == CONVERGENCE_COLUMNS
    assert found.train_loss == 4.0
    assert math.isnan(judged(*BY_HAND).train_loss)


@given(LOSSES, some.one_of(some.none(), some.integers(1, 6)))
def test_every_curve_has_a_state(losses, patience):
    found = judged(*losses, patience=patience)
    assert found.lm_state in STATES
    assert found.valid_loss == min(losses)


def test_losses_up_to_an_update_in_order():
    table = curve([(2, 4.0), (0, 6.0), (1, 5.0)], train=[(10, 9.0)])
    assert valid_losses(table).tolist() == [6.0, 5.0, 4.0]
    assert valid_losses(table, 200).tolist() == [6.0, 5.0]
