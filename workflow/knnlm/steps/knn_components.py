"""Turn stored neighbours into components: tune the temperature on valid, write log p_kNN of every token, and the temperature curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from knnlm.components.catalogue import Component, knn_components, real_score_fractions, searched_fractions
from knnlm.components.columns import GRID_STEP, checkpoint_of, load_components, save_components
from knnlm.components.interpolation import count_words, interpolate, optimal_weight, perplexity
from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.components.temperature import tune_temperature
from knnlm.corpus.text import EVALUATED
from knnlm.datastore.store import Datastore, open_datastore, prefix_rows
from knnlm.running.progress import progress
from knnlm.storage.files import check_same_model, load_array, read_manifest
from knnlm.storage.tables import write_table

CURVE_COLUMNS = ["component", "h", "metric", "mask", "score", "fraction", "temperature", "split", "lambda", "ppl"]


@dataclass(frozen=True)
class Text:
    """What a split needs to be scored: gold tokens (n,), log p_LM (n,), and its number of words."""

    gold: np.ndarray
    log_p_base: np.ndarray
    words: int


@dataclass(frozen=True)
class Neighbours:
    """Similarities float32 (n, k) of a split's neighbours and where they have the gold token, bool (n, k)."""

    similarities: np.ndarray
    matches: np.ndarray

    def log_p(self, temperature: float) -> np.ndarray:
        """Return log p_kNN of the gold token at this temperature."""
        return log_p_knn(self.similarities, self.matches, temperature)


def load_texts(tokens: Sequence[Path], continuation: Path, base: Path, store: Datastore) -> dict[str, Text]:
    """Read both splits' tokens and the base LM's log-probabilities of them; refuses those of another LM than the store's."""
    check_same_model(base, checkpoint_of(base), store.manifest, store.checkpoint)
    ends_in_word = load_array(continuation, dtype="bool")
    texts = {}
    for split, tokens_file in zip(EVALUATED, tokens, strict=True):
        gold = np.asarray(load_array(tokens_file, dtype="int32"))
        ((_, log_p_base),) = load_components(base, split, len(gold), store.checkpoint)
        texts[split] = Text(gold, np.asarray(log_p_base), count_words(gold, ends_in_word))
    return texts


def load_manifest(path: Path, settings: dict, store: Datastore) -> dict:
    """Read what is known of the neighbours; refuses those of another store or retrieval."""
    h, metric, search = (settings[key] for key in ("h", "metric", "search"))
    parts = {"fractions": searched_fractions(settings, h, metric)}
    parts["real_score_fractions"] = real_score_fractions(settings, h, metric) if search == "approximate" else []
    of_store = {"checkpoint": store.checkpoint, "store": store.identity}
    return read_manifest(
        path, kind="neighbours", h=h, metric=metric, search=search, k=settings["retrieval"]["k"], **parts, **of_store
    )


def load_neighbours(
    folder: Path, component: Component, texts: dict[str, Text], values: np.ndarray, manifest: dict
) -> dict[str, Neighbours]:
    """Read the neighbours and the scores of one component for both splits."""
    scores, slabs = "similarities", manifest["fractions"]
    if (component.mask, component.score) == ("faiss", "real"):
        scores, slabs = "real", manifest["real_score_fractions"]
    loaded = {}
    for split, text in texts.items():
        shape = (None, len(text.gold), component.k)
        ids = load_array(folder / f"{split}.ids.npy", dtype="int32", shape=shape)[
            manifest["fractions"].index(component.fraction)
        ]
        similarities = load_array(folder / f"{split}.{scores}.npy", dtype="float32", shape=shape)[
            slabs.index(component.fraction)
        ]
        loaded[split] = Neighbours(similarities, gold_matches(ids, values, text.gold))
    return loaded


def valid_loss(neighbours: Neighbours, text: Text) -> Callable[[float], tuple[float, float]]:
    """Return the function of the temperature that gives valid's nats per token at the best λ, and that λ; each is computed once."""

    @cache
    def loss(temperature: float) -> tuple[float, float]:
        log_p = neighbours.log_p(temperature)
        weight = optimal_weight(text.log_p_base, log_p)
        return -float(interpolate(text.log_p_base, log_p, weight).mean()), weight

    return loss


def temperature_curve(
    component: Component, loss: Callable, test: Neighbours, texts: dict[str, Text], grid: list[float]
) -> list[dict]:
    """Return perplexity against temperature for both splits, λ tuned on valid at each temperature."""
    rows, valid = [], texts["valid"]
    facts = [component.component, component.h, component.metric, component.mask, component.score, component.fraction]
    for temperature in sorted(grid):
        nats, weight = loss(temperature)
        ppl = {"valid": float(np.exp(nats * len(valid.gold) / valid.words))}
        ppl["test"] = perplexity(
            interpolate(texts["test"].log_p_base, test.log_p(temperature), weight), texts["test"].words
        )
        rows += [
            dict(zip(CURVE_COLUMNS, [*facts, temperature, split, weight, ppl[split]], strict=True))
            for split in EVALUATED
        ]
    return rows


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
    """Write every component of one retrieval, and the temperature curves of those that are tuned at the ends of the fraction range."""
    store = open_datastore(chunks)
    wanted = {key: settings[key] for key in ("h", "metric", "search")}
    manifest = load_manifest(neighbours / "manifest.json", settings, store)
    texts, values = load_texts(tokens, continuation, base, store), store.all_values()
    ends = {settings["fractions"][0], settings["fractions"][-1]}
    done, rows, log_p = [], [], {split: [] for split in EVALUATED}
    components = knn_components(settings, **wanted)
    for component in progress(components, f"components {settings['h']} {settings['metric']} {settings['search']}"):
        found = load_neighbours(neighbours, component, texts, values, manifest)
        component = replace(component, rows=sum(prefix_rows(component.fraction, chunk.rows) for chunk in store.chunks))
        if component.temperature is None:
            loss, search = valid_loss(found["valid"], texts["valid"]), settings["temperature"]
            is_end = component.fraction in ends
            grid = search["grid"] if is_end else search["grid"][::GRID_STEP]
            component = component.tuned(
                *tune_temperature(
                    lambda temperature, loss=loss: loss(temperature)[0], grid, search["low"], search["high"]
                )
            )
            if is_end:
                rows += temperature_curve(component, loss, found["test"], texts, grid)
        done.append(component)
        for split in EVALUATED:
            log_p[split].append(found[split].log_p(component.temperature))
    write_table(curves, pd.DataFrame(rows, columns=CURVE_COLUMNS))
    save_components(descriptions, done, log_p, store.checkpoint, more_files=[curves])
