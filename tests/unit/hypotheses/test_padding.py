"""The components of a padded store, made from the stored files of a small run."""

import numpy as np
import pytest
from stores import brute_force, true_similarities

from knnlm.components.catalogue import BASE, Component
from knnlm.components.columns import save_components
from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.datastore.store import open_datastore
from knnlm.hypotheses.inputs import Inputs, Stored
from knnlm.hypotheses.padding import components
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

ROWS, WIDTH, K, TEMPERATURE = 60, 4, 8, 3.21
SIZES = {"valid": 20, "test": 15}


@pytest.fixture
def inputs(tmp_path):
    """Return a function of the metric that gives the inputs: keys and queries, and so inner products, are positive."""
    random = np.random.default_rng(2)
    states = {split: (0.1 + random.random((size, WIDTH))).astype(np.float16) for split, size in SIZES.items()}
    gold = {split: random.integers(4, 9, size).astype(np.int32) for split, size in SIZES.items()}
    keys, values = (2 + random.random((ROWS, WIDTH))).astype(np.float16), random.integers(4, 9, ROWS).astype(np.int32)

    def of(metric):
        for name, array in (("att", keys), ("values", values), ("continuation", np.zeros(9, bool))):
            save_array(tmp_path / f"{name}.npy", array)
        whole = {"chunk": 0, "chunks": 1, "rows": ROWS, "first_position": 0, "width": WIDTH, "corpus_tokens": ROWS}
        write_manifest(tmp_path / "chunk.json", kind="datastore chunk", checkpoint="abc", **whole)
        write_manifest(tmp_path / "states.json", kind="evaluation states", checkpoint="abc", width=WIDTH)
        save_components(
            tmp_path / "base.json", [BASE], {split: [np.full(size, -1.0)] for split, size in SIZES.items()}, "abc"
        )
        main = {"h": "att", "metric": metric}
        name = f"knn-att-{metric}-exact-real"
        tuned, log_p = Component(name, "knn", temperature=TEMPERATURE, temperature_status="optimum"), {}
        for split in SIZES:
            ids, similarities = brute_force(true_similarities(states[split], keys, metric), K)
            log_p[split] = [log_p_knn(np.float32(similarities), gold_matches(ids, values, gold[split]), TEMPERATURE)]
            save_array(tmp_path / f"{split}.tokens.npy", gold[split])
            save_array(tmp_path / f"{split}.att.npy", states[split])
            save_array(tmp_path / f"{split}.ids.npy", ids[None])
            save_array(tmp_path / f"{split}.similarities.npy", np.float32(similarities)[None])
        write_manifest(tmp_path / "manifest.json", tmp_path.glob("*.npy"))
        save_components(tmp_path / "knn.json", [tuned], log_p, "abc")
        stored = Stored(
            tokens=[tmp_path / f"{split}.tokens.npy" for split in SIZES],
            continuation=tmp_path / "continuation.npy",
            base=tmp_path / "base.json",
            states=tmp_path / "states.json",
            chunks=[tmp_path / "chunk.json"],
            neighbours=[tmp_path / "exact.json"],
            components=[tmp_path / "knn.json"],
        )
        store = open_datastore(stored.chunks)
        facts = {"search": "exact", "k": K, "checkpoint": "abc", "store": store.identity}
        write_manifest(tmp_path / "exact.json", kind="neighbours", **main, **facts)
        search = {"grid": [0.1, 1.0, 10.0], "low": 0.01, "high": 1e3}
        parts = {"main": main, "retrieval": {"k": K}, "temperature": search, "settings": {"shares": [0.5]}}
        return Inputs("padding", seed=1, family="padding", stored=stored, **parts)

    return of


def test_padding_that_no_query_meets_leaves_the_component_and_its_temperature(inputs):
    given = inputs("ip")
    result = next(components(given))
    assert (result.component.component, result.component.rows) == ("padding-exact-0.5", 2 * ROWS)
    assert result.facts == {"zero_rows": ROWS, "padding_share_of_neighbours": 0, "weight_of_padding": 0}
    assert result.component.temperature == TEMPERATURE
    main = given.stored_component("knn-att-ip-exact-real")
    assert all(np.array_equal(result.log_p[split], main.log_p[split]) for split in SIZES)


def test_padding_that_queries_meet_is_a_component_of_its_own(inputs):
    result = next(components(inputs("l2")))
    assert result.facts["padding_share_of_neighbours"] == 1  # all keys lie farther from the queries than zero does
    assert result.facts["weight_of_padding"] == pytest.approx(1)
    assert result.component.temperature != TEMPERATURE
    assert np.isneginf(result.log_p["test"]).all()
