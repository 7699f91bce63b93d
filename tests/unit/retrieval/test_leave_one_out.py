import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.components.catalogue import BASE
from knnlm.components.columns import save_components
from knnlm.datastore.index import fill_index, save_index, train_index
from knnlm.datastore.store import Chunk
from knnlm.hypotheses.inputs import Inputs, Stored
from knnlm.hypotheses.soft_labels import write_neighbours
from knnlm.retrieval.approximate import training_neighbours, without_own
from knnlm.running.devices import Job
from knnlm.steps.training_neighbours import main as chunk_step
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import read_manifest, verified, write_manifest

ROWS, WIDTH, K = 60, 6, 7


def keys_and_ids():
    generator = np.random.default_rng(3)
    keys = generator.normal(size=(ROWS, WIDTH)).astype(np.float32)
    keys[1::2] = keys[::2]  # every key stands in the store twice: the row itself is often not the first that is found
    return keys, generator.permutation(1000)[:ROWS]


def brute_force(keys, ids, metric):
    q = keys.astype(np.float64)
    similarities = q @ q.T if metric == "ip" else -((q[:, None] - q[None]) ** 2).sum(2)
    np.fill_diagonal(similarities, -np.inf)
    return np.sort(similarities, axis=1)[:, ::-1][:, :K], similarities


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_all_rows_but_the_own_one(metric, dtype, monkeypatch):
    monkeypatch.setattr("knnlm.retrieval.approximate.QUERIES_AT_ONCE", 11)  # the last block is short
    keys, own = keys_and_ids()
    keys = keys.astype(dtype)
    index = faiss.IndexIDMap(faiss.IndexFlatL2(WIDTH) if metric == "l2" else faiss.IndexFlatIP(WIDTH))
    index.add_with_ids(keys.astype(np.float32), own)
    ids, similarities = training_neighbours(keys, own, index, K, metric)
    assert (ids.dtype, similarities.dtype, ids.shape) == (np.int32, np.float32, (ROWS, K))
    assert not (ids == own[:, None]).any()
    best, matrix = brute_force(keys, own, metric)
    assert np.allclose(similarities, best, atol=1e-4)
    column = {row_id: place for place, row_id in enumerate(own.tolist())}
    places = np.vectorize(column.get)(ids)
    assert np.allclose(np.take_along_axis(matrix, places, axis=1), similarities, atol=1e-4)


def test_fewer_rows_than_asked_for():
    keys, own = keys_and_ids()
    index = faiss.IndexIDMap(faiss.IndexFlatL2(WIDTH))
    index.add_with_ids(keys[:3], own[:3])
    ids, similarities = training_neighbours(keys[:3], own[:3], index, K, "l2")
    assert ((ids >= 0).sum(axis=1) == 2).all()
    assert np.isneginf(similarities[ids < 0]).all()
    assert np.isfinite(similarities[ids >= 0]).all()


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=9), st.data())
def test_one_column_goes_and_the_order_stays(ids, data):
    found = np.array(ids)[:, :4]
    own = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(ids), max_size=len(ids))))
    kept = np.take_along_axis(found, without_own(found, own), axis=1)
    expected = [
        [i for i in row if i != mine] if mine in row else list(row[:-1])
        for row, mine in zip(found.tolist(), own.tolist(), strict=True)
    ]
    assert kept.tolist() == expected


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_neighbours_stand_by_position_and_leave_it_out(tmp_path, metric):
    """An index that is exact and a shuffled store of two chunks, against brute force over the text."""
    generator, rows, width, temperature = np.random.default_rng(6), 70, 4, 2.5
    states, tokens = (
        generator.normal(size=(rows, width)).astype(np.float16),
        generator.integers(4, 24, rows).astype(np.int32),
    )
    states[40] = states[7] * np.float16(1.01)  # almost a repetition: the other one is the nearest of each
    trained = train_index("IVF1,Flat", metric, states.astype(np.float32), 1)
    save_index(trained, tmp_path / "trained.faiss")
    of_all = {"h": "att", "metric": metric, "checkpoint": "abc"}
    write_manifest(tmp_path / "trained.json", [tmp_path / "trained.faiss"], kind="trained index", width=width, **of_all)
    of_all |= {"kind": "filled index", "trained": verified(tmp_path / "trained.faiss")}
    manifests, filled = [], []
    for number, (first, end) in enumerate([(0, 30), (30, rows)]):
        folder, order = tmp_path / f"chunk-{number}", first + generator.permutation(end - first)
        for name, array in (("att", states[order]), ("values", tokens[order]), ("positions", order)):
            save_array(folder / f"{name}.npy", array)
        facts = {
            "rows": end - first,
            "width": width,
            "first_position": first,
            "corpus_tokens": rows,
            "chunk": number,
            "chunks": 2,
        }
        files = sorted(folder.glob("*.npy"))
        write_manifest(folder / "manifest.json", files, kind="datastore chunk", checkpoint="abc", **facts)
        fill_index(index := faiss.clone_index(trained), [Chunk(folder, end - first, width, first)], "att")
        save_index(index, tmp_path / f"chunk-{number}.faiss")
        chunk = read_manifest(folder / "manifest.json")["sha256"]
        manifests.append(folder / "manifest.json")
        filled.append(tmp_path / f"chunk-{number}.faiss")
        write_manifest(filled[-1].with_suffix(".json"), filled[-1:], first_position=first, chunk=chunk, **of_all)
    given = {
        "hypothesis": "x",
        "seed": 1,
        "main": {"h": "att", "metric": metric},
        "temperature": {},
        "retrieval": {},
        "settings": {"k": K},
    }
    given["index"] = {"nprobe": 1}
    save_components(tmp_path / "base.json", [BASE], {}, "abc")
    stored = {
        "chunks": manifests,
        "base": tmp_path / "base.json",
        "trained": tmp_path / "trained.faiss",
        "filled": filled,
    }
    for number in range(2):
        chunk_step(given | {"chunk": number}, Job(), neighbours=tmp_path / f"neighbours-{number}", **stored)
    found = [tmp_path / f"neighbours-{number}/manifest.json" for number in range(2)]
    inputs = Inputs(**given, stored=Stored(training_neighbours=found, **stored))
    files = {name: tmp_path / f"{name}.npy" for name in ("values", "weights")}
    write_neighbours(inputs, temperature, files)

    values, weights = (np.load(path)[0] for path in files.values())
    wide = states.astype(np.float64)
    similarities = wide @ wide.T if metric == "ip" else -((wide[:, None] - wide[None]) ** 2).sum(2)
    np.fill_diagonal(similarities, -np.inf)
    for position in range(rows):
        nearest = np.argsort(-similarities[position])[:K]
        p = np.exp((similarities[position, nearest] - similarities[position, nearest[0]]) / temperature)
        assert values[position].tolist() == tokens[nearest].tolist()
        assert np.allclose(weights[position], p / p.sum(), atol=2e-3)
