"""Where a component's temperature τ is tuned, on valid (docs/paper.md#temperature)."""

from collections.abc import Callable
from functools import cache

import numpy as np

from knnlm.components.catalogue import GRID_STEP, Component
from knnlm.components.interpolation import best_mixture, interpolate, perplexity

WALK = 1.5  # factor from one τ to the next where the search leaves the grid
TOLERANCE = 1e-3  # of log τ
CURVE_COLUMNS = ["component", "h", "metric", "mask", "score", "fraction", "temperature", "split", "lambda", "ppl"]
Loss = Callable[[float], tuple[float, float]]


def mixed_loss(log_p_at: Callable[[float], np.ndarray], log_p_base: np.ndarray) -> Loss:
    """Return the function of τ that gives the mixture's nats per token at its best λ, and that λ.

    `log_p_at(τ)` is the component's log p of the gold tokens, float (n,); log_p_base: float (n,), the base LM's; both
    in nats. Each τ is computed once.
    """
    return cache(lambda temperature: best_mixture(log_p_base, log_p_at(temperature)))


def tuned(component: Component, loss: Loss, search: dict, step: int = GRID_STEP) -> Component:
    """Return the component with the τ that minimises `loss`.

    `search` is the config's section `temperature`: the range from `low` to `high`, and its `grid`, of which the search
    begins with every `step`-th point.
    """
    grid, low, high = search["grid"][::step], search["low"], search["high"]
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
    geometrically within [low, high]. It ends between the best point's neighbours in log τ (bounded Brent), at about
    1e-3 relative.
    """
    from scipy.optimize import minimize_scalar  # takes as long as a third of torch, and most hypotheses tune nothing

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
    bounds = np.log(ordered[place - 1]), np.log(ordered[place + 1])
    found = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=bounds, options={"xatol": TOLERANCE})
    return (float(np.exp(found.x)), "optimum") if found.fun <= tried[best] else (best, "optimum")
