"""The plan against numbers worked out by hand, files written for real, and the modules whose work it predicts."""

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from configs import config_of
from stores import known

from knnlm.corpus.windows import fixed_windows, share_of_windows
from knnlm.cost.hours import OPERATIONS, predicted_seconds, read_rates
from knnlm.cost.rules import plan
from knnlm.cost.sizes import Run, estimated_vocabulary, forward_flops, tokens_per_update
from knnlm.cost.stages import (
    BLOCK_KEYS,
    ID_BYTES,
    KEYS_AT_ONCE,
    QUERIES_AT_ONCE,
    ROWS_AT_ONCE,
    TOKENS_AT_ONCE,
    WIDER,
    times_saved_by_states,
)
from knnlm.datastore import index
from knnlm.datastore.store import Chunk
from knnlm.language_model import transformer
from knnlm.retrieval import approximate, bounds, exact
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import write_manifest

ROOT = Path(__file__).parents[3]
TRAIN, VALID, TEST = 112_735_284, 237_669, 268_161
EVALUATED = VALID + TEST  # 505,830


PAPER, TINY = config_of("wikitext103"), config_of("tiny")
STAGES = plan(Run(PAPER, PAPER["corpus"]["token_counts"], 33_344))


def parameters(architecture: dict, vocabulary: int) -> int:
    return Run({**PAPER, "lm": {"architecture": architecture}}, PAPER["corpus"]["token_counts"], vocabulary).parameters


def test_parameters_of_the_paper():
    assert parameters(PAPER["lm"]["architecture"], 33_344) == 269_828_096
    assert parameters(PAPER["lm"]["architecture"] | {"layers": 1}, 33_344) == 12_596_224 + 2 * 34_144_256


def test_parameters_of_a_real_network(tmp_path):
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("".join(f"w{number} 1\n" for number in range(36)))  # and 4 specials
    architecture = TINY["lm"]["architecture"]
    network = transformer.build_model(architecture, 64, str(dictionary))
    assert parameters(architecture, 40) == sum(weight.numel() for weight in network.parameters())


def test_vocabulary_estimate_is_near_the_paper():
    assert estimated_vocabulary(32_000) % 8 == 0
    assert estimated_vocabulary(32_000) == pytest.approx(33_344, rel=0.01)


def test_training_is_286_000_updates_of_73_728_tokens():
    assert tokens_per_update(PAPER) == 73_728
    assert STAGES["training"].rows == 286_000 * 73_728
    # 6 operations a token for each parameter that is multiplied (the input embedding is looked up), and attention
    # over 1,536 tokens on average
    by_parameters = 6 * (201_539_584 + 34_144_256)
    attention = 3 * 16 * 4 * 1024 * 1536
    assert STAGES["training"].flops == pytest.approx(286_000 * 73_728 * (by_parameters + attention), rel=1e-12)
    assert STAGES["training"].memory_bytes > 4 * 4 * 269_828_096


def test_forward_without_logits():
    assert (
        forward_flops(PAPER["lm"]["architecture"], 3072, 33_344) - forward_flops(PAPER["lm"]["architecture"], 3072)
        == 2 * 1024 * 33_344
    )


def test_datastore_of_the_paper_by_hand():
    keys_of_one_type = 112_735_284 * 1024 * 2
    assert keys_of_one_type / 1e9 == pytest.approx(230.9, abs=0.05)
    assert STAGES["datastore"].rows == TRAIN
    assert STAGES["datastore"].disk_bytes == 2 * keys_of_one_type + 12 * TRAIN
    assert STAGES["states"].disk_bytes == 2 * EVALUATED * 2048


def test_index_of_the_paper_by_hand():
    one = (
        TRAIN * 72 + 65 * (4096 + 256) * 1024 * 4
    )  # 64 codes and an id; centroids in 64 filled files and the trained one
    assert STAGES["index"].disk_bytes == 4 * one
    codes_and_ids = one - 65 * (4096 + 256) * 1024 * 4
    assert codes_and_ids / 1e9 == pytest.approx(8.1, abs=0.05)  # what the paper's code would need for its real rows


