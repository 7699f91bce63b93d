"""A small run: components with random log-probabilities, for the tests of tables and of the step that makes them."""

from dataclasses import asdict

import numpy as np

from knnlm.analysis.tables import Split, component_table
from knnlm.components.catalogue import Component

CONTINUATION = np.array([False] * 4 + [True] * 3 + [False] * 5)
OFFSETS = {
    "valid": np.array([0, 100, 180, 300, 360, 400]),
    "test": np.array([0, 50, 90, 140, 200, 260, 330, 400, 450, 500]),
}
BLOCK = 100  # words of a resampling unit: each document is one
VARIANTS = [("approximate", "faiss", "faiss"), ("approximate", "faiss", "real"), ("exact", "real", "real")]
FRACTIONS = [0.05, 0.5, 1.0]
REFERENCE = "knn-att-l2-exact-real"


def describe(name, **facts):
    return asdict(Component(name, "lm")) | facts


def descriptions():
    """A base LM, the three main variants at three fractions, tuned and not, and one component of another h."""
    made = [describe("base")]
    for search, mask, score in VARIANTS:
        knn = {"family": "knn", "mask": mask, "score": score, "k": 64, "added_parameters": 0}
        for fraction in FRACTIONS:
            suffix = "" if fraction == 1 else f"-f{fraction:g}"
            name, main = (
                f"knn-att-l2-{search}-{score}{suffix}",
                knn | {"h": "att", "metric": "l2", "fraction": fraction},
            )
            made.append(describe(name, temperature=4.5, temperature_status="optimum", **main))
        made.append(
            describe(f"knn-att-l2-{search}-{score}-untuned", temperature=1.0, temperature_status="fixed", **main)
        )
    other = knn | {"h": "ffn", "metric": "ip", "fraction": 1.0}
    made.append(describe("knn-ffn-ip-exact-real", temperature=100.0, temperature_status="edge", **other))
    padded = main | {
        "family": "padding",
        "hypothesis": "padding",
        "temperature": 4.5,
        "temperature_status": "optimum",
    }  # looks like the main component
    return [
        *made,
        describe("padding-0.1", rows=1100, series="exact", x=10.0, **padded),
        describe("padding-0.2", **padded | {"family": "knn"}),
    ]


def random_run():
    """Random log p of a kNN component: often worse than the base LM, at times much better, some without mass."""
    generator, parts = np.random.default_rng(0), descriptions()
    tokens = {split: generator.integers(2, 12, offsets[-1]).astype(np.int32) for split, offsets in OFFSETS.items()}
    log_p = {}
    for split, offsets in OFFSETS.items():
        base = -generator.exponential(4, offsets[-1])
        log_p["base", split] = base.astype(np.float32)
        for part in parts[1:]:
            component = np.minimum(base + generator.normal(-0.5, 2, offsets[-1]), -1e-3)
            component[generator.random(offsets[-1]) < 0.05] = -np.inf
            log_p[part["component"], split] = component.astype(np.float32)
    splits = [Split.of(split, tokens[split], offsets, CONTINUATION, BLOCK) for split, offsets in OFFSETS.items()]

    def read(component, split):
        return log_p[component, split]

    return parts, log_p, tokens, splits, read, component_table(parts, read, splits, REFERENCE, 0.9)
