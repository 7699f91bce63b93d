"""Turn stored neighbours into components: τ tuned on valid, log p_kNN of every token, and perplexity against τ."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.components.catalogue import (
    BASE,
    GRID_STEP,
    Component,
    knn_components,
    real_score_fractions,
    searched_fractions,
)
from knnlm.components.columns import checkpoint_of, find_component, save_components
from knnlm.components.interpolation import count_words, interpolate, perplexity
from knnlm.components.knn import knn_scorer
from knnlm.components.temperature import CURVE_COLUMNS, Loss, mixed_loss, tuned
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.shuffle import prefix_rows
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.running.progress import progress
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import check_same_model, read_manifest
from knnlm.storage.tables import write_table


def main(
    settings: dict,
    neighbours: Path,
    chunks: Sequence[Path],
    tokens: Sequence[Path],
    continuation: Path,
    base: Path,
    descriptions: Path,
    curves: Path,
) -> None:
    """Write every component of one retrieval, and the τ curves of the smallest and of the largest store."""
    store, search, fractions = open_datastore(chunks), settings["temperature"], settings["fractions"]
    check_same_model(base, checkpoint_of(base), store.manifest, store.checkpoint)
    of_search = {key: settings[key] for key in ("h", "metric", "search")}
    manifest = read_neighbours(neighbours, settings, of_search, store)
    gold = {split: np.asarray(load_array(path, dtype="int32")) for split, path in zip(EVALUATED, tokens, strict=True)}
    sizes = {split: len(of_split) for split, of_split in gold.items()}
    _, log_p_base = find_component([base], BASE.component, sizes, store.checkpoint)
    values, continues = store.all_values(), load_array(continuation, dtype="bool")
    words = {split: count_words(of_split, continues) for split, of_split in gold.items()}
    done, rows, log_p = [], [], {split: [] for split in EVALUATED}
    for component in progress(knn_components(settings, **of_search), f"components {' '.join(of_search.values())}"):
        score = knn_scorer(load_scores(neighbours, manifest, component, sizes), values, gold)
        component = replace(component, rows=sum(prefix_rows(component.fraction, chunk.rows) for chunk in store.chunks))
        if component.temperature is None:
            loss = mixed_loss(partial(score, "valid"), log_p_base["valid"])
            is_end = component.fraction in (fractions[0], fractions[-1])
            component = tuned(component, loss, search, step=1 if is_end else GRID_STEP)
            if is_end:
                rows += temperature_curve(component, loss, partial(score, "test"), log_p_base, words, search["grid"])
        done.append(component)
        for split in EVALUATED:
            log_p[split].append(score(split, component.temperature))
    write_table(curves, pd.DataFrame(rows, columns=CURVE_COLUMNS))
    save_components(descriptions, done, log_p, store.checkpoint, more_files=[curves])


def read_neighbours(folder: Path, settings: dict, of_search: dict, store: Datastore) -> dict:
    """Read what is known of the neighbours; refuses, by name, those of another store or retrieval."""
    pair = of_search["h"], of_search["metric"]
    rescored = real_score_fractions(settings, *pair) if of_search["search"] == "approximate" else []
    parts = {"fractions": searched_fractions(settings, *pair), "real_score_fractions": rescored}
    of_store = {"checkpoint": store.checkpoint, "store": store.identity}
    return read_manifest(
        folder / "manifest.json", kind="neighbours", **of_search, k=settings["retrieval"]["k"], **parts, **of_store
    )


def load_scores(
    folder: Path, manifest: dict, component: Component, sizes: dict[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return ids, int32 (n, k), and similarities, float32 (n, k), of one component for each split of n tokens."""
    scores, slabs = "similarities", manifest["fractions"]
    if (component.mask, component.score) == ("faiss", "real"):
        scores, slabs = "real", manifest["real_score_fractions"]
    place, slab = manifest["fractions"].index(component.fraction), slabs.index(component.fraction)
    found = {}
    for split, size in sizes.items():
        shape = (None, size, component.k)
        ids = load_array(folder / f"{split}.ids.npy", dtype="int32", shape=shape)[place]
        found[split] = ids, load_array(folder / f"{split}.{scores}.npy", dtype="float32", shape=shape)[slab]
    return found


def temperature_curve(
    component: Component,
    loss: Loss,
    log_p_test: Callable[[float], np.ndarray],
    log_p_base: dict[str, np.ndarray],
    words: dict[str, int],
    grid: list[float],
) -> list[tuple]:
    """Return the rows of CURVE_COLUMNS: word perplexity of both splits at each τ, λ tuned on valid at each."""
    facts = (component.component, component.h, component.metric, component.mask, component.score, component.fraction)
    rows = []
    for temperature in sorted(grid):
        nats, weight = loss(temperature)
        on_valid = float(np.exp(nats * len(log_p_base["valid"]) / words["valid"]))
        on_test = perplexity(interpolate(log_p_base["test"], log_p_test(temperature), weight), words["test"])
        rows += [(*facts, temperature, split, weight, ppl) for split, ppl in (("valid", on_valid), ("test", on_test))]
    return rows
