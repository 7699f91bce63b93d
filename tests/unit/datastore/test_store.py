"""The datastore's order, prefixes and checks, on chunks that are written for real."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from knnlm.datastore.shuffle import prefix_rows, shuffled_order
from knnlm.datastore.store import mean_squared_norms, open_datastore, read_squared_norms
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

WIDTH = 4


def write_chunks(folder, sizes=(30, 20, 11), **changes):
    """Write chunks whose arrays tell a row's place in the text; `changes` go to the last manifest."""
    manifests, first = [], 0
    for number, rows in enumerate(sizes):
        place = first + shuffled_order(rows, 1, number)
        chunk = folder / f"chunk-{number}"
        chunk.mkdir(parents=True)
        for h, sign in (("att", 1), ("ffn", -1)):
            save_array(chunk / f"{h}.npy", (sign * place[:, None] * np.ones(WIDTH)).astype(np.float16))
        save_array(chunk / "values.npy", place.astype(np.int32))
        facts = {"chunk": number, "chunks": len(sizes), "rows": rows, "width": WIDTH, "first_position": first}
        facts |= {"checkpoint": "abc", "corpus_tokens": sum(sizes)} | (changes if number == len(sizes) - 1 else {})
        write_manifest(chunk / "manifest.json", sorted(chunk.glob("*.npy")), kind="datastore chunk", **facts)
        manifests.append(chunk / "manifest.json")
        first += rows
    return manifests


@given(st.integers(0, 2000), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_order_is_a_permutation_that_seed_and_chunk_determine(rows, seed, chunk):
    order = shuffled_order(rows, seed, chunk)
    assert np.array_equal(np.sort(order), np.arange(rows))
    assert np.array_equal(order, shuffled_order(rows, seed, chunk))


def test_order_differs_between_seeds_and_chunks():
    orders = [shuffled_order(1000, seed, chunk) for seed, chunk in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({order.tobytes() for order in orders}) == 4


def test_prefix_is_a_uniform_sample_of_the_text():
    """Of 200 orders, the first tenth falls into each tenth of the text equally often (chi-squared test)."""
    tenths = np.concatenate([shuffled_order(1000, seed, 3)[: prefix_rows(0.1, 1000)] // 100 for seed in range(200)])
    assert stats.chisquare(np.bincount(tenths, minlength=10)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("fraction", "rows", "prefix"),
    [(0.3, 10, 3), (0.7, 10, 7), (0.29, 100, 29), (1.0, 7, 7), (0.05, 19, 0), (0.5, 7, 3), (0.6, 5, 3)],
)
def test_prefix_rows_by_hand(fraction, rows, prefix):
    assert prefix_rows(fraction, rows) == prefix


def test_store_has_all_rows_by_global_id(tmp_path):
    store = open_datastore(write_chunks(tmp_path)[::-1])
    assert (store.rows, store.width, store.checkpoint) == (61, WIDTH, "abc")
    values = store.all_values()
    assert np.array_equal(np.sort(values), np.arange(61))
    for chunk in store.chunks:
        stretch = slice(chunk.first_position, chunk.first_position + chunk.rows)
        assert np.array_equal(chunk.keys_of("att")[:, 0], values[stretch])
        assert np.array_equal(chunk.keys_of("ffn")[:, 0], -values[stretch])
        assert set(values[stretch]) == set(range(stretch.start, stretch.stop))


@pytest.mark.parametrize(
    ("rows", "prefixes"), [(61, (30, 20, 11)), (1000, (30, 20, 11)), (31, (15, 10, 5)), (13, (6, 4, 2))]
)
def test_sample_is_the_same_prefix_of_each_chunk(tmp_path, rows, prefixes):
    store = open_datastore(write_chunks(tmp_path))
    expected = np.concatenate(
        [np.load(chunk.folder / "ffn.npy")[:prefix] for chunk, prefix in zip(store.chunks, prefixes, strict=True)]
    )
    sample = store.sample("ffn", rows)
    assert sample.dtype == np.float32
    assert np.array_equal(sample, expected)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("checkpoint", "another"),
        ("corpus_tokens", 62),
        ("chunks", 4),
        ("width", 8),
        ("first_position", 49),
        ("chunk", 3),
    ],
)
def test_chunk_of_another_store_is_refused_by_name(tmp_path, fact, value):
    with pytest.raises(KnnlmError, match=r"chunk-2/manifest\.json"):
        open_datastore(write_chunks(tmp_path, **{fact: value}))


def test_wrong_number_of_rows_is_refused_by_name(tmp_path):
    with pytest.raises(KnnlmError, match=f"{tmp_path}: holds 60 rows for 61"):
        open_datastore(write_chunks(tmp_path, rows=10))


@pytest.mark.parametrize(
    ("missing", "named"), [(0, "chunk-1/manifest.json"), (1, "chunk-2/manifest.json"), (2, "holds 50 rows for 61")]
)
def test_missing_chunk_is_refused(tmp_path, missing, named):
    manifests = write_chunks(tmp_path)
    del manifests[missing]
    with pytest.raises(KnnlmError, match=named):
        open_datastore(manifests)


def test_manifest_that_is_not_there_is_named(tmp_path):
    manifests = write_chunks(tmp_path)
    manifests[1].unlink()
    with pytest.raises(KnnlmError, match=r"chunk-1/manifest\.json: the manifest is missing"):
        open_datastore(manifests)


def test_keys_of_the_wrong_size_are_refused_by_name(tmp_path):
    store = open_datastore(write_chunks(tmp_path))
    save_array(tmp_path / "chunk-1" / "att.npy", np.zeros((19, WIDTH), np.float16))
    with pytest.raises(KnnlmError, match=r"chunk-1/att\.npy"):
        store.chunks[1].keys_of("att")


def test_squared_norms_are_those_of_a_sample_and_weigh_chunks_by_their_rows(tmp_path):
    random = np.random.default_rng(3)
    keys = {
        h: (scale * random.standard_normal((30_000, 8))).astype(np.float16) for h, scale in (("att", 3), ("ffn", 5))
    }
    found = mean_squared_norms(keys, random.permutation(30_000))
    assert found == pytest.approx({"att": 9 * 8, "ffn": 25 * 8}, rel=0.02)
    whole = mean_squared_norms({"att": keys["att"][:500]}, np.arange(500))
    assert whole["att"] == pytest.approx((keys["att"][:500].astype(np.float64) ** 2).sum(1).mean())
    of_last = {"squared_norms": {"att": 5.0, "ffn": 7.0}}
    manifests = write_chunks(tmp_path, (30, 10), **of_last)
    with pytest.raises(KnnlmError, match=r"chunk-0/manifest\.json: has no norms of its keys; delete the datastore"):
        read_squared_norms(manifests)
    assert read_squared_norms(manifests[1:]) == {"att": 5.0, "ffn": 7.0}
    more = tmp_path / "more.json"
    write_manifest(more, kind="datastore chunk", rows=30, squared_norms={"att": 9.0, "ffn": 7.0})
    assert read_squared_norms([manifests[1], more]) == {"att": 8.0, "ffn": 7.0}
