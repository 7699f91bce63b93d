"""What hypotheses say of their own work, and what follows, by hand."""

import copy
from dataclasses import replace

import pytest
from configs import config_of

from knnlm.cost.hypotheses import SECONDS, hypothesis, training_neighbours
from knnlm.cost.sizes import Run
from knnlm.cost.stages import states, training_job
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

DEMO = Run(config_of(), {"train": 404231, "valid": 16743, "test": 31756}, 8160)
EVALUATED = 16743 + 31756


def work_of(run: Run, name: str, **wildcards: str):
    return hypothesis(run, {"hypothesis": name, **wildcards})


@pytest.fixture
def own(monkeypatch, tmp_path):
    """Return a function that gives the run of one hypothesis alone, whose step and settings are written for it."""

    def made(step: str, **settings) -> Run:
        (tmp_path / "own.py").write_text(step)
        monkeypatch.setattr(registry, "STEPS", tmp_path)
        registry.read_step.cache_clear()
        registry._parsed.cache_clear()
        entry = {"enabled": True, "family": "own", "settings": settings, "after": []}
        return replace(DEMO, config={**DEMO.config, "hypotheses": {"own": entry}})

    yield made
    monkeypatch.undo()
    registry.read_step.cache_clear()
    registry._parsed.cache_clear()


def test_heads_by_hand():
    """For att and ffn a head of one and one of two embeddings a type, from random weights and from copies.

    Each has two passes, random weights at three rates, copies at one.
    """
    config = copy.deepcopy(DEMO.config)
    initial = {"random": {"rows": None, "learning_rates": [1, 2, 3]}, "copies": {"rows": 100000, "learning_rates": 1}}
    config["hypotheses"]["softmax-capacity"]["settings"]["initial"] = initial
    config["hypotheses"]["softmax-capacity"]["settings"]["recipe"]["passes"] = 2
    likely = work_of(replace(DEMO, config=config), "softmax-capacity").likely
    matrix = 128 * 8160
    trained, evaluated = 6 * matrix * 2 * (3 * 404231 + 100000), 2 * matrix * EVALUATED
    assert likely == {"head_flops": pytest.approx((trained + evaluated) * (1 + 2) * 2), "seconds": SECONDS}


def test_heads_that_another_setting_counts():
    """Two heads of twice the types, one by frequency and one by loss."""
    matrix = 128 * 8160
    likely = work_of(DEMO, "adaptive-capacity").likely
    assert likely["head_flops"] == pytest.approx((6 * matrix * 404231 + 2 * matrix * EVALUATED) * 2 * 2)


def test_rates_count_for_a_recipe_of_its_own():
    config = copy.deepcopy(DEMO.config)
    config["hypotheses"]["additional-linear"]["settings"]["recipe"] |= {"rows": 5000, "learning_rates": [1, 2]}
    matrix = 128 * 8160
    once, both = (work_of(run, "additional-linear").likely for run in (DEMO, replace(DEMO, config=config)))
    assert once["head_flops"] == pytest.approx(6 * matrix * 404231 + 2 * matrix * EVALUATED)
    assert both["head_flops"] == pytest.approx(6 * matrix * 2 * 5000 + 2 * matrix * EVALUATED)


