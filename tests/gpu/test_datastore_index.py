"""Indexes that are trained, filled and searched on a GPU, against the same on the CPU."""

import functools
import time

import faiss
import numpy as np
import pytest
from stores import make_store

from knnlm.datastore.index import METRICS, fill_index, load_index, save_index, train_index
from knnlm.datastore.placing import described, gpu_place, ivf_of, place_for
from knnlm.retrieval.approximate import (
    approximate_search,
    nprobe_search,
    real_similarities,
    recoded_index,
    training_neighbours,
)
from knnlm.storage.manifests import write_manifest

pytestmark = pytest.mark.gpu
ROWS, QUERIES, LISTS, CLUSTERS = 24_000, 300, 64, 200
ON_GPU = [f"IVF{LISTS},{codes}" for codes in ("PQ8", "PQ16", "PQ32", "PQ56", "PQ64", "PQ96", "Flat", "SQfp16")]
ON_GPU += [f"OPQ16_64,IVF{LISTS},PQ16", f"RR64,IVF{LISTS},PQ32", f"IVF{LISTS}_HNSW32,PQ16"]
ON_CPU = [f"IVF{LISTS},PQ128", f"IVF{LISTS},PQ32x4fs", f"RR128,IVF{LISTS},RaBitQ", f"IVF{LISTS},SQ8"]


@functools.cache
def clustered(width):
    """Keys, float16 (ROWS, width), and queries, float32 (QUERIES, width), around the same centres."""
    random = np.random.default_rng(width)
    centres = random.standard_normal((CLUSTERS, width))

    def points(count):
        return centres[random.integers(0, CLUSTERS, count)] + 0.6 * random.standard_normal((count, width))

    return points(ROWS).astype(np.float16), points(QUERIES).astype(np.float32)


def width_for(factory):
    """56 and 96 divide neither 128 nor 1,024."""
    codes = factory.rpartition(",")[2]
    return {"PQ56": 112, "PQ96": 192, "PQ128": 1024, "PQ64": 1024}.get(codes, 128)


@functools.cache
def trained(factory, metric, width):
    began = time.time()
    index = train_index(factory, metric, clustered(width)[0][:8000].astype(np.float32), 1, "cuda")
    print(f"{factory} {metric} width {width}: trained on the GPU in {time.time() - began:.2f} s")
    return index


def lists_of(index):
    """Return {id: (list, code)}, and whether the ids of every list ascend."""
    ivf, found, ascending = ivf_of(index), {}, True
    for number in range(ivf.nlist):
        if size := ivf.invlists.list_size(number):
            ids = faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size).copy()
            codes = faiss.rev_swig_ptr(ivf.invlists.get_codes(number), size * ivf.code_size).reshape(size, -1).copy()
            found |= {int(row): (number, code.tobytes()) for row, code in zip(ids, codes, strict=True)}
            ascending &= bool((np.diff(ids) > 0).all())
    return found, ascending


def kept(snapshots):
    """Copy each snapshot of a search, as the next one overwrites it."""
    return [(fraction, ids.copy(), similarities.copy()) for fraction, ids, similarities in snapshots]


def check_same(found, expected):
    """The similarities agree to 1e-3 of their size, and so do the ids up to rows that are as near as the last."""
    (ids, similarities), (other_ids, other) = found, expected
    there = other_ids >= 0
    assert np.array_equal(ids >= 0, there)
    scale = np.abs(other[there]).max()
    np.testing.assert_allclose(similarities[there], other[there], rtol=1e-3, atol=1e-3 * scale)
    for row, row_scores, other_row in zip(ids, similarities, other_ids, strict=True):
        clear = row_scores > row_scores[-1] + 2e-3 * scale
        assert set(row[clear]) <= set(other_row)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", [*ON_GPU, f"PCA64,IVF{LISTS},PQ32"])
def test_what_a_gpu_fills_and_finds_is_what_the_cpu_does(factory, metric, tmp_path, capsys):
    width = width_for(factory)
    keys, queries = clustered(width)
    store, empty = make_store(tmp_path, keys, 2), trained(factory, metric, width)
    filled, seconds = {}, {}
    for device in ("cpu", "cuda"):
        filled[device], began = [faiss.clone_index(empty) for _ in store.chunks], time.time()
        for index, chunk in zip(filled[device], store.chunks, strict=True):
            fill_index(index, [chunk], "att", device)
        seconds[device] = time.time() - began
    for of_cpu, of_gpu in zip(filled["cpu"], filled["cuda"], strict=True):
        (expected, _), (found, ascending) = lists_of(of_cpu), lists_of(of_gpu)
        assert ascending
        assert of_gpu.ntotal == of_cpu.ntotal
        assert found.keys() == expected.keys()
        assert np.mean([found[row][0] == expected[row][0] for row in expected]) > 0.999
        assert np.mean([found[row] == expected[row] for row in expected]) > 0.9  # a rounded residual has another code
    snapshots = {
        device: kept(approximate_search(queries, store, empty, filled["cpu"], 16, 1024, [0.3, 1.0], device, tmp_path))
        for device in ("cpu", "cuda")
    }
    with capsys.disabled():
        print(f"{factory} {metric} width {width}: filled on the CPU in {seconds['cpu']:.2f} s, on the GPU in "
              f"{seconds['cuda']:.2f} s")  # fmt: skip
    for (fraction, *expected), (other, *found) in zip(snapshots["cpu"], snapshots["cuda"], strict=True):
        assert fraction == other
        check_same(found, expected)
    assert "on the CPU, as" not in capsys.readouterr().out


