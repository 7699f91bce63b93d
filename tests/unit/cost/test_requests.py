"""What jobs ask for: as much as they were measured to take, more with every attempt, and no more than a machine has."""

import copy
import json
from collections import Counter
from dataclasses import replace

import pytest
from configs import config_of

from knnlm.cost import requests
from knnlm.cost.requests import asked, request, threads_beside_others, threads_for, threads_of
from knnlm.cost.rules import RULES
from knnlm.cost.rules import jobs as all_jobs
from knnlm.cost.sizes import run_of, tokens_of
from knnlm.cost.stages import Work, joined_bytes
from knnlm.hypotheses import registry

PAPER, DEMO, TINY = config_of("wikitext103"), config_of(), config_of("tiny")
PAIRS = [{"h": h, "metric": metric} for h in ("att", "ffn") for metric in ("l2", "ip")]
NOWHERE = "there/is/no/manifest.json"


def jobs(config: dict) -> list[tuple[str, dict]]:
    """Return every kind of job of a run, with the wildcards of one."""
    some = {"h": "att", "metric": "l2", "search": "exact", "chunk": "0", "block": "0", "hypothesis": "soft-labels"}
    return [(job, some) for job in RULES if job not in ("hypothesis", "check_size", "plot")] + [
        ("hypothesis", {"hypothesis": name}) for name in registry.with_step(config)
    ]


@pytest.mark.parametrize("config", [PAPER, DEMO, TINY], ids=["paper", "demo", "tiny"])
def test_every_job_asks_for_something_and_for_twice_as_much_each_time(config):
    for job, wildcards in jobs(config):
        first, second, third = (asked(config, NOWHERE, job, wildcards, attempt) for attempt in (1, 2, 3))
        assert first.mem_mb > 1000
        assert first.runtime >= 10
        assert 1 <= first.threads <= config["resources"]["threads"]
        assert (second.mem_mb, third.mem_mb) == (2 * first.mem_mb, 4 * first.mem_mb)
        assert (second.runtime, third.runtime) == (2 * first.runtime, 4 * first.runtime)
        assert (first.gpu, first.threads, first.disk_mb) == (third.gpu, third.threads, third.disk_mb)


def test_jobs_of_the_paper_fit_the_machines_they_are_meant_for():
    for job, wildcards in jobs(PAPER):
        found = asked(PAPER, NOWHERE, job, wildcards, 1)
        assert found.mem_mb <= 64_000 * max(1, found.gpu), job
        assert found.runtime <= 10 * 1440, job
    (training,) = [asked(PAPER, NOWHERE, job, wildcards, 1) for job, wildcards in jobs(PAPER) if job == "train_lm"]
    assert (training.gpu, training.nodes) == (8, 1)
    # 3.6e19 operations on eight GPUs at an eighth of what NVIDIA's data sheet promises of a V100
    assert training.runtime == pytest.approx(3.62e19 / 8 / 15e12 / 60, rel=0.05)


# Of the demo, and below the minutes that its stages took on two cores (docs/performance.md).
DEMO_TOKENS = {"train": 404231, "valid": 16743, "test": 31756}


@pytest.mark.parametrize(("job", "measured"), [("train_lm", 4), ("retrieve_exact", 4), ("retrieve_approximate", 2.5)])
def test_the_demo_s_stages_take_less_than_they_ask_for(job, measured):
    run = run_of(DEMO, DEMO_TOKENS, 8160)
    pairs = [{}] if job == "train_lm" else PAIRS
    estimated = sum(
        request(RULES[job](run, pair), 0, 1, 2, 1).runtime - requests.STARTING_SECONDS / 60 for pair in pairs
    )
    assert measured <= estimated <= 20 * measured


