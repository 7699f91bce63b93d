"""What jobs ask for, the plan and the hours, as recorded when three descriptions of a rule's work became one.

If you change an estimate or a shipped config on purpose, record again and look at what has changed:
`PYTHONPATH=workflow:tests/unit python tests/unit/cost/test_recorded.py`.
"""

import copy
import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
from configs import config_of

from knnlm.cost.hours import job_seconds, predicted_seconds, read_rates
from knnlm.cost.requests import asked
from knnlm.cost.rules import jobs, whole_plan
from knnlm.cost.sizes import run_of, tokens_of

HERE = Path(__file__).parent
FACTS = {
    "demo": {"tokens": {"train": 404231, "valid": 16743, "test": 31756}, "vocabulary_size": 8160},
    "tiny": {"tokens": {"train": 30000, "valid": 5000, "test": 5001}, "vocabulary_size": 640},
    "sotu": {"tokens": {"train": 2312345, "valid": 101234, "test": 150321}, "vocabulary_size": 11408},
    "wikitext103": {"tokens": {"train": 112735284, "valid": 237669, "test": 268161}, "vocabulary_size": 33344},
}
CHANGES = {  # sections of a config by the name of the case
    "not counted": {},  # the config's tokens, and types that are estimated
    "GPUs": {"resources": {"gpus": 2, "training_gpus": 4}},
    "nodes": {"resources": {"gpus": 1, "training_gpus": 24, "training_nodes": 3}},
    "blocks": {"resources": {"query_blocks": 3, "threads": 3}},
    "chunks": {"datastore": {"chunks": 7}},
    "flat": {"index": {"factory": "IVF64,Flat"}},
    "no GPU": {"resources": {"gpus": 0, "training_gpus": 0}},
}
CASES = [
    *FACTS,
    *(f"demo, {change}" for change in ("GPUs", "blocks", "chunks", "flat")),
    *(f"wikitext103, {change}" for change in ("not counted", "nodes", "no GPU")),
]


def numbers(case: str) -> Iterator[list[str]]:
    """Yield the line and seconds of each stage, request and seconds of each job; of a rule's jobs alike the first."""
    name, _, change = case.partition(", ")
    config = copy.deepcopy(config_of(*[name] * (name != "demo")))
    for section, values in CHANGES.get(change, {}).items():
        config[section] |= values
    rates = read_rates(HERE / "demo/rates.csv")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "manifest.json")
        if change != "not counted":
            manifest.write_text(json.dumps(FACTS[name]))
        run = run_of(config, *tokens_of(config, manifest))
        predicted = predicted_seconds(run, rates)
        for stage, work in whole_plan(run).items():
            sizes = work.rows, int(work.disk_bytes), int(work.memory_bytes), work.flops
            yield [case, stage, *_shown(*sizes, predicted.get(stage))]
        seen = set()
        for job in jobs(run):
            if job.wildcards.get("chunk", "0") >= "1":  # all chunks ask for as much
                continue
            first, second, third = (asked(config, manifest, job.rule, job.wildcards, attempt) for attempt in (1, 2, 3))
            row = _shown(*astuple(first), second.mem_mb, third.runtime, *job_seconds(run, job, rates))
            if (job.rule, *row) not in seen:
                seen.add((job.rule, *row))
                yield [case, job.name, *row]


def _shown(*values: object) -> list[str]:
    return [f"{value:.9g}" if isinstance(value, float) else str(value) for value in values]


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_the_recorded_ones(case):
    with open(HERE / "recorded.csv", newline="", encoding="utf-8") as file:
        assert list(numbers(case)) == [row for row in csv.reader(file) if row[0] == case]


if __name__ == "__main__":
    with open(HERE / "recorded.csv", "w", newline="", encoding="utf-8") as written:
        csv.writer(written, lineterminator="\n").writerows(row for case in CASES for row in numbers(case))
