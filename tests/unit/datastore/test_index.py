"""FAISS indexes: trained, filled in chunks, joined by fraction, written and read back."""

import functools
import resource
from pathlib import Path

import faiss
import numpy as np
import pytest
from stores import known

from knnlm.datastore.index import METRICS, fill_index, join_indexes, load_index, save_index, train_index
from knnlm.datastore.store import Chunk
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import save_array

WIDTH, SIZES = 16, (700, 500)
KEYS = np.random.default_rng(3).standard_normal((sum(SIZES), WIDTH)).astype(np.float16)
FACTORIES = ("IVF4,PQ4", "IVF4,Flat", "IVF256,PQ4")


@pytest.fixture
def chunks(tmp_path):
    made, first = [], 0
    for number, rows in enumerate(SIZES):
        folder = tmp_path / f"chunk-{number}"
        folder.mkdir()
        save_array(folder / "att.npy", KEYS[first : first + rows])
        known(folder / "att.npy")
        made.append(Chunk(folder, rows, WIDTH, first))
        first += rows
    return tuple(made)


@functools.cache
def trained_index(factory="IVF4,PQ4", metric="l2"):
    return train_index(factory, metric, KEYS.astype(np.float32), seed=1)


def filled_indexes(trained, chunks, folder, metric="l2"):
    """Fill one copy a chunk, and take each through its file as the pipeline does."""
    for chunk in chunks:
        index = faiss.clone_index(trained)
        fill_index(index, [chunk], "att")
        save_index(index, folder / f"{chunk.folder.name}.faiss")
        known(folder / f"{chunk.folder.name}.faiss")
    return [load_index(folder / f"{chunk.folder.name}.faiss", metric, WIDTH, chunk.rows) for chunk in chunks]


def lists_of(index):
    """Return {id: (list, code)} of all rows."""
    found = {}
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size).reshape(size, -1)
            found |= {int(row): (number, code.tobytes()) for row, code in zip(ids, codes, strict=True)}
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_training_depends_on_the_seed_alone(metric):
    sample = KEYS.astype(np.float32)
    first, same, other = (train_index("IVF4,PQ2", metric, sample, seed) for seed in (1, 1, 2))
    assert first.metric_type == METRICS[metric]
    assert first.ntotal == 0
    for centroids in (
        lambda index: index.quantizer.reconstruct_n(0, 4),
        lambda index: faiss.vector_to_array(index.pq.centroids),
    ):
        assert np.array_equal(centroids(first), centroids(same))
        assert not np.array_equal(centroids(first), centroids(other))


def test_polysemous_training_changes_no_result():
    """It permutes the codewords; the rows and the similarities that a search finds are those of FAISS's own default."""
    default = faiss.index_factory(WIDTH, "IVF4,PQ1")
    default.cp.seed = default.pq.cp.seed = 1
    ours = faiss.clone_index(trained_index("IVF4,PQ1"))
    default.train(KEYS.astype(np.float32))
    results = []
    for index in (default, ours):
        index.add(KEYS.astype(np.float32))
        index.nprobe = 4
        results.append(index.search(KEYS[:50].astype(np.float32), 20)[0])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("block", [131072, 64])
def test_joined_chunks_are_one_index_filled_at_once(factory, block, chunks, tmp_path, monkeypatch):
    monkeypatch.setattr("knnlm.datastore.index.ROWS_AT_ONCE", block)
    trained = trained_index(factory)
    whole = faiss.clone_index(trained)
    whole.add(KEYS.astype(np.float32))
    joined = join_indexes(trained, filled_indexes(trained, chunks, tmp_path), chunks, 0.0, 1.0, tmp_path)
    assert joined.ntotal == len(KEYS)
    assert trained.ntotal == 0
    assert lists_of(joined) == lists_of(whole)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (0.3, 0.7), (0.7, 1.0), (0.5, 0.5)])
def test_joined_band_holds_its_share_of_every_chunk(low, high, chunks, tmp_path):
    trained = trained_index()
    joined = join_indexes(trained, filled_indexes(trained, chunks, tmp_path), chunks, low, high, tmp_path)
    expected = [
        first + row
        for first, size in zip((0, SIZES[0]), SIZES, strict=True)
        for row in range(round(low * size), round(high * size))
    ]
    assert sorted(lists_of(joined)) == expected


def test_joined_lists_are_in_a_file_without_a_name(chunks, tmp_path):
    folder = tmp_path / "joined"
    folder.mkdir()
    trained = trained_index()
    joined = join_indexes(trained, filled_indexes(trained, chunks, tmp_path), chunks, 0.0, 1.0, folder)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    assert len(mapped) == 1
    assert mapped[0].endswith("(deleted)")
    assert list(folder.iterdir()) == []
    del joined
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_no_room_for_joined_lists_names_the_folder(chunks, tmp_path):
    trained = trained_index()
    filled = filled_indexes(trained, chunks, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            join_indexes(trained, filled, chunks, 0.0, 1.0, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(tmp_path)


def test_lists_of_a_filled_index_stay_on_disk(chunks, tmp_path):
    filled = filled_indexes(trained_index(), chunks, tmp_path)
    assert all(isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists) for index in filled)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"metric": "ip"}, "metric is 1, but 0"),
        ({"width": 8}, "dimension is 16, but 8"),
        ({"rows": 499}, "rows is 500, but 499"),
    ],
)
def test_another_index_is_refused_by_name(wrong, named, chunks, tmp_path):
    filled_indexes(trained_index(), chunks, tmp_path)
    with pytest.raises(KnnlmError, match=f"chunk-1.faiss: {named}"):
        load_index(tmp_path / "chunk-1.faiss", **({"metric": "l2", "width": WIDTH, "rows": 500} | wrong))


@pytest.mark.parametrize("rows", [0, 500])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:300],
        lambda content: content[:300] + bytes([content[300] ^ 4]) + content[301:],
        lambda content: b"garbage",
        lambda content: b"",
    ],
)
def test_damaged_file_is_refused_by_name(damage, rows, chunks, tmp_path):
    filled_indexes(trained_index(), chunks, tmp_path)
    path = tmp_path / "chunk-1.faiss"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(KnnlmError, match=r"chunk-1\.faiss: not as it was when .*chunk-1\.json was written"):
        load_index(path, "l2", WIDTH, rows)


def test_another_kind_of_file_is_refused_by_name(tmp_path):
    save_array(tmp_path / "array.faiss", KEYS)
    known(tmp_path / "array.faiss")
    with pytest.raises(KnnlmError, match=r"array\.faiss: not a readable FAISS index"):
        load_index(tmp_path / "array.faiss", "l2", WIDTH, 5)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(KnnlmError, match=r"absent\.faiss"):
        load_index(tmp_path / "absent.faiss", "l2", WIDTH, 5)


def test_an_index_that_has_rows_is_not_filled_again(chunks):
    index = faiss.clone_index(trained_index())
    fill_index(index, chunks, "att")
    assert sorted(lists_of(index)) == list(range(len(KEYS)))
    with pytest.raises(ValueError, match=f"{len(KEYS)} rows already"):
        fill_index(index, chunks[:1], "att")