def test_more_of_everything_is_asked_for_more_data():
    run = run_of(PAPER, *tokens_of(PAPER, NOWHERE))
    twice = replace(run, tokens={split: 2 * count for split, count in run.tokens.items()})
    for job, wildcards in jobs(PAPER):
        small, large = (request(RULES[job](size, wildcards), 0, 1, 8, 1) for size in (run, twice))
        assert large.mem_mb >= small.mem_mb
        assert large.runtime >= small.runtime
        if job not in ("train_lm", "train_index", "measure_performance"):  # whose sizes are the config's
            assert (large.runtime, large.mem_mb, large.disk_mb) != (small.runtime, small.mem_mb, small.disk_mb), job


def test_blocks_of_queries_share_the_work():
    whole, divided = copy.deepcopy(PAPER), copy.deepcopy(PAPER)
    whole["resources"]["query_blocks"], divided["resources"]["query_blocks"] = 1, 10
    run = run_of(PAPER, *tokens_of(PAPER, NOWHERE)).of_pair(PAIRS[0])
    read = 2 * 2 * run.train * run.width / requests.ON_DISK["disk_bytes"] / 60
    for search, joined, reading in (
        ("retrieve_exact", 0, 0),
        ("retrieve_approximate", joined_bytes(run) / 1e6, read),
    ):  # each block joins the lists, and reads the keys twice, for itself
        one, part = (asked(config, NOWHERE, search, PAIRS[0], 1) for config in (whole, divided))
        assert part.mem_mb < one.mem_mb / 1.5
        assert part.disk_mb - joined == pytest.approx(
            (one.disk_mb - joined) / 10, rel=0.15
        )  # blocks are whole matrix products
        assert (one.runtime - reading) / 10 < part.runtime - reading < (one.runtime - reading) / 2
        small = copy.deepcopy(DEMO)
        small["resources"]["query_blocks"] = 6
        assert (
            asked(small, NOWHERE, search, PAIRS[0], 1).threads == asked(DEMO, NOWHERE, search, PAIRS[0], 1).threads
        )  # on which rounding depends


@pytest.mark.parametrize(
    ("job", "name"),
    [("training_neighbours", "soft-labels"), ("hypothesis", "loss-weighting"), ("hypothesis", "approximate-search")],
)
def test_joined_lists_are_asked_for_as_disk_and_not_as_memory(job, name):
    config = copy.deepcopy(PAPER)
    config["hypotheses"]["approximate-search"]["settings"] |= {"codes": [], "factories": []}  # each an index in memory
    tokens, vocabulary = tokens_of(config, NOWHERE)
    config_of_twice = config | {"datastore": config["datastore"] | {"chunks": 2 * config["datastore"]["chunks"]}}
    once, twice = (
        run_of(config, tokens, vocabulary),
        run_of(config_of_twice, tokens | {"train": 2 * tokens["train"]}, vocabulary),
    )
    small, large = (RULES[job](run, {"hypothesis": name}) for run in (once, twice))
    assert small.passing_bytes == tokens["train"] * (64 + 8)
    assert (
        asked(config, NOWHERE, job, {"hypothesis": name}, 1).disk_mb >= (small.disk_bytes + small.passing_bytes) / 1e6
    )
    values, centroids = 2 * 4 * tokens["train"], config["datastore"]["chunks"] * 4 * 1024 * (4096 + 256)
    assert large.memory_bytes - small.memory_bytes <= values + centroids


def test_only_steps_that_use_a_device_ask_for_one():
    asking = {
        name for name in registry.with_step(PAPER) if asked(PAPER, NOWHERE, "hypothesis", {"hypothesis": name}, 1).gpu
    }
    assert set(registry.with_step(PAPER)) - asking == {"neighbours", "padding", "ensembling", "second-seed-and-knn"}
    with_gpu = {job for job, wildcards in jobs(PAPER) if asked(PAPER, NOWHERE, job, wildcards, 1).gpu} - {"hypothesis"}
    searches = {"retrieve_exact", "retrieve_approximate", "train_index", "fill_index", "training_neighbours"}
    assert with_gpu == {"train_lm", "evaluation_states", "datastore_chunk", "measure_performance"} | searches
    assert (
        asked(PAPER, NOWHERE, "hypothesis", {"hypothesis": "second-seed"}, 1).gpu == PAPER["resources"]["training_gpus"]
    )


