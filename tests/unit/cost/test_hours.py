"""Predicted hours against sums worked out by hand, and measured ones against jobs whose times are known."""

import copy
import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from configs import config_of
from job_times import ratios

from knnlm.cost import stages
from knnlm.cost.hours import (
    CONSTANT,
    FAISS_OR_PANDAS,
    FIGURE,
    OF_A_CORE,
    OPERATIONS,
    SNAKEMAKE,
    SNAKEMAKE_JOB,
    SNAKEMAKE_START,
    TORCH,
    Times,
    job_seconds,
    measured_seconds,
    predicted_seconds,
    read_rates,
)
from knnlm.cost.hypotheses import TRAINING_SECONDS
from knnlm.cost.rules import RULES, TRAINED, jobs, plan, whole_plan
from knnlm.cost.sizes import Run, forward_flops
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

DEMO = Run(config_of(), {"train": 404231, "valid": 16743, "test": 31756}, 8160)
PAPER = Run(config_of("wikitext103"), config_of("wikitext103")["corpus"]["token_counts"], 33344)
TINY = Run(config_of("tiny"), {"train": 30_000, "valid": 5000, "test": 5001}, 640)
RATES = dict.fromkeys(OPERATIONS, 1e10) | {"threads": 2.0}
RECORD = Path(__file__).parent / "demo"


def job(run: Run, name: str):
    (found,) = (job for job in jobs(run) if job.name == name)
    return found


def changed(run: Run, **sections) -> Run:
    config = copy.deepcopy(run.config)
    for section, values in sections.items():
        config[section] |= values
    return replace(run, config=config)


def times(name: str, started: float, ended: float, driver: float = 0.0) -> Times:
    return Times(name, driver, started, started, 1.0, ended, 1, 0)


@pytest.mark.parametrize(
    "run", [DEMO, PAPER, TINY, changed(DEMO, resources={"query_blocks": 3})], ids=["demo", "paper", "tiny", "blocks"]
)
def test_every_rule_has_a_stage_and_amounts_and_every_job_its_name(run):
    found = list(jobs(run))
    assert len({job.name for job in found}) == len(found)
    assert {job.rule for job in found} | {"join_neighbours"} == RULES.keys() - {"measure_performance"}
    assert {job.stage for job in found} == whole_plan(run).keys() - {"real scores", SNAKEMAKE, "total"}
    for some in found:
        done = RULES[some.rule](run, some.wildcards).likely
        assert set(done) <= {*OPERATIONS, *CONSTANT, *OF_A_CORE, "training_half_flops"}
        assert all(amount >= 0 for amount in done.values())


def test_training_by_hand():
    """19.4 TFLOP of training and 4 validations at 10 GFLOP/s, on both of two cores."""
    validated = 4 * 16743 * forward_flops(DEMO.config["lm"]["architecture"], 256, 8160)
    seconds = FAISS_OR_PANDAS + TRAINING_SECONDS + (stages.training(DEMO).flops + validated) / 1e10
    assert job_seconds(DEMO, job(DEMO, "train_lm"), RATES) == (pytest.approx(seconds), 1.0)
    assert predicted_seconds(DEMO, RATES)["training"] == pytest.approx(seconds)


def test_exact_retrieval_by_hand():
    flops, written = 2 * 48499 * 404231 * 128, 48499 * 512 * 8
    one = TORCH + 2 * flops / 1e10 + written / 1e10
    assert job_seconds(DEMO, job(DEMO, "retrieve/att-ip-exact"), RATES) == (
        pytest.approx(one),
        0.5,
    )  # on one of two cores
    assert predicted_seconds(DEMO, RATES)["exact retrieval"] == pytest.approx(
        (4 * one + 5 * written / 1e10) / 2
    )  # att, l2 also at the other five fractions


def test_small_jobs_run_side_by_side_and_a_rule_takes_no_less_than_its_longest_job():
    figures = len([job for job in jobs(DEMO) if job.rule == "plot"])
    assert predicted_seconds(DEMO, RATES)["figures"] == pytest.approx(figures * (FAISS_OR_PANDAS + FIGURE) / 2)
    assert predicted_seconds(DEMO, RATES | {"threads": 1000.0})["figures"] == pytest.approx(FAISS_OR_PANDAS + FIGURE)


def test_the_total_is_of_a_plain_snakemake():
    found = predicted_seconds(DEMO, RATES)
    assert found["total"] == pytest.approx(sum(found.values()) - found["total"] - found[TRAINED])
    untrained = [job for job in jobs(DEMO) if job.stage != TRAINED]
    assert found[SNAKEMAKE] == SNAKEMAKE_START + SNAKEMAKE_JOB * len(untrained)
    assert found[TRAINED] > found["training"]  # each of them trains an LM


@pytest.mark.parametrize("operation", OPERATIONS[:-1])
def test_a_faster_machine_takes_less(operation):
    slow, fast = predicted_seconds(DEMO, RATES), predicted_seconds(DEMO, RATES | {operation: 2e10})
    assert fast["total"] < slow["total"]
    assert all(fast[stage] <= slow[stage] for stage in slow)


