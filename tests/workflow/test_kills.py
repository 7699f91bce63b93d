"""`kill -9` of Snakemake and of its jobs at seeded moments, then the same command again.

It ends in the same files as an undisturbed run, bit for bit.
"""

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

from knnlm.cost.hours import Times, read_times

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="an orphan ends by itself on Linux only"),
]

RUN = "results/tiny"
SEED = 1
UPDATES, SAVED_EVERY = 60, 30  # of `tiny`
MOMENTS = 3
# Stage: the file that is asked for, what is deleted before, as patterns, and the job, by its log.
STAGES = {
    "training": (f"{RUN}/lm/model.pt", ["lm"], "train_lm"),
    "extraction": (f"{RUN}/datastore/chunk-0/manifest.json", ["datastore/chunk-0"], "datastore_chunk/0"),
    "index filling": (f"{RUN}/index/att-l2/chunk-0.json", ["index/att-l2/chunk-0.*"], "fill_index/att-l2-0"),
    "exact search": (
        f"{RUN}/neighbours/att-l2-exact/manifest.json",
        ["neighbours/att-l2-exact"],
        "retrieve/att-l2-exact",
    ),
    "head training": (
        f"{RUN}/hypotheses/interpolated-loss.json",
        ["hypotheses/interpolated-loss.*"],
        "hypothesis/interpolated-loss",
    ),
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
                    if (
                        process.exe() == os.path.realpath(sys.executable)
                        and "-m" in process.cmdline()
                        and "snakemake" not in process.cmdline()
                    ):
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
        """Kill Snakemake, the step or what that runs, and see it all end; False where it had ended already."""
        whole, victims = [], []
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.driver.pid)
            whole = [driver, *driver.children(recursive=True)]
            steps = self.steps()
            victims = {"driver": [driver], "job": steps[:1], "fairseq": steps[1:]}[who]
            for victim in victims:
                victim.kill()
        if self.driver.wait(timeout=900) == 0:
            return False
        assert victims, self.output()
        deadline = time.monotonic() + 60
        while any(is_alive(process) for process in whole):
            assert time.monotonic() < deadline, whole
            time.sleep(0.05)
        return True

    def finish(self, status=0):
        self.driver.wait(timeout=900)
        assert self.driver.returncode == status, self.output()
        return self


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def project(finished, tmp_path):
    return finished.copied(tmp_path / "project", "neighbours", "report.html")


@pytest.fixture
def attempt(project):
    """Return a function that starts a command; whatever a failed test leaves running is ended."""
    started = []

    def start(*words, **options):
        started.append(Attempt(project, *words, **options))
        return started[-1]

    yield start
    for one in started:
        if one.driver.poll() is None:
            os.killpg(one.driver.pid, signal.SIGKILL)
            one.driver.wait()


def times_of(project, job) -> Times:
    """Return when a job's process started, began to compute and ended, the last time that it was not killed."""
    (times,) = [times for times in read_times(project.folder / RUN / "logs") if times.job == job]
    return times


def delete(project, patterns):
    for pattern in patterns:
        for path in (project.folder / RUN).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def assert_same_files(project, finished, patterns):
    """Compare with the undisturbed run, and see that nothing half-written is left."""
    found = [path for pattern in patterns for path in (finished.folder / RUN).glob(pattern)]
    files = [
        file
        for path in found
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file() and "checkpoints" not in file.parts and file.suffix != ".checked"
    ]
    assert files
    for file in files:
        again = project.folder / file.relative_to(finished.folder)
        if file.name == "loss.csv":  # it holds a speed
            pd.testing.assert_frame_equal(
                *(pd.read_csv(path).drop(columns="tokens_per_second") for path in (again, file))
            )
        else:
            assert again.read_bytes() == file.read_bytes(), again
    assert not half_written(project)


def half_written(project):
    return [*(project.folder / RUN).rglob("*.unfinished"), *(project.folder / RUN).rglob("*.tmp")]


@pytest.mark.parametrize("who", ["driver", "job"])
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "training"])
def test_after_kills_the_same_command_ends_in_the_same_files(stage, who, attempt, project, finished):
    target, patterns, job = STAGES[stage]
    delete(project, patterns)
    for moment in moments(stage, who):
        while not killed_at(moment, who, attempt(target), times_of(project, job)):
            delete(
                project, patterns
            )  # the step was faster this time; an earlier moment, by the times that it has left now
            moment *= 0.9
    attempt(target).finish()
    assert_same_files(project, finished, patterns)


def moments(stage, who):
    """Return a random moment in each third of what a stage computes, from 0 to 1; each victim has its own."""
    return (np.arange(MOMENTS) + np.random.default_rng([SEED, *f"{stage} {who}".encode()]).random(MOMENTS)) / MOMENTS


def killed_at(moment, who, running, times):
    """Kill at a moment of what the step computes, after its imports; False where it ended before.

    The moment is right if the step takes as long as it has taken.
    """
    running.wait_for(running.steps)
    time.sleep(times.began - times.started + moment * (times.ended - times.began))
    if running.steps():
        return running.kill(who)
    running.finish()
    return False


