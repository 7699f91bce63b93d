import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from configs import VOCABULARY, config_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from knnlm.corpus.binary import read_binary
from knnlm.corpus.windows import fixed_windows
from knnlm.cost.sizes import Run, estimated_vocabulary
from knnlm.cost.stages import training as training_stage
from knnlm.language_model.fairseq_runs import history
from knnlm.performance import language_model, training
from knnlm.performance.language_model import (
    bare_forward,
    forward_products,
    inputs,
    multiplying,
    product_flops,
    random_tokens,
)

SHAPES = {"layers": 3, "width": 24, "feed_forward_width": 40, "heads": 2}


@pytest.mark.parametrize(("architecture", "vocabulary"), [(SHAPES, 0), (SHAPES, 50), (language_model.WIDE, 0)])
def test_products_are_those_that_are_counted(architecture, vocabulary):
    products = forward_products(architecture, 3, 7, vocabulary)
    with FlopCounterMode(display=False) as counted:
        multiplying(products, "cpu")()
    assert counted.get_total_flops() == product_flops(products)


def test_the_products_of_a_forward_pass_are_those_that_torch_sees_in_it(config, model):
    sources = inputs(random_tokens(96, VOCABULARY, 1), fixed_windows(96, 0, 32))
    assert [tuple(source.shape) for source in sources] == [(3, 32)]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:  # what is fused it cannot count
        bare_forward(model, sources)
    assert counted.get_total_flops() == product_flops(forward_products(config["lm"]["architecture"], 3, 32))


def test_the_forward_pass_is_the_model_s_own(model):
    (source,) = inputs(random_tokens(64, VOCABULARY, 1), fixed_windows(64, 0, 32))
    with torch.inference_mode():
        assert torch.equal(model.decoder.extract_features(source, None)[0], model.states(source)[1])


def test_states_and_forward_pass_are_measured(config, model, bench):
    found = language_model.measure(config, VOCABULARY, model, bench)
    assert [row["unit"] for row in found.rows] == ["tokens/s", "GFLOP/s", "GFLOP/s"]
    assert [row["goal"] for row in found.rows] == [0.85, None, 0.5]
    assert all(row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in found.rows)
    assert found.rates["states_flops"] > 0
    positions = np.load(bench.folder / "states" / "positions.npy")
    assert np.array_equal(np.sort(positions), np.arange(len(positions)))


def test_the_random_text_is_one_that_the_workflow_reads(tmp_path):
    tokens = random_tokens(100, VOCABULARY, 1)
    training.write_binary(tmp_path / "train", tokens)
    found, lines = read_binary(tmp_path / "train")
    assert lines.tolist() == [0, 32, 64, 96, 100]
    assert (found[lines[1:] - 1] == 2).all()
    inside = np.setdiff1d(np.arange(100), lines[1:] - 1)
    assert np.array_equal(found[inside], tokens[inside])


@pytest.mark.parametrize("overlay", [[], ["tiny"], ["wikitext103"]])
def test_a_training_is_cut_until_memory_and_time_are_enough(overlay):
    whole = config_of(*overlay)
    before, vocabulary = copy.deepcopy(whole), estimated_vocabulary(whole["corpus"]["bpe_merges"])
    found = training.affordable(whole, vocabulary, 24e9, 1e11, "cpu")
    cut = found["lm"]["training"]
    assert whole == before
    assert training_stage(Run(found, dict.fromkeys(("train", "valid", "test"), 0), vocabulary)).memory_bytes <= 12e9
    assert training.LEAST_UPDATES <= cut["updates"] <= training.MOST_UPDATES
    assert not cut["fp16"]
    if not overlay:
        assert [cut[key] for key in ("tokens_per_sample", "batch_samples", "accumulate", "updates")] == [
            256,
            8,
            1,
            training.MOST_UPDATES,
        ]


def test_the_warm_up_of_a_training_does_not_count():
    records = [{"split": "train", "tokens_per_second": speed} for speed in (1, 1, 1, 10, 10, 20, 20, 40, 40)] + [
        {"split": "valid", "tokens_per_second": 5}
    ]
    assert training.tokens_per_second(records, 3) == pytest.approx([10, 20, 40])
    assert training.tokens_per_second(records[:4], 3) == pytest.approx([1, 1, 10])


@pytest.mark.slow
def test_fairseq_really_trains(config, model, bench, tmp_path):
    (tmp_path / "model").mkdir()
    dictionary = "".join(f"piece{number} 1\n" for number in range(VOCABULARY - 4))
    (tmp_path / "model" / "dict.txt").write_text(dictionary)
    found = training.measure(
        config, VOCABULARY, replace(bench, pairs=training.MOST_UPDATES)
    )  # more than the training has parts
    records = history(tmp_path / "checkpoints")
    assert max(record["update"] for record in records) == training.MOST_UPDATES
    assert found.rows[0]["ours"] > 0
    assert found.rates["training_flops"] > 0
