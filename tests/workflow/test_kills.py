"""`kill -9` of Snakemake and of its jobs at seeded moments, then the same command again: the same files as an undisturbed run, bit for bit."""

import base64
import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="an orphan ends by itself on Linux only")]

RUN = "results/tiny"
SEED = 1
UPDATES, SAVED_EVERY = 60, 30  # of `tiny`
MOMENTS = 3
# Stage: the file that is asked for, what is deleted before, as patterns.
STAGES = {
    "training": (f"{RUN}/lm/model.pt", ["lm"]),
    "extraction": (f"{RUN}/datastore/chunk-0/manifest.json", ["datastore/chunk-0"]),
    "index filling": (f"{RUN}/index/att-l2/chunk-0.json", ["index/att-l2/chunk-0.*"]),
    "exact search": (f"{RUN}/neighbours/att-l2-exact/manifest.json", ["neighbours/att-l2-exact"]),
    "head training": (f"{RUN}/hypotheses/interpolated-loss.json", ["hypotheses/interpolated-loss.*"]),
}


class Attempt:
    """One start of a command, which the test may end before it has ended itself."""

    def __init__(self, project, target, **options):
        self.log = project.folder / f"attempt-{time.monotonic_ns()}.log"
        with open(self.log, "w") as output:
            self.driver = project.start(target, output=output, **options)

    def output(self):
        return self.log.read_text()

    def steps(self):
        """Return the process that runs a step, and after it the one that the step runs: fairseq's."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.driver.pid).children(recursive=True):
                with suppress(psutil.Error, OSError):
                    if process.exe() == os.path.realpath(sys.executable) and "-m" in process.cmdline() and "snakemake" not in process.cmdline():
                        found.append(process)
        return found

    def wait_for(self, condition):
        """Wait until the condition is true and return what it is; None where Snakemake ends before."""
        while not (found := condition()):
            if self.driver.poll() is not None:
                return None
            time.sleep(0.002)
        return found

    def wait_for_update(self, number):
        assert self.wait_for(lambda: f"training: update {number}," in self.output()), self.output()

    def updates(self):
        return [int(number) for number in re.findall(r"training: update (\d+),", self.output())]

    def kill(self, who):
        """Kill Snakemake, the step or what the step runs, all in one blow, and see that nothing of it goes on; False where it had ended already."""
        whole = [psutil.Process(self.driver.pid), *psutil.Process(self.driver.pid).children(recursive=True)] if self.driver.poll() is None else []
        victim = self.driver.pid if who == "driver" else next((process.pid for process in self.steps()[:: -1 if who == "fairseq" else 1]), None)
        if not whole or victim is None:
            self.finish()
            return False
        os.kill(victim, signal.SIGKILL)
        status = self.driver.wait(timeout=300)
        assert status != 0
        gone, alive = psutil.wait_procs(whole, timeout=5)
        assert not alive
        assert len(gone) == len(whole)
        return True

    def finish(self, status=0):
        self.driver.wait(timeout=300)
        assert self.driver.returncode == status, self.output()
        return self


@pytest.fixture
def project(finished, tmp_path):
    """Return a copy of the finished project; whatever a failed test leaves running in it is ended."""
    started, start = [], finished.start
    copied = finished.copied(tmp_path / "project", "neighbours", "report.html")
    copied.start = lambda *words, **options: started.append(start.__func__(copied, *words, **options)) or started[-1]
    yield copied
    for driver in started:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


def seconds_of(project, target):
    """Return how long the job took that made this file: Snakemake's own record."""
    record = json.loads((project.folder / ".snakemake/metadata" / base64.b64encode(target.encode()).decode()).read_text())
    return record["endtime"] - record["starttime"]


def delete(project, patterns):
    for pattern in patterns:
        for path in (project.folder / RUN).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def assert_same_files(project, finished, patterns):
    """Compare with the undisturbed run, and see that nothing half-written is left."""
    for pattern in patterns:
        for path in (finished.folder / RUN).glob(pattern):
            for want in path.rglob("*") if path.is_dir() else [path]:
                if want.is_file() and "checkpoints" not in want.parts:
                    have = project.folder / want.relative_to(finished.folder)
                    if want.name == "loss.csv":  # it holds a speed
                        pd.testing.assert_frame_equal(*(pd.read_csv(file).drop(columns="tokens_per_second") for file in (have, want)))
                    else:
                        assert have.read_bytes() == want.read_bytes(), have
    assert not half_written(project)