@pytest.mark.parametrize("who", ["driver", "job", "fairseq"])
def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_loss_curve(who, attempt, project, finished):
    target, patterns, _ = STAGES["training"]
    delete(project, patterns)
    made = 0
    for moment in moments("training", who):
        running = attempt(target)
        running.wait_for_update(1 + round(moment * (UPDATES - 1)))
        assert running.kill(who)
        assert made - SAVED_EVERY < running.updates()[0] <= made + 1
        made = running.updates()[-1]
        assert who != "fairseq" or "Error: fairseq-train was killed by SIGKILL" in running.output()
    last = attempt(target).finish()
    assert made - SAVED_EVERY < last.updates()[0] <= made + 1
    assert_same_files(project, finished, patterns)


def test_a_config_that_changed_after_a_kill_starts_its_own_training_and_changed_back_goes_on(
    attempt, project, finished
):
    target, patterns, _ = STAGES["training"]
    delete(project, patterns)
    settings = (project.folder / "config/tiny.yaml").read_text()
    changed = settings.replace("learning_rate: 1.0e-2, warmup_updates: 10", "learning_rate: 2.0e-2, warmup_updates: 10")
    assert changed != settings
    (project.folder / "config/changed.yaml").write_text(changed)
    for config in ("config/tiny.yaml", "config/changed.yaml"):
        running = attempt(target, config=config)
        running.wait_for_update(SAVED_EVERY + 2 if config == "config/tiny.yaml" else 3)
        assert running.kill("driver")
        assert running.updates()[0] == 1
    assert attempt(target).finish().updates()[0] == SAVED_EVERY + 1
    assert_same_files(project, finished, patterns)


def test_a_second_snakemake_on_a_run_is_refused_and_one_on_another_run_is_not(attempt, project, finished):
    target, patterns, _ = STAGES["training"]
    delete(project, patterns)
    (project.folder / "config/other.yaml").write_text(
        (project.folder / "config/tiny.yaml").read_text().replace("name: tiny", "name: other")
    )
    first = attempt(target)
    first.wait_for_update(2)
    fairseq = first.steps()[-1]
    fairseq.suspend()
    second = attempt(target).finish(status=1)
    (sentence,) = re.findall("^.*another Snakemake works on.*$", second.output(), flags=re.MULTILINE)
    advice = "wait until it has ended, or stop it and run the same command again"
    assert sentence == f"{RUN}: another Snakemake works on this run; {advice}."
    assert "Traceback" not in second.output()
    attempt("results/other/corpus/text/train.txt", config="config/other.yaml").finish()
    fairseq.resume()
    first.finish()
    assert_same_files(project, finished, patterns)


def stopped_while_it_writes(project, running):
    """Stop the step as soon as it has begun to write, and return it; None where it had written all by then."""
    for step in running.wait_for(lambda: half_written(project) and running.steps()) or ():
        with suppress(psutil.NoSuchProcess):
            step.suspend()
            if half_written(project):
                return step
            step.resume()
    return None


@pytest.mark.parametrize(
    ("how", "said"),
    [(signal.SIGINT, "Terminating processes on user request"), (signal.SIGTERM, "Will exit after finishing")],
)
def test_an_interrupted_job_leaves_nothing_half_written(how, said, attempt, project, finished):
    """Ctrl-C reaches Snakemake and its jobs; a SIGTERM for Snakemake alone lets the jobs that run end."""
    target, patterns, _ = STAGES["exact search"]  # which writes until it ends
    while not (step := stopped_while_it_writes(project, running := attempt(target))):
        running.finish()
        delete(project, patterns)
    os.killpg(running.driver.pid, how) if how == signal.SIGINT else running.driver.send_signal(how)
    assert running.wait_for(lambda: said in running.output()), running.output()
    assert half_written(project)
    step.resume()
    running.finish(status=1)
    assert not running.steps()
    assert (project.folder / target).exists() == (how == signal.SIGTERM)
    assert not half_written(project)
    attempt(target).finish()
    assert_same_files(project, finished, patterns)


def test_heads_that_were_trained_before_a_kill_are_not_trained_again(attempt, project, finished):
    """Twice the job is killed once it has trained another two heads of eight; the last attempt trains the others."""
    target, patterns = f"{RUN}/hypotheses/softmax-capacity.json", ["hypotheses/softmax-capacity.*"]
    delete(project, patterns)
    trained = []
    for who in ("job", "driver"):
        running = attempt(target)
        assert running.wait_for(lambda running=running: len(heads_of(running)) >= 2), running.output()
        assert running.kill(who)
        trained += heads_of(running)
    last = attempt(target).finish()
    again = [head for head in heads_of(last) if head in trained]
    assert len(again) <= 2  # of which one each was written to the log, but not yet kept
    assert len({*trained, *heads_of(last)}) == 8
    assert_same_files(project, finished, patterns)
    assert not list((project.folder / RUN / "hypotheses").glob("softmax-capacity.checkpoints"))


def heads_of(running):
    """Return the heads that an attempt has trained, in their order."""
    return re.findall(r"^(\S+) at \S+: 1 of 1, ", running.output(), flags=re.MULTILINE)
