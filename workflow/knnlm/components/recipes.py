"""How long a training on stored states goes on, at which learning rate, and whether its budget cut it off.

A training that was cut off has not shown what its head can do: what is said of it holds for the budget alone
(docs/paper.md#trained-heads). Losses are on valid, in nats a token.
"""

import math
from collections.abc import Mapping

FLAT = 1e-3  # nats a token: a smaller difference is none. It is a tenth of a percent of perplexity


class Watch:
    """Follows a training's loss on valid from pass to pass, and says when it has stopped falling.

    It has once `patience` passes in a row were not lower, by FLAT, than the lowest pass before them. What is there
    before the first pass does not count in that: beside the base LM, a new head is of no use for a while.
    """

    def __init__(self, patience: int, loss: float = math.inf):
        """Take the loss before the first pass, if that state may be the best."""
        self.patience, self.lowest, self.passes, self.best_pass = patience, loss, 0, 0
        self._mark, self._waited = math.inf, 0

    def improves(self, loss: float) -> bool:
        """Take the loss after one more pass; return whether it is the lowest so far."""
        self.passes += 1
        falls = loss < self._mark - FLAT
        self._mark, self._waited = (loss, 0) if falls else (self._mark, self._waited + 1)
        if is_lowest := loss < self.lowest:
            self.lowest, self.best_pass = loss, self.passes
        return is_lowest

    @property
    def is_falling(self) -> bool:
        """Whether the last pass was lower, by FLAT, than the lowest before it."""
        return self._waited == 0

    @property
    def has_stopped(self) -> bool:
        """Whether the loss has stopped falling."""
        return self._waited >= self.patience


def rates_of(recipe: Mapping) -> list[float]:
    """Return the learning rates that a recipe tries, ascending: its `learning_rates`, a number or a list of them."""
    rates = recipe["learning_rates"]
    return sorted(set(rates)) if isinstance(rates, list) else [rates]


def best_rate(losses: Mapping[float, float]) -> tuple[float, str | None]:
    """Return the learning rate of the lowest loss, and at which end of the rates it lies, None where inside.

    It counts as inside if one between the ends is as good, by FLAT. A single rate is at an end: no other was tried.
    """
    known = {rate: math.inf if math.isnan(loss) else loss for rate, loss in losses.items()}
    ends, best = (min(known), max(known)), min(known, key=known.get)
    if len(known) == 1:
        return best, "the only learning rate"
    if best not in ends or any(known[rate] <= known[best] + FLAT for rate in known if rate not in ends):
        return best, None
    return best, "the lowest learning rate" if best == ends[0] else "the highest learning rate"


def cut_off(*ends: str | None) -> dict[str, bool | str]:
    """Return the facts `cut_off`, and `cut_off_at`, the ends of its budget at which a training was still best."""
    met = [end for end in ends if end]
    return {"cut_off": bool(met)} | ({"cut_off_at": ", ".join(met)} if met else {})


def rises_at_end(losses: Mapping[float, float]) -> bool:
    """Return whether the largest of a curve's sizes (n, K) has the lowest loss, by FLAT; a single size is no curve."""
    largest = max(losses)
    return len(losses) > 1 and losses[largest] < min(loss for size, loss in losses.items() if size != largest) - FLAT