def half_written(project):
    return [*(project.folder / RUN).rglob("*.unfinished"), *(project.folder / RUN).rglob("*.tmp")]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "training"])
def test_after_kills_the_same_command_ends_in_the_same_files(stage, project, finished):
    target, patterns = STAGES[stage]
    delete(project, patterns)
    for seconds, who in zip(moments(stage, seconds_of(finished, target)), ("driver", "job", "driver"), strict=True):
        while not killed_after(seconds, who, Attempt(project, target)):
            delete(project, patterns)  # the step was faster this time; an earlier moment
            seconds *= 0.7
    Attempt(project, target).finish()
    assert_same_files(project, finished, patterns)


def moments(stage, length):
    """Return a random moment in each third of a stage."""
    return (np.arange(MOMENTS) + np.random.default_rng([SEED, *stage.encode()]).random(MOMENTS)) / MOMENTS * length


def killed_after(seconds, who, attempt):
    """Kill so long after the step has started; False where it ended before."""
    if attempt.wait_for(attempt.steps):
        time.sleep(seconds)
    return attempt.kill(who)


def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_loss_curve(project, finished):
    target, patterns = STAGES["training"]
    delete(project, patterns)
    made = 0
    for update, who in zip(moments("training", UPDATES - 1), ("driver", "job", "fairseq"), strict=True):
        attempt = Attempt(project, target)
        attempt.wait_for_update(1 + round(update))
        assert attempt.kill(who)
        assert made - SAVED_EVERY < attempt.updates()[0] <= made + 1
        made = attempt.updates()[-1]
        assert who != "fairseq" or "Error: fairseq-train was killed by SIGKILL" in attempt.output()
    last = Attempt(project, target).finish()
    assert made - SAVED_EVERY < last.updates()[0] <= made + 1
    assert_same_files(project, finished, patterns)


def test_a_config_that_changed_after_a_kill_starts_its_own_training_and_changed_back_goes_on(project, finished):
    target, patterns = STAGES["training"]
    delete(project, patterns)
    settings = (project.folder / "config/tiny.yaml").read_text()
    changed = settings.replace("learning_rate: 1.0e-2, warmup_updates: 10", "learning_rate: 2.0e-2, warmup_updates: 10")
    assert changed != settings
    (project.folder / "config/changed.yaml").write_text(changed)
    for config in ("config/tiny.yaml", "config/changed.yaml"):
        attempt = Attempt(project, target, config=config)
        attempt.wait_for_update(SAVED_EVERY + 2 if config == "config/tiny.yaml" else 3)
        assert attempt.kill("driver")
        assert attempt.updates()[0] == 1
    assert Attempt(project, target).finish().updates()[0] == SAVED_EVERY + 1
    assert_same_files(project, finished, patterns)


def test_a_second_snakemake_on_a_run_is_refused_and_one_on_another_run_is_not(project, finished):
    target, patterns = STAGES["training"]
    delete(project, patterns)
    (project.folder / "config/other.yaml").write_text((project.folder / "config/tiny.yaml").read_text().replace("name: tiny", "name: other"))
    first = Attempt(project, target)
    first.wait_for_update(2)
    second, other = Attempt(project, target), Attempt(project, "results/other/corpus/text/train.txt", config="config/other.yaml")
    second.finish(status=1)
    (sentence,) = re.findall("^.*another Snakemake works on.*$", second.output(), flags=re.MULTILINE)
    assert sentence == f"{RUN}: another Snakemake works on this run; wait until it has ended, or stop it and run the same command again."
    assert "Traceback" not in second.output()
    other.finish()
    first.finish()
    assert_same_files(project, finished, patterns)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_leaves_nothing_half_written(how, project, finished):
    """Ctrl-C reaches Snakemake and its jobs; a SIGTERM for Snakemake alone lets the jobs that run end."""
    target, patterns = STAGES["extraction"]
    delete(project, patterns)
    attempt = Attempt(project, target)
    attempt.wait_for(attempt.steps)
    time.sleep(0.3 * seconds_of(finished, target))
    os.killpg(attempt.driver.pid, how) if how == signal.SIGINT else attempt.driver.send_signal(how)
    attempt.finish(status=1)
    assert not attempt.steps()
    assert (project.folder / target).exists() == (how == signal.SIGTERM)
    assert not half_written(project)
    Attempt(project, target).finish()
    assert_same_files(project, finished, patterns)
