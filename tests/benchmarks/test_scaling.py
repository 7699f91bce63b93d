from dataclasses import replace

import faiss
import numpy as np
import pandas as pd
import pytest
from configs import VOCABULARY

from knnlm.errors import KnnlmError
from knnlm.performance import scaling
from knnlm.performance.language_model import random_model, random_tokens
from knnlm.performance.stores import opened_index, opened_store


def table(exponents, rows, memory):
    """Return measurements of one second at 1×, each stage with its exponent and memory at 1× and 8×."""
    found = []
    for stage, exponent, (least, most) in zip(scaling.STAGES, exponents, memory, strict=True):
        for times in scaling.TIMES:
            same = {
                "stage": stage,
                "times": times,
                "rows": times * rows,
                "memory_bytes": most if times == 8 else least,
                "resident_bytes": 1.0,
            }
            found += [same | {"seconds": slower * times**exponent} for slower in (1, 2)]
    return pd.DataFrame(found)


def test_exponents_are_slopes():
    made = table([1.3, 1, 0.5, 0], 100, [(1, 1)] * 4)
    assert [scaling.exponents(made, stage) for stage in scaling.STAGES] == [
        pytest.approx([slope] * 2) for slope in (1.3, 1, 0.5, 0)
    ]


@pytest.mark.parametrize(
    ("exponents", "rows", "growth", "reached"),
    [
        ([1, 1, 1, 0.9], 2**19, 1.05, ["true", "true", "", "true", "true", "true", "true", "true"]),
        ([1.1, 3, 1.1, 1.01], 2**19, 1.2, ["false", "false", "", "false", "false", "false", "false", "false"]),
        (
            [1, 1, 1, 0.9],
            2**18,
            1.2,
            ["true", "false", "", "false", "true", "", "true", ""],
        ),  # a store that may fill no block
    ],
)
def test_goals_of_scaling(exponents, rows, growth, reached):
    made = scaling.judged(table(exponents, rows, [(1e8, growth * 1e8)] * 4))
    assert [row["reached"] for row in made] == reached
    assert made[0]["ratio"] == pytest.approx(8 ** (1 - exponents[0]))
    assert made[0]["ratio"] == pytest.approx(made[0]["ours"] / made[0]["reference"])
    assert (made[1]["ours"], made[1]["reference"], made[1]["ratio"]) == pytest.approx((growth * 100, 100, 1 / growth))


@pytest.fixture(scope="module")
def sizes(config, retrieval, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    model = random_model(folder / "model", config["lm"]["architecture"], 64, VOCABULARY, "cpu")
    assert model.longest_input == 64
    found = scaling.Sizes(folder / "scaling", "cpu", retrieval, 600, 100, 16, 32, 32, 64, 1)
    scaling.save_array(found.folder / "tokens.npy", random_tokens(8 * 64, VOCABULARY, 1))
    scaling.write_manifest(found.folder / "manifest.json", [found.folder / "tokens.npy"])
    scaling.write_stores(found)
    return found


@pytest.mark.parametrize("stage", scaling.STAGES)
def test_every_stage_is_measured_at_a_size(sizes, stage):
    found = scaling.one_size(stage, sizes, 2)
    assert len(found) == max(scaling.REPEATS[stage], 1)
    assert {row["rows"] for row in found} == {{"datastore build": 128, "index fill": 200}.get(stage, 1200)}
    assert all(row["seconds"] > 0 for row in found)


def test_all_rows_of_a_size_are_used(sizes):
    """Of twice the chunks twice the rows are built, and ids of the last chunk are found."""
    scaling.build(sizes, 4)()
    positions = np.concatenate([np.load(sizes.folder / f"built-{chunk}" / "positions.npy") for chunk in range(4)])
    assert np.array_equal(np.sort(positions), np.arange(4 * 64))
    for search in (scaling.exact, scaling.approximate):
        ids, _ = search(sizes, 4)()
        assert 3 * 600 <= ids.max() < 4 * 600


def test_the_index_of_every_chunk_has_its_ids(sizes):
    store = opened_store(sizes.folder, sizes.retrieval, sizes.rows, 8)
    for chunk, index in zip(store.chunks, opened_index(sizes.folder, sizes.retrieval, store).filled, strict=True):
        ids = np.concatenate(
            [
                faiss.rev_swig_ptr(index.invlists.get_ids(place), index.invlists.list_size(place))
                for place in range(index.nlist)
            ]
        )
        assert np.array_equal(np.sort(ids), chunk.first_position + np.arange(600))


def test_sizes_are_those_of_the_config(config, retrieval, bench):
    found = scaling.sizes_of(config, retrieval, bench)
    assert (found.rows, found.filled_rows, found.context, found.new) == (600, 75, 32, 32)
    assert found.tokens % found.new == 0 < found.tokens
    assert scaling.sizes_of(config, replace(retrieval, k=5000), bench).rows == 20000


def test_a_size_is_measured_in_a_process_of_its_own(sizes):
    held = np.ones(2**28, np.uint8)
    (found, *_) = scaling.in_a_fresh_process("index fill", sizes, 1)
    assert held.sum() == 2**28
    assert found["rows"] == 100
    assert not found["memory_bytes"] > 2**28 + 3e8  # NaN where there is no /proc


def test_a_process_that_ends_without_a_result_is_told_in_one_sentence(sizes):
    with pytest.raises(
        KnnlmError, match=r"no stage at 2 times the rows ended with status 1, .*; lower performance\.rows\."
    ):
        scaling.in_a_fresh_process("no stage", sizes, 2)
