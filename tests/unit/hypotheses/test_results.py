"""A step that is killed between its results makes each of them once, and ends in the files of a step that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stores import known

from knnlm.components.catalogue import BASE, Component
from knnlm.components.columns import save_components
from knnlm.hypotheses.results import Result, forget, keep, kept
from knnlm.storage.arrays import save_array

STEP = """
import os, signal, sys
import numpy as np
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.results import Result
from knnlm.running.step import run
from knnlm.steps import hypothesis

def make(inputs, number):
    print("making", number, flush=True)
    random = {split: np.random.default_rng(number) for split in EVALUATED}
    log_p = {split: random[split].uniform(-3, -1, len(inputs.gold[split])).astype(np.float32) for split in EVALUATED}
    facts = {"loss": number / 7, "cut_off": True, "why": "a, b", "correlation": float("nan")}
    return Result(inputs.component(str(number), x=number / 3), log_p, facts)

def components(inputs):
    for number in range(4):
        yield inputs.kept(str(number), lambda: make(inputs, number))
        if number == int(os.environ["DIES_AFTER"]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.modules["knnlm.hypotheses.four"] = sys.modules["__main__"]
run(hypothesis.main)
"""


@pytest.fixture
def step(tmp_path):
    """Return a function that runs a step of four components, killed after `dies_after`; it returns those made."""
    random = np.random.default_rng(1)
    for split in ("valid", "test"):
        save_array(tmp_path / f"{split}.npy", random.integers(0, 5, 9).astype(np.int32))
    save_array(tmp_path / "continuation.npy", np.zeros(5, bool))
    known(*sorted(tmp_path.glob("*.npy")))
    save_components(
        tmp_path / "base.json",
        [BASE],
        {split: [np.full(9, -2.0, np.float32)] for split in ("valid", "test")},
        "checkpoint",
    )
    code = tmp_path / "step.py"
    code.write_text(STEP)

    def run(output: str, dies_after: int = -1, **settings: object) -> list[int]:
        given = {"hypothesis": "four", "seed": 1, "settings": settings}
        words = [
            "--settings",
            json.dumps(given),
            "--family",
            "four",
            "--tokens",
            "valid.npy",
            "test.npy",
            "--continuation",
            "continuation.npy",
        ]
        words += ["--base", "base.json", "--code", "step.py", "--checkpoints", "four.checkpoints"]
        words += ["--descriptions", f"{output}.json", "--facts", f"{output}.csv", "--speeds", f"{output}.speeds.csv"]
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[3] / "workflow"),
            "DIES_AFTER": str(dies_after),
        }
        done = subprocess.run(
            [sys.executable, code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == (0 if dies_after < 0 else -signal.SIGKILL), done.stderr
        assert (tmp_path / "four.checkpoints").exists() == (dies_after >= 0)
        return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("making")]

    return run


def outputs(folder: Path, name: str) -> dict[str, bytes | dict]:
    """Return the content of a step's files, whatever they are called."""
    manifest = json.loads((folder / f"{name}.json").read_text())
    files = {
        path.name.removeprefix(name): path.read_bytes()
        for path in folder.glob(f"{name}.*")
        if path.suffix in (".npy", ".csv")
    }
    return {**files, "components": manifest["components"]}


def test_each_result_is_made_once_whenever_the_step_is_killed(step, tmp_path):
    assert step("undisturbed") == [0, 1, 2, 3]
    assert step("killed", dies_after=0) == [0]
    assert step("killed", dies_after=2) == [1, 2]
    assert not (tmp_path / "killed.json").exists()
    assert step("killed") == [3]
    found = outputs(tmp_path, "killed")
    assert found == outputs(tmp_path, "undisturbed")
    assert len(found) == 5
    facts = found[".csv"].decode().splitlines()
    assert facts[:4] == [
        "hypothesis,component,quantity,value",
        "four,four-0,loss,0",
        "four,four-0,cut_off,True",
        'four,four-0,why,"a, b"',
    ]
    assert facts[4:6] == ["four,four-0,correlation,", "four,four-1,loss,0.1428571429"]


def test_nothing_is_kept_of_other_settings_code_or_inputs(step, tmp_path):
    step("first", dies_after=1)
    assert step("first", dies_after=0, k=2) == [0]
    (tmp_path / "step.py").write_text(STEP.replace("number / 7", "number / 8"))
    assert step("first", dies_after=0) == [0]
    save_components(
        tmp_path / "base.json",
        [BASE],
        {split: [np.full(9, -2.5, np.float32)] for split in ("valid", "test")},
        "checkpoint",
    )
    assert step("first") == [0, 1, 2, 3]


def test_what_is_not_whole_is_not_taken(tmp_path):
    folder, log_p = (
        tmp_path / "checkpoints" / "results",
        {"valid": np.arange(3, dtype=np.float32), "test": np.arange(2, dtype=np.float32)},
    )
    assert kept(folder) is None
    keep(folder, Result(Component("a", "b", x=1 / 3), log_p, {"loss": 0.1}))
    found = kept(folder)
    assert (found.component, found.facts) == (Component("a", "b", x=1 / 3), {"loss": 0.1})
    assert all(np.array_equal(found.log_p[split], log_p[split]) for split in log_p)
    content = bytearray((folder / "test.npy").read_bytes())
    content[-50] ^= 1
    (folder / "test.npy").write_bytes(content)
    assert kept(folder) is None
    forget(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_training_s_checkpoints_are_not_forgotten(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "training").mkdir()
    forget(tmp_path / "results")
    forget(tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