def test_a_gpu_s_rates_are_those_of_each_gpu_and_a_machine_has_those_of_its_largest_job():
    one, eight = (changed(PAPER, resources={"training_gpus": count}) for count in (1, 8))
    slow, fast = (job_seconds(run, job(run, "train_lm"), RATES) for run in (one, eight))
    starts = FAISS_OR_PANDAS + TRAINING_SECONDS
    assert slow[0] - starts == pytest.approx(8 * (fast[0] - starts))
    assert slow[1] == fast[1] == 1.0
    alone, beside = (job_seconds(run, job(run, "fill_index/att-l2-0"), RATES) for run in (one, eight))
    assert alone == (beside[0], 1.0)
    assert beside[1] == 1 / 8  # of the GPUs


def test_the_whole_plan_adds_text_hypotheses_and_figures_to_the_main_result():
    whole, main = whole_plan(DEMO), plan(DEMO)
    assert set(whole) == {*main, "corpus", "hypotheses", "figures", SNAKEMAKE, TRAINED}
    assert list(whole)[-2:] == ["total", TRAINED]
    assert all(whole[stage] == work for stage, work in main.items() if stage != "total")
    assert whole["total"].disk_bytes == sum(work.disk_bytes for work in list(whole.values())[:-2])
    assert whole["hypotheses"].rows + whole[TRAINED].rows == len(registry.with_step(DEMO.config))
    without = changed(
        DEMO, hypotheses={name: entry | {"enabled": False} for name, entry in DEMO.config["hypotheses"].items()}
    )
    assert list(whole_plan(without))[-1] == "total"


def test_what_a_stage_took_is_known_when_all_its_jobs_have_left_their_times():
    found = [times("train_lm", 3, 10), times("tables", 20, 24), times("train_index/att-l2", 12, 14)]
    assert measured_seconds(DEMO, found) == {"training": 7}
    found.append(times("helped_tokens", 22, 25))
    assert measured_seconds(DEMO, found) == {"training": 7, "tables": 5}


def test_what_a_finished_run_took_adds_up():
    names = [job.name for job in jobs(DEMO) if job.stage != TRAINED]
    found = measured_seconds(DEMO, [times(name, 2 + 3 * place, 4 + 3 * place) for place, name in enumerate(names)])
    assert TRAINED not in found
    assert found["total"] == pytest.approx(1 + 3 * len(names))
    assert found[SNAKEMAKE] == pytest.approx(2 + len(names) - 1)
    assert found["figures"] == pytest.approx(2 * len([name for name in names if name.startswith("plot/")]))
    assert ratios({"figures": 84.0, "total": 1.0, TRAINED: 5.0}, found) == {
        "figures": 84 / found["figures"],
        "total": 1 / found["total"],
    }


def write_rates(path, rates: dict) -> str:
    path.write_text("operation,rate,unit\n" + "".join(f"{name},{rate},a second\n" for name, rate in rates.items()))
    return str(path)


def test_rates_are_read(tmp_path):
    assert read_rates(write_rates(tmp_path / "rates.csv", RATES)) == RATES


@pytest.mark.parametrize(
    ("rates", "wrong"),
    [
        ({name: 1.0 for name in OPERATIONS if name != "lookups"}, "has no rate above 0 of lookups"),
        (RATES | {"lookups": 0}, "has no rate above 0 of lookups"),
        (RATES | {"lookups": "nan"}, "has no rate above 0 of lookups"),
        (RATES | {"lookups": "fast"}, "not a readable table of rates"),
    ],
)
def test_a_table_of_other_things_is_refused_by_name(rates, wrong, tmp_path):
    with pytest.raises(KnnlmError, match=rf"rates\.csv: {wrong}.*; run `snakemake performance` again\.$"):
        read_rates(write_rates(tmp_path / "rates.csv", rates))
    with pytest.raises(KnnlmError, match=r"none\.csv: not a readable table of rates"):
        read_rates(tmp_path / "none.csv")


def test_the_prediction_for_the_demo_is_within_a_half_of_what_it_took():
    """As recorded on two quiet cores, whatever this machine does meanwhile.

    If you change the demo or the estimates by much, record again: run `make demo`, `snakemake performance` and
    `snakemake plan`, and copy tables/rates.csv, tables/plan.csv and corpus/tokens/manifest.json of results/demo to
    tests/unit/cost/demo/.
    """
    facts = json.loads((RECORD / "manifest.json").read_text())
    run = Run(config_of(), facts["tokens"], facts["vocabulary_size"])
    with open(RECORD / "plan.csv", newline="") as file:
        measured = {
            row["stage"]: float(row["measured_seconds"]) for row in csv.DictReader(file) if row["measured_seconds"]
        }
    assert measured["total"] > 600
    found = ratios(predicted_seconds(run, read_rates(RECORD / "rates.csv")), measured)
    assert 1 / 1.5 < found["total"] < 1.5
    assert all(1 / 2.5 < found[stage] < 2.5 for stage, seconds in measured.items() if seconds > 60)
