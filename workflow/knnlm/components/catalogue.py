"""What a component is, and the list of the kNN components that a config asks for.

A component is a named column of log-probabilities of the gold token. This module runs whenever the workflow is read, so
it imports nothing heavy.
"""

from dataclasses import dataclass, replace
from itertools import product

VARIANTS = {
    "approximate-faiss": ("faiss", "faiss"),
    "approximate-real": ("faiss", "real"),
    "exact-real": ("real", "real"),
}
SEARCHES = {"approximate": ("approximate-faiss", "approximate-real"), "exact": ("exact-real",)}
UNTUNED_TEMPERATURE = 1.0
# Families whose components hold the kNN's own vote, in whatever variant: they cannot explain what it adds.
OF_NEIGHBOURS = {"knn", "approximate_search", "neighbour_counts", "padding", "ensembling", "stolen_probabilities"}
MOST_MISSING = 0.01  # of a component's neighbours: above it, a warning
GRID_STEP = 3  # the search for the best temperature begins with every third of the grid; figures show all of it


@dataclass(frozen=True)
class Component:
    """One component; its fields stand in the tables under the same names.

    `temperature` is None until it has been tuned on valid. `rows` counts the vectors that a query is compared with (the
    paper's N_ds), `missing` is the share of its neighbours that the search did not find. A component of a hypothesis
    carries the hypothesis's name, and, where the hypothesis has curves, its curve (`series`) and its place on it (`x`).
    """

    component: str
    family: str
    h: str | None = None
    metric: str | None = None
    mask: str | None = None
    score: str | None = None
    temperature: float | None = None
    temperature_status: str | None = None
    fraction: float | None = None
    k: int | None = None
    added_parameters: int = 0
    rows: int | None = None
    missing: float | None = None
    hypothesis: str | None = None
    series: str | None = None
    x: float | None = None

    def tuned(self, temperature: float, status: str) -> "Component":
        """Return the component with its temperature and how it was found (`fixed`, `optimum` or `edge`)."""
        return replace(self, temperature=temperature, temperature_status=status)


BASE = Component("base", "lm")


def may_explain(component: str, family: str) -> bool:
    """Return whether a component could explain the kNN's gain: neither the base LM nor a variant of the kNN is one."""
    return component != BASE.component and family not in OF_NEIGHBOURS


def missing_line(component: Component) -> str | None:
    """Say how many of a component's neighbours are missing, and what to do; None where they are few or it has none."""
    if not (component.missing or 0) > MOST_MISSING:
        return None
    found = f"{component.missing:.1%} of the neighbours are missing, as the lists that are visited hold too few rows"
    return f"{component.component}: {found}; raise index.nprobe or lower retrieval.k"


def main_name(main: dict, variant: str = "exact-real") -> str:
    """Return the name of the main result's tuned component over the whole store; the exact one is every reference."""
    return f"knn-{main['h']}-{main['metric']}-{variant}"


def resolved_name(name: str, main: dict) -> str:
    """Return a component's name with its braces filled.

    {main}, {approximate} and {approximate-real} are the main component as each search finds and scores it, {l2} and
    {ip} the exact one with this metric.
    """
    names = {"main": main_name(main), "approximate": main_name(main, "approximate-faiss")}
    names["approximate-real"] = main_name(main, "approximate-real")
    names |= {metric: main_name(main | {"metric": metric}) for metric in ("l2", "ip")}
    for word, meant in names.items():
        name = name.replace(f"{{{word}}}", meant)
    return name


def searched_fractions(settings: dict, h: str, metric: str) -> list[float]:
    """Return the fractions of the store that are searched: all for the main h and metric, else the full store alone."""
    is_main = settings["main"] == {"h": h, "metric": metric}
    return list(settings["fractions"]) if is_main else [1.0]


def real_score_fractions(settings: dict, h: str, metric: str) -> list[float]:
    """Return the fractions at which FAISS's neighbours also get real scores: the smallest and the largest."""
    fractions = searched_fractions(settings, h, metric)
    return sorted({fractions[0], fractions[-1]})


def knn_components(settings: dict, h: str, metric: str, search: str) -> list[Component]:
    """List the kNN components of one retrieval: each score and fraction, tuned; on the full store also untuned.

    `settings` holds the config sections retrieval, main and fractions.
    """
    found, k = [], settings["retrieval"]["k"]
    for variant in SEARCHES[search]:
        mask, score = VARIANTS[variant]
        rescored = mask == "faiss" and score == "real"
        for fraction in (real_score_fractions if rescored else searched_fractions)(settings, h, metric):
            name = main_name({"h": h, "metric": metric}, variant) + ("" if fraction == 1.0 else f"-f{fraction:g}")
            tuned = Component(name, "knn", h, metric, mask, score, fraction=fraction, k=k)
            found.append(tuned)
            if fraction == 1.0:
                found.append(replace(tuned.tuned(UNTUNED_TEMPERATURE, "fixed"), component=f"{name}-untuned"))
    return found


def retrievals(settings: dict) -> list[tuple[str, str, str]]:
    """List the retrievals (h, metric, search) that a config asks for."""
    return list(product(settings["retrieval"]["h"], settings["retrieval"]["metrics"], SEARCHES))
