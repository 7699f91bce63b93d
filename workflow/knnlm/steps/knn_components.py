"""Turn stored neighbours into components: τ tuned on valid, log p_kNN of every token, and perplexity against τ."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.components import catalogue, columns, temperature
from knnlm.components.interpolation import count_words
from knnlm.components.knn import Neighbours, knn_scorer, missing_share
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.store import Datastore, open_datastore
from knnlm.running.progress import progress
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import check_same_model, read_manifest
from knnlm.storage.tables import write_table


def main(
    settings: dict, neighbours: Path, chunks: Sequence[Path], tokens: Sequence[Path], continuation: Path, base: Path,
    descriptions: Path, curves: Path,
) -> None:  # fmt: skip
    """Write every component of one retrieval, and the τ curves of the smallest and of the largest store."""
    store, search, fractions = open_datastore(chunks), settings["temperature"], settings["fractions"]
    of_search = {key: settings[key] for key in ("h", "metric", "search")}
    manifest = read_neighbours(neighbours, settings, of_search, store)
    check_same_model(base, columns.checkpoint_of(base), store.manifest, store.checkpoint)
    gold = {path.stem: np.asarray(load_array(path, dtype="int32")) for path in tokens}
    sizes = {split: len(of_split) for split, of_split in gold.items()}
    _, log_p_base = columns.find_component([base], catalogue.BASE.component, sizes, store.checkpoint)
    values, continues = store.all_values(), load_array(continuation, dtype="bool")
    words = {split: count_words(of_split, continues) for split, of_split in gold.items()}
    done, rows, log_p = [], [], {split: [] for split in EVALUATED}
    wanted = catalogue.knn_components(settings, **of_search)
    for component in progress(wanted, f"components {' '.join(of_search.values())}"):
        is_tuned, is_end = component.temperature is None, component.fraction in (fractions[0], fractions[-1])
        whole_grid = [search["grid"]] if is_end else []
        ahead = {"valid": [temperature.first_tried(search), *whole_grid], "test": whole_grid} if is_tuned else {}
        found = load_scores(neighbours, manifest, component, sizes)
        score, missing = knn_scorer(found, values, gold, "cpu", ahead), missing_share(found)
        component = replace(component, rows=store.rows_below(component.fraction), missing=missing)
        if line := catalogue.missing_line(component):
            print(f"warning: {line}", flush=True)
        if is_tuned:
            loss = temperature.mixed_loss(partial(score, "valid"), log_p_base["valid"])
            component = temperature.tuned(component, loss, search)
            if is_end:
                rows += temperature.curve(component, loss, partial(score, "test"), log_p_base, words, search["grid"])
        done.append(component)
        for split in EVALUATED:
            log_p[split].append(score(split, component.temperature))
    write_table(curves, pd.DataFrame(rows, columns=temperature.CURVE_COLUMNS))
    columns.save_components(descriptions, done, log_p, store.checkpoint, more_files=[curves])


def read_neighbours(folder: Path, settings: dict, of_search: dict, store: Datastore) -> dict:
    """Read what is known of the neighbours; refuses, by name, those of another store or retrieval."""
    pair = settings, of_search["h"], of_search["metric"]
    rescored = catalogue.real_score_fractions(*pair) if of_search["search"] == "approximate" else []
    expected = {"fractions": catalogue.searched_fractions(*pair), "real_score_fractions": rescored}
    expected |= {"k": settings["retrieval"]["k"], "checkpoint": store.checkpoint, "store": store.identity}
    return read_manifest(folder / "manifest.json", kind="neighbours", **of_search, **expected)


def load_scores(folder: Path, known: dict, component: catalogue.Component, sizes: dict[str, int]) -> Neighbours:
    """Return ids, int32 (n, k), and similarities, float32 (n, k), of one component for each split of n tokens."""
    rescored = (component.mask, component.score) == ("faiss", "real")
    scores, slabs = ("real", "real_score_fractions") if rescored else ("similarities", "fractions")
    place, slab = (known[fractions].index(component.fraction) for fractions in ("fractions", slabs))
    found = {}
    for split, size in sizes.items():
        shape = (None, size, component.k)
        ids = load_array(folder / f"{split}.ids.npy", dtype="int32", shape=shape)[place]
        found[split] = ids, load_array(folder / f"{split}.{scores}.npy", dtype="float32", shape=shape)[slab]
    return found