@pytest.mark.parametrize("factory", ON_CPU)
def test_what_faiss_has_not_on_a_gpu_is_done_on_the_cpu(factory, tmp_path, capsys):
    keys, queries = clustered(width_for(factory))
    store, index = make_store(tmp_path, keys[:3000], 2), trained(factory, "l2", width_for(factory))
    index = faiss.clone_index(index)
    fill_index(index, store.chunks, "att", "cuda")
    assert f"index {described(index).codes}: on the CPU, as FAISS" in capsys.readouterr().out
    place = place_for(index, "cuda", 64, 16)
    assert not place.gpus
    ((_, ids, _),) = nprobe_search(place.searched(index), queries, 64, [16])
    assert (ids >= 0).all()


@pytest.mark.parametrize(("k", "nprobe", "on_gpu"), [
    (1024, 32, True), (2048, 32, True), (4096, 32, False), (64, 2048, True), (64, 4096, False),
])  # fmt: skip
def test_limits_of_k_and_nprobe(k, nprobe, on_gpu, tmp_path, capsys):
    keys, queries = clustered(128)
    store = make_store(tmp_path, keys, 1)
    empty = trained("IVF4096,PQ16" if nprobe > 64 else "IVF64,PQ16", "l2", 128)
    filled = faiss.clone_index(empty)
    fill_index(filled, [store.chunks[0]], "att", "cuda")
    assert bool(place_for(empty, "cuda", k, nprobe).gpus) == on_gpu
    found = {
        device: next(approximate_search(queries, store, empty, [filled], nprobe, k, [1.0], device, tmp_path))[1:]
        for device in ("cpu", "cuda")
    }
    check_same(found["cuda"], found["cpu"])
    assert ("that FAISS chooses on a GPU" in capsys.readouterr().out) != on_gpu


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", ["IVF64,PQ16", "IVF64,Flat", "RR,IVF64_HNSW32,PQ16"])
def test_training_on_a_gpu_is_as_good(factory, metric):
    """k-means ends elsewhere after other rounding: codes that decode as well are what counts."""
    sample = clustered(128)[0][:8000].astype(np.float32)
    errors = {}
    for device in ("cpu", "cuda"):
        index = train_index(factory, metric, sample, 1, device)
        assert index.is_trained
        decoded = index.sa_decode(index.sa_encode(sample))
        errors[device] = float(np.square(decoded - sample).mean()) + 1e-6
    assert errors["cuda"] == pytest.approx(errors["cpu"], rel=0.03)


def test_filled_lists_that_stay_on_disk_are_searched(tmp_path):
    keys, queries = clustered(128)
    store, empty = make_store(tmp_path, keys, 3), trained("IVF64,PQ32", "ip", 128)
    filled = []
    for chunk in store.chunks:
        index, path = faiss.clone_index(empty), chunk.folder / "filled.faiss"
        fill_index(index, [chunk], "att", "cuda")
        save_index(index, path)
        write_manifest(path.with_suffix(".json"), [path])
        filled.append(load_index(path, "ip", 128, chunk.rows))
    found = {
        device: kept(approximate_search(queries, store, empty, filled, 8, 200, [0.1, 0.5, 1.0], device, tmp_path))
        for device in ("cpu", "cuda")
    }
    for (_, *expected), (_, *got) in zip(found["cpu"], found["cuda"], strict=True):
        check_same(got, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_real_scores(metric, tmp_path):
    keys, queries = clustered(1024)
    store = make_store(tmp_path, keys, 3)
    ids = np.random.default_rng(1).integers(0, ROWS, (QUERIES, 500)).astype(np.int32)
    ids[::3, 400:] = -1
    expected, found = (real_similarities(queries, ids, store, "att", metric, device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected[ids >= 0]).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", ["IVF64,PQ16", "OPQ16_64,IVF64,PQ16"])
def test_sweeps_and_training_neighbours(factory, metric, tmp_path):
    keys, queries = clustered(128)
    store, index = make_store(tmp_path, keys, 2), faiss.clone_index(trained(factory, metric, 128))
    fill_index(index, store.chunks, "att", "cuda")
    ivf_of(index).nprobe = 8
    copy = (place := gpu_place("cuda")).searched(index)
    own = np.arange(500)
    check_same(*(training_neighbours(keys[:500], own, where, 100, metric) for where in (copy, index)))
    swept = [[*nprobe_search(where, queries, 100, [1, 4, 64])] for where in (copy, index)]
    for nprobe, of_gpu, of_cpu in zip((1, 4, 64), *swept, strict=True):
        assert of_gpu[0] == of_cpu[0] == nprobe
    (_, *found), (_, *expected) = (searches[-1] for searches in swept)
    check_same(found, expected)
    del copy
    assert len(place.gpus) >= 1


def test_recoded_index_keeps_the_lists():
    index = trained("IVF64,PQ16", "l2", 128)
    other = recoded_index(index, 64, clustered(128)[0][:8000].astype(np.float32), 1, "cuda")
    assert other.code_size == 64
    assert np.array_equal(other.quantizer.reconstruct_n(0, 64), index.quantizer.reconstruct_n(0, 64))
