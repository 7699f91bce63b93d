"""Which jobs start first: those that others wait for before those, and of jobs that nothing waits for the longest."""

import copy
import json

import pytest
from configs import config_of

from knnlm.cost.order import priority
from knnlm.cost.rules import RULES, TRAINED, jobs
from knnlm.cost.sizes import run_of

DEMO, TOKENS = config_of(), {"train": 404231, "valid": 16743, "test": 31756}
GPU = config_of({"resources": {"gpus": 1, "training_gpus": 1}})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "manifest.json"
    path.write_text(json.dumps({"tokens": TOKENS, "vocabulary_size": 8160}))
    return path


def priorities(config: dict, manifest) -> dict[str, int]:
    run = run_of(config, TOKENS, 8160)
    mine = [job for job in jobs(run) if job.rule in RULES and job.stage not in (TRAINED, "tables", "figures")]
    return {job.name: priority(config, manifest, job.rule, job.wildcards) for job in mine}


@pytest.mark.parametrize("config", [DEMO, GPU], ids=["CPU", "GPU"])
def test_what_others_wait_for_goes_before_them(config, manifest):
    found = priorities(config, manifest)
    for pair in ("att-l2", "att-ip", "ffn-l2", "ffn-ip"):
        of_index = [f"train_index/{pair}", f"fill_index/{pair}-0", f"retrieve/{pair}-approximate"]
        ways = [found[name] for name in ("datastore_chunk/0", *of_index, f"knn_components/{pair}-approximate")]
        assert ways == sorted(ways, reverse=True)
        assert found["evaluation_states"] > found[f"retrieve/{pair}-exact"] > found[f"knn_components/{pair}-exact"]
    assert found["retrieve/att-l2-approximate"] > found["hypothesis/approximate-search"]


def test_the_main_result_goes_before_every_hypothesis_and_other_retrieval(manifest):
    found = priorities(DEMO, manifest)
    main = {"evaluation_states", "datastore_chunk/0", "datastore_chunk/1"}
    main |= {"retrieve/att-l2-exact", "knn_components/att-l2-exact"}
    assert min(found[name] for name in main) > max(found[name] for name in found.keys() - main)
    other = copy.deepcopy(DEMO)
    other["main"] |= {"h": "ffn", "metric": "ip"}
    found = priorities(other, manifest)
    assert found["knn_components/ffn-ip-exact"] > found["retrieve/att-l2-exact"]


def test_of_jobs_that_nothing_waits_for_the_longest_goes_first(manifest):
    found = priorities(DEMO, manifest)
    names = ("softmax-capacity", "clustering", "padding", "ensembling")
    ways = [found[f"hypothesis/{name}"] for name in names]
    assert ways == sorted(set(ways), reverse=True)


def test_a_job_without_a_corpus_to_count_has_a_priority_too():
    assert priority(DEMO, "there/is/no/manifest.json", "train_lm", {}) > 0