def test_neighbours_of_the_paper_by_hand():
    one = EVALUATED * 1024 * 8  # int32 id and float32 similarity
    searched = 11 + 3  # all fractions of att, l2; the full store of the other three
    assert STAGES["exact retrieval"].disk_bytes == searched * one
    assert STAGES["approximate retrieval"].disk_bytes == searched * one
    assert STAGES["real scores"].disk_bytes == (2 + 3) * EVALUATED * 1024 * 4
    assert STAGES["exact retrieval"].flops == pytest.approx(4 * 2 * EVALUATED * TRAIN * 1024)


def test_an_epoch_on_stored_states_by_hand():
    """201,539,584 parameters of layers, attention over 3,072 positions, half of them context: two positions a row."""
    forward = 2 * (2 * 201_539_584 + 2 * 16 * 1024 * 3072)
    saved = times_saved_by_states(Run(PAPER, {"train": 1536 * 1000, "valid": VALID, "test": TEST}, 33_344))
    assert saved == pytest.approx(1 + forward / (6 * 1024 * 33_344))
    assert saved == pytest.approx(5.918, abs=1e-3)


def test_components_of_the_paper_by_hand():
    full = 4 * 3 * 2  # each pair and variant on the full store, tuned and untuned
    fractions = 10 + 10 + 1  # exact and FAISS scores at all fractions below 1, real scores at the smallest
    assert STAGES["components"].disk_bytes == (1 + full + fractions) * EVALUATED * 4
    assert STAGES["tables"].rows == 2 * (1 + full + fractions)


def test_no_step_of_the_paper_needs_more_than_64_gigabytes():
    assert max(stage.memory_bytes for stage in STAGES.values()) < 64e9
    total = STAGES["total"]
    assert total.rows is None
    assert total.disk_bytes == sum(stage.disk_bytes for stage in STAGES.values()) - total.disk_bytes
    assert total.flops == pytest.approx(sum(stage.flops for stage in STAGES.values()) - total.flops)


@pytest.mark.parametrize("stage", ["datastore", "exact retrieval"])
def test_memory_is_bounded_by_the_chunk(stage):
    """Twice the store in twice the chunks needs the memory of one."""
    twice = copy.deepcopy(PAPER)
    twice["datastore"]["chunks"] *= 2
    tokens = {"train": 2 * 64 * 1536 * 1000, "valid": VALID, "test": TEST}
    once = plan(Run(PAPER, tokens | {"train": 64 * 1536 * 1000}, 33_344))
    both = [stages[stage].memory_bytes for stages in (once, plan(Run(twice, tokens, 33_344)))]
    assert both[0] == both[1]


@pytest.mark.parametrize(("tokens", "chunks"), [(1000, 3), (31, 1), (4096, 5), (33, 2)])
def test_largest_chunk_is_that_of_the_windows(tokens, chunks):
    config = copy.deepcopy(TINY)
    config["datastore"]["chunks"] = chunks
    windows = fixed_windows(tokens, 32, 32)
    shares = [share_of_windows(windows, part, chunks) for part in range(chunks)]
    largest = max(int(share[-1, 2] - share[0, 1]) for share in shares)
    assert Run(config, {"train": tokens, "valid": 1, "test": 1}, 8).chunk_rows >= largest
    assert Run(config, {"train": tokens, "valid": 1, "test": 1}, 8).chunk_rows < largest + 32


def test_disk_of_an_index_that_is_written(tmp_path):
    """The files of one pair, for real, against the plan: FAISS's own headers are all that is missing."""
    config = copy.deepcopy(TINY)
    config["retrieval"] |= {"h": ["att"], "metrics": ["l2"]}
    keys = np.random.default_rng(1).standard_normal((6000, 32)).astype(np.float16)
    trained = faiss.index_factory(32, config["index"]["factory"])
    trained.do_polysemous_training = False  # takes seconds and changes no size
    trained.train(keys[:500].astype(np.float32))
    index.save_index(trained, tmp_path / "trained.faiss")
    known(tmp_path / "trained.faiss")
    for number, part in enumerate(np.split(keys, 2)):
        save_array(tmp_path / "att.npy", part)
        known(tmp_path / "att.npy")
        filled = faiss.clone_index(trained)
        index.fill_index(filled, [Chunk(tmp_path, 3000, 32, 3000 * number)], "att")
        index.save_index(filled, tmp_path / f"chunk-{number}.faiss")
    for name in ("att.npy", "att.json", "trained.json"):
        (tmp_path / name).unlink()
    predicted = plan(Run(config, {"train": 6000, "valid": 10, "test": 10}, 64))["index"].disk_bytes
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert predicted <= written <= predicted + 3 * 1024