def test_temperatures_by_hand():
    """Six counts of neighbours: on valid every third of the grid and ten more, and once over both splits."""
    tried = -(-len(DEMO.config["temperature"]["grid"]) // 3) + 10
    likely = work_of(DEMO, "neighbours").likely
    assert likely["neighbour_terms"] == pytest.approx(6 * (tried * 16743 + EVALUATED) * DEMO.k)


def test_memorisation_trains_for_its_own_updates_and_keeps_models():
    config = copy.deepcopy(DEMO.config)
    config["hypotheses"]["memorisation"]["settings"] |= {"updates": 800, "every": 400}
    run = replace(DEMO, config=config)
    half, whole = work_of(run, "memorisation"), work_of(DEMO, "memorisation")
    assert DEMO.config["hypotheses"]["memorisation"]["settings"]["updates"] == 1600
    kept = [2 * 2, 2 * 8]  # without dropout, and the control's
    states = (whole.likely["training_flops"] - 2 * half.likely["training_flops"]) / (kept[1] - 2 * kept[0])
    assert 0 < states < half.likely["training_flops"]
    model = (whole.disk_bytes - half.disk_bytes) / (kept[1] - kept[0])
    assert model > 4 * 4 * DEMO.parameters


def test_a_second_seed_trains_two_lms():
    training = training_job(DEMO)
    likely = work_of(DEMO, "second-seed").likely["training_flops"]
    assert likely == pytest.approx(2 * training.likely["training_flops"] + 2 * states(DEMO).flops)


def test_more_lists_are_more_look_ups_for_training_neighbours():
    config = copy.deepcopy(DEMO.config)
    config["hypotheses"]["soft-labels"]["settings"]["nprobe"] *= 2
    once, twice = (
        training_neighbours(run, {"hypothesis": "soft-labels"}) for run in (DEMO, replace(DEMO, config=config))
    )
    assert twice.likely["lookups"] == 2 * once.likely["lookups"]
    assert once.disk_bytes == 8 * DEMO.chunk_rows * (64 + 1)


def test_searches_by_hand_and_on_gpus_only_what_faiss_can_do_there():
    """Three numbers of lists, codes of 16 and 128 bytes, 8-bit codes; a GPU searches each number of lists anew.

    A comparison of 8-bit codes counts as a look-up for every two numbers.
    """
    config = copy.deepcopy(DEMO.config)
    config["lm"]["architecture"]["width"] = 256
    config["index"] |= {"factory": "IVF512,PQ32", "nprobe": 32}
    settings = config["hypotheses"]["approximate-search"]["settings"]
    settings |= {"nprobe": [1, 4, 32], "codes": [16, 32, 128], "factories": ["IVF512,SQ8"]}
    of_a_list, compared = EVALUATED * 404231 / 512, 2 * 404231 * 256
    filling = {"PQ": compared * (512 + 256), "SQ8": compared * 512}
    for gpus, visited in ((0, 32), (1, 1 + 4 + 32)):
        run = replace(DEMO, config=config | {"resources": config["resources"] | {"gpus": gpus}})
        likely = work_of(run, "approximate-search").likely
        here = {"lookups": visited * 32 + 32 * 16, "exact_flops": filling["PQ"]}
        there = {"lookups": 32 * 128 + 32 * 256 / 2, "exact_flops": filling["PQ"] + filling["SQ8"]}
        if not gpus:
            here, there = {kind: here[kind] + there[kind] for kind in here}, dict.fromkeys(there, 0)
        assert likely["lookups"] == pytest.approx(of_a_list * here["lookups"])
        assert likely["lookups_on_cpu"] == pytest.approx(of_a_list * there["lookups"])
        assert likely["exact_flops_on_cpu"] == pytest.approx(there["exact_flops"])
        assert likely["exact_flops"] > here["exact_flops"]  # training too


def test_a_step_that_says_nothing_is_estimated_by_what_it_reads(own):
    reads = 'NEEDS = ("states", "datastore", "temperature")\nSETTINGS = {"n": "counts", "rows": "count"}\n'
    silent = work_of(own(reads, n=[1, 2, 3], rows=1000), "own")
    assert silent.likely == {"seconds": SECONDS}
    assert silent.spare["disk_bytes"] == 2 * 404231 * 128
    assert silent.spare["neighbour_terms"] > 0
    telling = work_of(own(reads + 'WORK = {"heads": "n", "rows": "rows"}\n', n=[1, 2, 3], rows=1000), "own")
    assert telling.likely["head_flops"] == 6 * 128 * 8160 * 1000 * 6


def test_a_setting_that_is_not_there_is_named(own):
    run = own('NEEDS = ("states",)\nSETTINGS = {"n": "count"}\nWORK = {"heads": "recipe.n"}\n', n=1)
    with pytest.raises(KnnlmError, match=r"own\.py: WORK names recipe\.n, which is no setting of own"):
        work_of(run, "own")


@pytest.mark.parametrize("work", ['{"head": "n"}', '{"heads": ["n"]}', '["n"]'])
def test_a_word_that_is_not_known_is_refused(own, work):
    run = own(f'NEEDS = ("states",)\nSETTINGS = {{"n": "count"}}\nWORK = {work}\n', n=1)
    with pytest.raises(ValueError, match=r"WORK must name settings, as text with commas, for some of hidden_states"):
        registry.work(run.config, "own")
