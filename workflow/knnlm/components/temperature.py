"""Where a component's temperature τ is tuned, on valid (docs/paper.md#temperature)."""

from collections.abc import Callable
from functools import cache

import numpy as np

from knnlm.components.catalogue import GRID_STEP, Component
from knnlm.components.interpolation import best_mixture, interpolate, perplexity

WALK = 1.5  # factor from one τ to the next where the search leaves the grid
TOLERANCE = 3e-4  # of log τ: the loss is flat to its rounding in float32 within that
MOST_STEPS = 30  # from the grid to the lowest τ; smooth losses take three to eight
CURVE_COLUMNS = ["component", "h", "metric", "mask", "score", "fraction", "temperature", "split", "lambda", "ppl"]
Loss = Callable[[float], tuple[float, float]]
Point = tuple[float, float]  # log τ, and the loss there in nats


def mixed_loss(log_p_at: Callable[[float], np.ndarray], log_p_base: np.ndarray) -> Loss:
    """Return the function of τ that gives the mixture's nats per token at its best λ, and that λ.

    `log_p_at(τ)` is the component's log p of the gold tokens, float (n,); log_p_base: float (n,), the base LM's; both
    in nats. Each τ is computed once.
    """
    return cache(lambda temperature: best_mixture(log_p_base, log_p_at(temperature)))


def first_tried(search: dict) -> list[float]:
    """Return the temperatures that the search begins with, for every component the same: a part of the grid."""
    return search["grid"][::GRID_STEP]


def tuned(component: Component, loss: Loss, search: dict) -> Component:
    """Return the component with the τ that minimises `loss`; equal components get equal ones.

    `search` is the config's section `temperature`: the range from `low` to `high`, and its `grid`.
    """
    grid, low, high = first_tried(search), search["low"], search["high"]
    return component.tuned(*tune_temperature(lambda temperature: loss(temperature)[0], grid, low, high))


def curve(
    component: Component, loss: Loss, log_p_test: Callable[[float], np.ndarray], log_p_base: dict[str, np.ndarray],
    words: dict[str, int], grid: list[float],
) -> list[tuple]:  # fmt: skip
    """Return the rows of CURVE_COLUMNS: word perplexity of both splits at each τ of the grid, λ tuned on valid at each.

    `loss` is `mixed_loss` on valid, `log_p_test(τ)` the component's log p on test, float (n,) in nats.
    """
    facts = (component.component, component.h, component.metric, component.mask, component.score, component.fraction)
    rows = []
    for temperature in sorted(grid):
        nats, weight = loss(temperature)
        on_valid = float(np.exp(nats * len(log_p_base["valid"]) / words["valid"]))
        on_test = perplexity(interpolate(log_p_base["test"], log_p_test(temperature), weight), words["test"])
        rows += [(*facts, temperature, split, weight, ppl) for split, ppl in (("valid", on_valid), ("test", on_test))]
    return rows


def tune_temperature(loss: Callable[[float], float], grid: list[float], low: float, high: float) -> tuple[float, str]:
    """Return the τ that minimises `loss`, and how it was found: `optimum`, or `edge` where the range ends first.

    The search starts from the best of `grid`. While the end of what was tried is still the best, it walks on
    geometrically within [low, high]. It ends between the best point's neighbours in log τ, at about TOLERANCE.
    """
    tried = {temperature: loss(temperature) for temperature in sorted(grid)}
    while True:
        best = min(tried, key=tried.get)
        if best == max(tried) and best < high:
            step = min(best * WALK, high)
        elif best == min(tried) and best > low:
            step = max(best / WALK, low)
        else:
            break
        tried[step] = loss(step)
    if best in (low, high) and best in (min(tried), max(tried)):
        return best, "edge"
    ordered = sorted(tried)
    place = ordered.index(best)
    around = [(float(np.log(temperature)), tried[temperature]) for temperature in ordered[place - 1 : place + 2]]
    log_temperature = bottom(lambda log_t: loss(float(np.exp(log_t))), *around)
    return best if log_temperature == around[1][0] else float(np.exp(log_temperature)), "optimum"


def bottom(loss: Callable[[float], float], left: Point, middle: Point, right: Point) -> float:
    """Return where `loss` is lowest between two points that are no lower than the middle one, to TOLERANCE.

    Each step goes to the bottom of the parabola through the three, which lies between them, and keeps the lowest with
    its neighbours. A loss that is a parabola there takes one step.
    """
    for _ in range(MOST_STEPS):
        to_left, to_right = middle[0] - left[0], middle[0] - right[0]
        of_left, of_right = to_left * (middle[1] - right[1]), to_right * (middle[1] - left[1])
        if of_left == of_right:  # the three are level
            break
        step = (to_left * of_left - to_right * of_right) / (2 * (of_left - of_right))
        if abs(step) < TOLERANCE:
            break
        place = middle[0] - step
        tried = place, loss(place)
        nearer, further = sorted([middle, tried], key=lambda point: point[1])
        left, right = (further, right) if further[0] < nearer[0] else (left, further)
        middle = nearer
    return middle[0]
