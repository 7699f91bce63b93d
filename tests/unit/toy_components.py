"""A few components of one-word documents, so small that what they reach can be worked out by hand."""

from math import exp

import numpy as np
import pandas as pd

from knnlm.analysis.evidence import Evidence, gathered
from knnlm.analysis.intervals import Confidence
from knnlm.analysis.tables import Split
from knnlm.analysis.units import Units
from knnlm.analysis.verdicts import Certainty, verdict_table
from knnlm.components.columns import FACT_COLUMNS

MAIN = {"h": "att", "metric": "l2"}
REFERENCE, APPROXIMATE = "knn-att-l2-exact-real", "knn-att-l2-approximate-faiss"
ENTRY = {"question": "Does it help?", "asks": "difference", "paper": "refuted", "against": None, "candidates": None}
ENTRY |= {"paper_reaches": None, "paper_perplexity": None, "facts": []}
RULE = {"explains": 0.5, "margin": 0.02, "paper_base": 21.7547, "paper_knn": 19.1747}
NO_FACTS = pd.DataFrame(columns=FACT_COLUMNS)
# Perplexity of each of two documents of one word each; of both together it is the geometric mean.
TOY = {"base": (8, 8), REFERENCE: (4, 1), APPROXIMATE: (4, 2), "new-a": (8, 4), "new-b": (4, 2), "other-a": (8, 8)}
VALID = {
    "base": 8,
    REFERENCE: 2,
    APPROXIMATE: 3,
    "new-a": 5,
    "new-b": 6,
    "other-a": 8,
}  # new-a is chosen though new-b is better on test


def toy(documents):
    """Table, reader and split of components used as they are (λ = 1), from perplexities of one-word documents."""
    rows = []
    for name, ppls in documents.items():
        knn = name.startswith("knn")
        known = {
            "component": name,
            "lambda": 1.0,
            "hypothesis": None if knn or name == "base" else name.partition("-")[0],
        }
        known |= {
            "family": "knn" if knn else "lm" if name == "base" else "new",
            "h": None if name == "base" else "att",
            "metric": "l2" if knn else None,
        }
        known |= {
            "rows": 9,
            "added_parameters": 3,
            "ppl_alone": np.inf,
            "oracle": 1.0,
            "agreement": 0.5,
            "helped": 0.25,
            "temperature_status": "optimum",
        }
        known |= {
            "mask": "real" if name == REFERENCE else None,
            "score": "real" if name == REFERENCE else None,
            "fraction": 1.0 if knn else None,
        }
        mean = exp(np.mean(np.log(ppls)))
        first = exp(np.mean(np.log(documents["base"])))
        rows += [
            known | {"split": split, "ppl": ppl, "gain": first - ppl}
            for split, ppl in (("valid", VALID.get(name, mean)), ("test", mean))
        ]
    count = len(documents["base"])
    split = Split("test", np.zeros(count, np.int32), Units(np.arange(count + 1), count, None), np.ones(count))
    return pd.DataFrame(rows), lambda name, _: -np.log(np.array(documents[name], float)), [split]


def evidence(documents=TOY) -> tuple[pd.DataFrame, Evidence]:
    """Return the table of the components, and what was measured of them."""
    components, read, splits = toy(documents)
    return components, gathered(components, read, splits, REFERENCE)


def verdicts(entries, level, documents=TOY, facts=NO_FACTS):
    """Return the table of verdicts on entries that look at these components."""
    components, found = evidence(documents)
    certainty = Certainty(confidence(len(documents["base"]), level), 20_000, 1)
    return verdict_table(entries, components, found, facts, MAIN, RULE, certainty)


def confidence(units: int, level: float) -> Confidence:
    """Return that of units of one size."""
    return Confidence(level, units - 1)