def test_block_sizes_are_those_of_the_code():
    import inspect

    from knnlm.language_model.states import extract_states

    assert (QUERIES_AT_ONCE, KEYS_AT_ONCE, ROWS_AT_ONCE) == (
        approximate.QUERIES_AT_ONCE,
        approximate.KEYS_AT_ONCE,
        index.ROWS_AT_ONCE,
    )
    assert BLOCK_KEYS == exact.BLOCK_KEYS
    assert WIDER == bounds.WIDER
    assert ID_BYTES == index.ID_BYTES
    assert (
        inspect.signature(extract_states).parameters["tokens_at_once"].default
        == TOKENS_AT_ONCE
        == transformer.POSITIONS_AT_ONCE
    )


def run_step(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "knnlm.steps", "plan", *options]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True
    )


def test_step_prints_and_writes_the_plan(tmp_path):
    table = tmp_path / "plan.csv"
    done = run_step("--settings", json.dumps(PAPER), "--table", str(table))
    assert done.returncode == 0, done.stderr
    rows = {row["stage"]: row for row in csv.DictReader(table.open())}
    assert int(rows["datastore"]["disk_bytes"]) == STAGES["datastore"].disk_bytes
    assert list(rows)[-2:] == ["total", "trained hypotheses"]
    assert rows["total"]["predicted_seconds"] == rows["total"]["measured_seconds"] == ""
    assert done.stdout.splitlines()[-1].startswith("For hours, measure what this machine can do: snakemake performance")
    assert "463.1" in next(line for line in done.stdout.splitlines() if line.startswith("datastore"))
    assert "187.0 epochs" in done.stdout


def test_step_takes_the_corpus_that_is_there(tmp_path):
    manifest, table = tmp_path / "manifest.json", tmp_path / "plan.csv"
    write_manifest(manifest, vocabulary_size=640, tokens={"train": 30_000, "valid": 5000, "test": 5001})
    done = run_step("--settings", json.dumps(TINY), "--manifest", str(manifest), "--table", str(table))
    assert done.returncode == 0, done.stderr
    rows = {row["stage"]: row for row in csv.DictReader(table.open())}
    assert rows["datastore"]["rows"] == "30000"
    assert rows["exact retrieval"]["rows"] == "10001"
    assert f"{parameters(TINY['lm']['architecture'], 640):,} parameters" in done.stdout


def test_step_predicts_hours_from_rates_and_tells_what_the_finished_stages_took(tmp_path):
    rates, table, logs = tmp_path / "rates.csv", tmp_path / "plan.csv", tmp_path / "logs"
    rates.write_text(
        "operation,rate,unit\n" + "".join(f"{name},1e10,a second\n" for name in OPERATIONS[:-1]) + "threads,8,threads\n"
    )
    logs.mkdir()
    times = {
        "driver_started": 0,
        "started": 100,
        "began": 101,
        "starting_cpu_seconds": 1,
        "ended": 3700,
        "threads": 8,
        "peak_memory_bytes": 1,
    }
    (logs / "train_lm.json").write_text(json.dumps(times))
    done = run_step("--settings", json.dumps(PAPER), "--table", str(table), "--rates", str(rates), "--logs", str(logs))
    assert done.returncode == 0, done.stderr
    rows = {row["stage"]: row for row in csv.DictReader(table.open())}
    predicted = predicted_seconds(
        Run(PAPER, PAPER["corpus"]["token_counts"], estimated_vocabulary(32_000)), read_rates(rates)
    )
    assert {name: row["predicted_seconds"] for name, row in rows.items() if row["predicted_seconds"]} == {
        name: f"{s:.1f}" for name, s in predicted.items()
    }
    assert {name: row["measured_seconds"] for name, row in rows.items() if row["measured_seconds"]} == {
        "training": "3600.0"
    }
    assert "1.000" in next(line for line in done.stdout.splitlines() if line.startswith("training"))
    assert done.stdout.splitlines()[-1] == f"Hours are those of a machine like the one on which {rates} was measured."


def test_step_without_counts_says_which_key(tmp_path):
    done = run_step("--settings", json.dumps(TINY), "--table", str(tmp_path / "plan.csv"))
    assert done.returncode == 1
    assert "config key corpus.token_counts" in done.stderr
    assert list(tmp_path.iterdir()) == []
