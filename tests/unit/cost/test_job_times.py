"""Times of steps: what a step leaves, and where a run's time went, by hand and counted moment by moment."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_times import slowdown

from knnlm.cost.hours import Times, computed_and_wall_seconds, covered_seconds, idle_seconds, read_times, wall_seconds
from knnlm.errors import KnnlmError
from knnlm.running.step import run


def job(name: str, started: float, began: float, ended: float, driver: float = 0.0, threads: int = 1) -> Times:
    return Times(name, driver, started, began, (began - started) / 2, ended, threads, 0)


# Snakemake starts at 0; `a` starts at 2 and computes 3..5, `b` computes 4..7, nothing runs 7..8, `c` starts at 8 and
# computes 9..10.
RUN = [job("a", 2, 3, 5), job("b", 3, 4, 7, threads=3), job("c", 8, 9, 10)]


def test_the_share_of_a_run_by_hand():
    assert computed_and_wall_seconds(RUN) == (7 - 3 + 10 - 9, 10)
    assert idle_seconds(RUN) == pytest.approx(2 + 1)
    assert wall_seconds(RUN) == pytest.approx({"a": 1 + 2 / 4, "b": 2 * 3 / 4 + 2, "c": 2})


def test_start_ups_take_longer_than_their_cpu_time_where_others_compute():
    assert slowdown(RUN) == pytest.approx(2)


def test_the_time_between_two_snakemakes_does_not_count():
    later = [job("d", 1001, 1002, 1006, driver=1000)]
    assert computed_and_wall_seconds(RUN + later) == (5 + 4, 10 + 6)
    assert wall_seconds(RUN + later) == wall_seconds(RUN) | wall_seconds(later)


def test_nothing_is_known_of_a_run_without_times(tmp_path):
    assert read_times(tmp_path / "logs") == []
    assert computed_and_wall_seconds([]) == (0, 0)
    assert wall_seconds([]) == {}


moments = st.integers(0, 60)


@given(st.lists(st.tuples(moments, moments, moments, st.integers(1, 4)), min_size=1, max_size=8))
def test_counting_second_by_second_gives_the_same(drawn):
    records = [job(str(number), *sorted(times), threads=threads) for number, (*times, threads) in enumerate(drawn)]
    seconds = np.arange(60)[:, None]
    running, computing = (
        (begin <= seconds) & (seconds < [record.ended for record in records])
        for begin in ([record.started for record in records], [record.began for record in records])
    )
    assert covered_seconds((record.began, record.ended) for record in records) == computing.any(axis=1).sum()
    span = max(record.ended for record in records)
    assert computed_and_wall_seconds(records) == (computing.any(axis=1).sum(), span)
    assert idle_seconds(records) == span - running.any(axis=1).sum()
    weights = running * [record.threads for record in records]
    parts = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)).sum(axis=0)
    found = wall_seconds(records)
    assert [found.get(record.job, 0.0) for record in records] == pytest.approx(parts)


@pytest.fixture
def step(monkeypatch, tmp_path):
    """Return a function that runs a step as the workflow does, with its log in a run's folder."""
    monkeypatch.setenv("KNNLM_LOG", str(tmp_path / "logs/retrieve/att-l2-exact.log"))
    monkeypatch.setenv("KNNLM_DRIVER_STARTED", "1700000000.5")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return lambda main=lambda: None: run(main, [])


def test_a_step_leaves_its_times_beside_its_log(step, tmp_path):
    before = time.time()
    held = []
    step(lambda: held.append(np.ones(10_000_000)) or time.sleep(0.01))
    (found,) = read_times(tmp_path / "logs")
    assert (found.job, found.driver_started, found.threads) == ("retrieve/att-l2-exact", 1700000000.5, 2)
    assert found.started < before <= found.began <= found.ended - 0.01
    assert 0 < found.starting_cpu_seconds < time.process_time()
    assert found.ended <= time.time()
    assert 80_000_000 < found.peak_memory_bytes < 100e9
    step()
    (again,) = read_times(tmp_path / "logs")  # the last run counts
    assert again.began > found.ended


def test_a_step_that_fails_or_is_run_by_hand_leaves_none(step, tmp_path, monkeypatch):
    def fail():
        raise KnnlmError("No.")

    with pytest.raises(SystemExit):
        step(fail)
    monkeypatch.delenv("KNNLM_LOG")
    step()
    assert list(tmp_path.iterdir()) == []


def test_times_that_cannot_be_written_are_no_reason_to_fail(step, tmp_path):
    (tmp_path / "logs").write_text("no folder")
    step()


def test_what_is_no_record_is_named(tmp_path):
    (tmp_path / "tables.json").write_text("[]")
    with pytest.raises(KnnlmError, match=r"tables\.json: not the times of a step"):
        read_times(tmp_path)
    (tmp_path / "tables.json").write_text(json.dumps({"began": 1}))
    with pytest.raises(KnnlmError, match=r"tables\.json: not the times of a step"):
        read_times(tmp_path)