def test_several_nodes_are_asked_for_by_node():
    config = copy.deepcopy(PAPER)
    config["resources"] |= {"training_gpus": 24, "training_nodes": 3}
    one, many = asked(PAPER, NOWHERE, "train_lm", {}, 1), asked(config, NOWHERE, "train_lm", {}, 1)
    assert (many.gpu, many.gres, many.nodes, many.mpi, many.tasks, many.tasks_per_gpu) == (0, "gpu:8", 3, "srun", 3, 0)
    assert (one.gpu, one.gres, one.nodes, one.mpi, one.tasks, one.tasks_per_gpu) == (8, "", 1, None, None, None)
    assert many.mem_mb == one.mem_mb  # of each node
    assert many.runtime < one.runtime / 2


def test_small_jobs_ask_for_one_thread_and_large_ones_for_all():
    assert [threads_for(Work(likely=Counter(exact_flops=flops)), 0, 8) for flops in (1e9, 5e11, 1e15)] == [1, 4, 8]
    assert threads_for(Work(likely=Counter(measuring_seconds=1e6)), 0, 8) == 1
    assert [threads_for(Work(likely=Counter(exact_flops=1e9)), gpus, 6) for gpus in (1, 2)] == [4, 6]


def test_jobs_beside_which_others_run_ask_for_more_threads_only_if_they_are_long():
    run = run_of(DEMO, DEMO_TOKENS, 8160)
    threads = {job.name: threads_of(run, job.rule, job.wildcards) for job in all_jobs(run) if job.rule in RULES}
    several = {name for name, number in threads.items() if number > 1 and "neighbours" not in name}
    assert several - set(requests.WAITED_FOR) == {
        f"hypothesis/{name}"
        for name in (
            "softmax-capacity",
            "adaptive-capacity",
            "clustering",
            "memorisation",
            "soft-labels",
            "second-seed",
        )
    }
    assert threads["train_lm"] == 8  # the whole run waits for it
    assert threads_of(run_of(PAPER, *tokens_of(PAPER, NOWHERE)), "retrieve_exact", PAIRS[0] | {"block": "0"}) == 4


def test_on_one_machine_a_job_leaves_half_of_the_cores_to_others_unless_they_wait_for_it():
    assert [threads_beside_others("hypothesis", 4, cores) for cores in (1, 2, 3, 4, 6, 8, 16)] == [1, 1, 1, 2, 3, 4, 4]
    assert [threads_beside_others(rule, 8, 2) for rule in ("train_lm", "binarise", "tables")] == [8, 8, 1]


def test_tokens_are_those_of_the_corpus_else_of_the_config_else_no_fewer_than_there_can_be(tmp_path):
    manifest = tmp_path / "manifest.json"
    counted = {"train": 5, "valid": 3, "test": 2}
    assert tokens_of(PAPER, manifest) == (PAPER["corpus"]["token_counts"], None)
    (tmp_path / "a.txt").write_text("a b c\n" * 100)
    config = copy.deepcopy(DEMO)
    config["corpus"] |= {"source": "text", "text": config["corpus"]["text"] | {"folder": str(tmp_path)}}
    assert tokens_of(config, manifest) == (dict.fromkeys(counted, 601), None)
    manifest.write_text("{")
    assert tokens_of(config, manifest)[0]["train"] == 601
    manifest.write_text(json.dumps({"tokens": counted, "vocabulary_size": 640}))
    assert tokens_of(config, manifest) == (counted, 640)
    config["corpus"] |= {"source": "wikitext103"}
    assert tokens_of(config, NOWHERE)[0] == PAPER["corpus"]["token_counts"]
