"""A search that is divided by queries: the same files, to the last bit, as one search of all of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.errors import KnnlmError
from knnlm.retrieval.blocks import QUERIES_AT_ONCE, block_edges, rows_of_splits
from knnlm.running.devices import Job
from knnlm.steps import fill_index, join_neighbours, retrieve, train_index
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

WIDTH, CHUNKS, ROWS = 8, 2, 1500
SIZES = {"valid": 9001, "test": 8400}  # the border of the splits and that of the blocks are not the same


@given(st.integers(0, 10**6), st.integers(1, 70))
def test_blocks_are_all_queries_in_whole_matrix_products(queries, blocks):
    edges = block_edges(queries, blocks)
    assert (edges[0], edges[-1], len(edges)) == (0, queries, blocks + 1)
    assert edges == sorted(edges)
    assert all(edge % QUERIES_AT_ONCE == 0 for edge in edges[:-1] if edge < queries)
    filled = [end - begin for begin, end in pairwise(edges) if end > begin]
    assert len(filled) == min(blocks, -(-queries // QUERIES_AT_ONCE))
    assert max(filled, default=0) - min(filled, default=0) < 2 * QUERIES_AT_ONCE


@given(st.integers(0, 30000), st.integers(0, 30000), st.integers(1, 5))
def test_the_splits_parts_follow_each_other_through_the_blocks(valid, test, blocks):
    for split, size in (("valid", valid), ("test", test)):
        parts = [rows_of_splits({"valid": valid, "test": test}, block, blocks)[split] for block in range(blocks)]
        assert np.concatenate([np.arange(size)[part] for part in parts]).tolist() == list(range(size))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A store, its index and evaluation states, random, written as the steps before the search write them."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(3)
    states = [folder / f"states/{split}.att.npy" for split in SIZES]
    for path, size in zip(states, SIZES.values(), strict=True):
        save_array(path, random.standard_normal((size, WIDTH)).astype(np.float16))
    write_manifest(
        folder / "states/manifest.json", files=states, kind="evaluation states", width=WIDTH, checkpoint="abc"
    )
    for number in range(CHUNKS):
        chunk = folder / f"chunk-{number}"
        save_array(chunk / "att.npy", random.standard_normal((ROWS, WIDTH)).astype(np.float16))
        facts = {
            "checkpoint": "abc",
            "corpus_tokens": CHUNKS * ROWS,
            "chunks": CHUNKS,
            "width": WIDTH,
            "rows": ROWS,
            "first_position": number * ROWS,
        }
        write_manifest(
            chunk / "manifest.json", files=[chunk / "att.npy"], kind="datastore chunk", chunk=number, **facts
        )
    index = {"factory": "IVF16,PQ4", "training_rows": CHUNKS * ROWS}
    settings, trained = {"seed": 1, "index": index, "h": "att", "metric": "l2"}, folder / "trained.faiss"
    chunks = [folder / f"chunk-{number}/manifest.json" for number in range(CHUNKS)]
    train_index.main(settings, Job(), chunks, trained)
    for number, chunk in enumerate(chunks):
        fill_index.main(settings, Job(), trained, chunk, folder / f"chunk-{number}.faiss")
    return folder


def searched(folder, search, neighbours, block=None):
    settings = {
        "retrieval": {"k": 20},
        "main": {"h": "att", "metric": "l2"},
        "fractions": [0.3, 1.0],
        "index": {"nprobe": 3},
    }
    settings |= {"h": "att", "metric": "l2", "search": search} | ({"block": block} if block else {})
    numbers = range(CHUNKS)
    files = {
        "chunks": [folder / f"chunk-{number}/manifest.json" for number in numbers],
        "states": folder / "states",
        "neighbours": neighbours,
    }
    if search == "approximate":
        files |= {
            "trained": folder / "trained.faiss",
            "filled": [folder / f"chunk-{number}.faiss" for number in numbers],
        }
    retrieve.main(settings, Job(), **files)


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_neighbours_do_not_depend_on_the_number_of_blocks(search, run_folder, tmp_path):
    searched(run_folder, search, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(whole) == (7 if search == "approximate" else 5)
    for blocks in (2, 4):  # there are no more than three
        parts = [tmp_path / f"{blocks}/block-{block}" for block in range(blocks)]
        for block, part in enumerate(parts):
            searched(run_folder, search, part, [block, blocks])
        join_neighbours.main([part / "manifest.json" for part in parts], tmp_path / f"joined-{blocks}")
        assert {path.name: path.read_bytes() for path in (tmp_path / f"joined-{blocks}").iterdir()} == whole


def test_blocks_of_different_searches_are_refused_by_name(run_folder, tmp_path):
    for name, block in (("first", [0, 2]), ("second", [1, 2]), ("stranger", [1, 3])):
        searched(run_folder, "exact", tmp_path / name, block)
    for order in (["second", "first"], ["first", "stranger"], ["first"]):
        with pytest.raises(KnnlmError, match="does not belong to the same search"):
            join_neighbours.main([tmp_path / name / "manifest.json" for name in order], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
