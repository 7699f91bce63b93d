"""Tables as pictures are drawn from, made up: of components, verdicts, helped tokens and kinds of index."""

import numpy as np
import pandas as pd

from knnlm.analysis.verdicts import VERDICT_COLUMNS

MAIN = {"h": "att", "metric": "l2"}
BASE = {"valid": 104.25, "test": 99.75}
REFERENCE = "knn-att-l2-exact-real"
QUESTION = (
    "Does the kNN-LM help because of the many output vectors of each word type, so that more embeddings in the softmax "
    "give the same gain as it?"
)
ABOUT = {"name": "wide", "question": QUESTION, "x_label": "embeddings per word type"}
ABOUT |= {"against": None, "candidates": None}
RULE = {"explains": 0.5, "margin": 0.02}
WIDTHS = (1, 2, 4, 8, 64)


def rows_of(name, better, hypothesis=None, **known):
    """Both rows of a component; on test it gains 0.1 less."""
    made = []
    for split, base in BASE.items():
        gain = better - 0.1 * (split == "test")
        facts = {
            "component": name,
            "split": split,
            "hypothesis": hypothesis,
            "series": None,
            "x": np.nan,
            "added_parameters": 0,
            "ppl": base - gain,
        }
        made.append(facts | {"gain": gain, "gain_low": gain - 0.5, "gain_high": gain + 0.75} | known)
    return made


def components_table() -> pd.DataFrame:
    rows = [
        row | {"ppl": BASE[row["split"]], "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0} for row in rows_of("base", 0)
    ]
    rows += rows_of(REFERENCE, 8)
    for series in ("att", "ffn"):
        for n in WIDTHS:
            rows += rows_of(
                f"wide-{series}-{n}",
                np.log(n) + (series == "att"),
                "wide",
                series=series,
                x=float(n),
                added_parameters=1000 * n,
            )
    rows += rows_of("wide-plain", 0.5, "wide")
    for number in range(34):
        rows += rows_of(f"many-variant-{number}", np.sin(number), "many", added_parameters=10**6 + number)
    return pd.DataFrame(rows)


def verdicts_table() -> pd.DataFrame:
    unknown = (np.nan,) * 3
    shares = [  # reaches, removes
        ((0.6, 0.4, 0.8), (0.7, 0.6, 0.8), "explains"),
        ((0.1, -0.2, 0.2), (0.0, -0.01, 0.01), "does nothing"),
        ((0.3, 0.1, 9.0), unknown, "better"),
        (unknown, unknown, "inconclusive"),
    ]
    columns = [f"{name}{end}" for name in ("reaches", "removes") for end in ("", "_low", "_high")]
    rows = []
    for n, (reaches, removes, verdict) in enumerate(shares):
        known = {"hypothesis": f"h{n}", "question": QUESTION if n else "Why?", "paper": ("supported", "silent")[n % 2]}
        known |= {"agrees": "no", "verdict": verdict} | dict(zip(columns, (*reaches, *removes), strict=True))
        rows.append(known)
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def shares_table() -> pd.DataFrame:
    """Three components that no question chose, one of them a kNN; two that questions chose; a second seed's LM."""
    known = [
        ("plain", "new", 0.5, 0.1, None),
        (REFERENCE, "knn", 1.0, 1.0, None),
        ("far", "new", 9.0, -9.0, None),
        ("wide-att-1", "new", 0.8, 0.3, "wide"),
        ("many-variant-1", "new", 0.2, 0.15, "many, more"),
        ("second-seed-lm", "lm", 0.9, 0.4, "second-seed"),
    ]
    rows = pd.DataFrame(known, columns=["component", "family", "reaches", "removes", "answers"])
    rows["hypothesis"] = rows["answers"].str.partition(",")[0]
    for name, reach in (("reaches", 0.1), ("removes", 0.05)):
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - reach, rows[name] + reach
    return rows


def remaining_table() -> pd.DataFrame:
    names, left = ["base", "first", "second"], np.array([1.0, 0.4, 0.25])
    rows = pd.DataFrame({"step": range(3), "component": names, "remaining": left})
    return rows.assign(remaining_low=[1.0, 0.3, 0.2], remaining_high=[1.0, 0.5, 0.35])


def helped_table() -> pd.DataFrame:
    rows = []
    for name, bins in (
        ("training frequency", 5),
        ("place in the word", 2),
        ("tokens into the document", 6),
        ("entropy of successors (nats)", 4),
    ):
        tokens, gain = np.arange(1, bins + 1) * 100, np.linspace(-0.3, 1, bins)
        parts = zip(tokens, np.linspace(0.2, 0.8, bins), gain, gain * tokens / (gain * tokens).sum(), strict=True)
        rows += [
            {"property": name, "bin": f"{n}–{n + 9}", "tokens": t, "helped": h, "gain": g, "share_of_gain": s}
            for n, (t, h, g, s) in enumerate(parts)
        ]
    return pd.DataFrame(rows)


def kinds_table() -> pd.DataFrame:
    found = {"index": ["IVF8,PQ4", "IVF8,Flat"], "recall": [0.5, 0.9], "bytes_a_row": [12, 520]}
    found |= {"queries_a_second": [np.nan, 1000.0], "ppl": [95.0, 93.5], "split": "test"}
    return pd.DataFrame(found)
