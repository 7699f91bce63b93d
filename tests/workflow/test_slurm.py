"""The workflow on a real Slurm with one pretend GPU.

What its jobs ask for is told by Slurm's own records; a job without time or memory gets more of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml
from slurm_cluster import Cluster, unavailable, waited_for
from snakemake.utils import update_config, validate

from knnlm.cost import requests

pytestmark = pytest.mark.slow

# Seconds: one hidden state and metric, one chunk, one hypothesis that uses a GPU and one that does not.
SMALL = {
    "resources": {"gpus": 1, "training_gpus": 1, "threads": 2},
    "lm": {"training": {"updates": 60, "validate_every": 30, "save_every": 10}},
    "datastore": {"chunks": 1},
    "retrieval": {"h": ["att"], "metrics": ["l2"]},
}
HYPOTHESES = ("sparsification", "neighbours")
PAIR = {"h": "att", "metric": "l2"}
GPU_RULES = {
    "train_lm": ("train_lm", {}),
    "evaluation_states": ("evaluation_states", {}),
    "datastore_chunk_wildcards_0": ("datastore_chunk", {"chunk": "0"}),
    "train_index_wildcards_att_l2": ("train_index", PAIR),
    "fill_index_wildcards_att_l2_0": ("fill_index", {**PAIR, "chunk": "0"}),
    "retrieve_exact_wildcards_att_l2": ("retrieve_exact", PAIR),
    "retrieve_approximate_wildcards_att_l2": ("retrieve_approximate", PAIR),
    "hypothesis_wildcards_sparsification": ("hypothesis", {"hypothesis": "sparsification"}),
}
CPU_RULES = {"hypothesis_wildcards_neighbours": ("hypothesis", {"hypothesis": "neighbours"})}
CORPUS = ("corpus_text", "tokenise", "bpe", "binarise")
# The polls of a cluster with no accounting, for a test that cannot wait; a site needs none of them.
POLLING = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]


@dataclass
class Run:
    """A run that has ended: its folder, what Snakemake said, its exit status, and what Slurm recorded of its jobs."""

    folder: Path
    output: str
    status: int
    jobs: list[dict[str, str]]

    def of_rule(self, name: str) -> list[dict[str, str]]:
        """Return the records of the jobs of a rule, by the comment that they were submitted with."""
        return [job for job in self.jobs if job["Comment"] == f"rule_{name}"]


def start(folder: Path, *words: str) -> subprocess.Popen:
    """Start Snakemake with the shipped profile. The GPU is a file: steps are told to compute on the CPU."""
    files = ["--workflow-profile", "workflow/profiles/slurm", "--configfile", "config/tiny.yaml", "config/small.yaml"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words, *files, *POLLING],
        cwd=folder,
        env=os.environ | {"PATH": path, "KNNLM_DEVICE": "cpu"},
        **streams,
    )


def small_project(project) -> Path:
    entries = yaml.safe_load((project.folder / "config/hypotheses.yaml").read_text())["hypotheses"]
    overlay = SMALL | {"hypotheses": {name: {"enabled": name in HYPOTHESES} for name in entries}}
    (project.folder / "config/small.yaml").write_text(json.dumps(overlay))
    return project.folder.resolve()


def hang_until_the_time_limit(cluster: Cluster, folder: Path) -> None:
    """Stop the training once it has written a checkpoint, as a hanging file system would.

    Then tell Slurm that its job's time is over.
    """
    assert waited_for(lambda: list((folder / "results/tiny/lm/checkpoints").glob("*/checkpoint_last.pt")), 1200)
    for process in trainings(folder):
        os.kill(process, signal.SIGSTOP)
    (job,) = [job for job in cluster.jobs(folder) if job["Comment"] == "rule_train_lm"]
    subprocess.run(["scontrol", "update", f"JobId={job['JobId']}", "EndTime=now"], check=True)


def trainings(folder: Path) -> Iterator[int]:
    """Yield the processes of fairseq that work in a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and "fairseq_cli.train" in (process / "cmdline").read_text():
                yield int(process.name)
        except OSError:
            continue  # it has ended


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of one node."""
    if reason := unavailable():
        pytest.skip(f"no Slurm: {reason}")
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def runs(cluster, new_project):
    """Two runs at a time: the whole workflow, and one with little memory at first, whose training hangs."""
    whole, troubled = (small_project(new_project(name)) for name in ("whole", "troubled"))
    little = [f"{rule}:mem_mb=50 * 40 ** (attempt - 1)" for rule in CORPUS]
    on_cpu = ["train_lm:gpu=0"]  # else they would wait for the other run's GPU
    drivers = {
        whole: start(whole),
        troubled: start(troubled, "results/tiny/lm/model.pt", "--set-resources", *little, *on_cpu),
    }
    try:
        hang_until_the_time_limit(cluster, troubled)
        outputs = {folder: driver.communicate(timeout=1800)[0] for folder, driver in drivers.items()}
    finally:
        for driver in drivers.values():
            driver.kill()
    return [Run(folder, outputs[folder], driver.returncode, cluster.jobs(folder)) for folder, driver in drivers.items()]


@pytest.fixture(scope="module")
def whole(runs):
    assert runs[0].status == 0, runs[0].output
    return runs[0]


@pytest.fixture(scope="module")
def troubled(runs):
    assert runs[1].status == 0, runs[1].output
    return runs[1]


def megabytes(amount: str) -> float:
    """Return what Slurm prints as 4502M or 1.50G."""
    return float(amount[:-1]) * {"K": 1 / 1024, "M": 1, "G": 1024}[amount[-1]]


def minutes(limit: str) -> int:
    """Return what Slurm prints as [days-]hours:minutes:seconds."""
    days, _, clock = limit.rpartition("-")
    hours, mins, _ = map(int, clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + mins


def asked(folder: Path, rule: str, wildcards: dict, attempt: int = 1) -> requests.Request:
    config: dict = {}
    for name in ("config", "hypotheses", "tiny", "small"):
        update_config(config, yaml.safe_load((folder / f"config/{name}.yaml").read_text()))
    validate(config, str(folder / "workflow/schemas/config.schema.yaml"))
    return requests.asked(config, folder / "results/tiny/corpus/tokens/manifest.json", rule, wildcards, attempt)


def test_a_folder_whose_name_a_shell_would_read_as_code_is_refused(cluster, new_project):
    folder = small_project(new_project("odd"))
    odd = folder.rename(folder.with_name("$(touch pwned)"))
    driver = start(odd, "results/tiny/corpus/text/train.txt")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert "jobs on a cluster cannot be given a path or value with the character $ in it" in output
    assert "Traceback" not in output
    assert not list(odd.rglob("pwned"))
    assert not cluster.jobs(odd)


def test_the_whole_workflow_runs_on_slurm_from_text_to_report(whole):
    assert {job["JobState"] for job in whole.jobs} == {"COMPLETED"}
    components = pd.read_csv(whole.folder / "results/tiny/tables/components.csv")
    assert {"knn-att-l2-exact-real", "knn-att-l2-approximate-faiss"} <= set(components["component"])
    assert (whole.folder / "results/tiny/figures/verdicts.pdf").read_bytes().startswith(b"%PDF")
    driver = start(whole.folder, "--report", "results/tiny/report.html")
    output, _ = driver.communicate()
    assert driver.returncode == 0, output
    assert "components.csv" in (whole.folder / "results/tiny/report.html").read_text()


@pytest.mark.parametrize("name", [*GPU_RULES, *CPU_RULES])
def test_slurm_was_asked_for_what_the_rule_asks_for(name, whole):
    (job,) = whole.of_rule(name)
    request = asked(whole.folder, *(GPU_RULES | CPU_RULES)[name])
    assert re.sub(r"\W", ":", job.get("TresPerJob", "")) == ("gres:gpu:1" if name in GPU_RULES else "")
    assert megabytes(job["MinMemoryNode"]) == pytest.approx(request.mem_mb, rel=0.01)
    assert minutes(job["TimeLimit"]) == request.runtime
    assert int(job["CPUs/Task"]) == request.threads
    assert job["NumNodes"] == "1"


def test_small_jobs_are_grouped_and_ask_for_no_gpu(whole):
    others = [job for job in whole.jobs if job["Comment"].removeprefix("rule_") not in GPU_RULES | CPU_RULES]
    assert [sum(rule in job["Comment"] for job in others) for rule in (*CORPUS, "knn_components", "helped_tokens")] == [
        1
    ] * 6
    assert len(others) == 3
    assert not [job for job in others if "TresPerJob" in job]
    (corpus,) = [job for job in others if "corpus_text" in job["Comment"]]
    assert minutes(corpus["TimeLimit"]) == sum(asked(whole.folder, rule, {}).runtime for rule in CORPUS)


def test_at_most_one_gpu_job_ran_at_a_time(whole):
    times = sorted((job["StartTime"], job["EndTime"]) for job in whole.jobs if "TresPerJob" in job)
    assert len(times) == len(GPU_RULES)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(times))


def test_a_step_says_that_it_leaves_its_gpu_alone(whole):
    assert "computes on the CPU" in (whole.folder / "results/tiny/logs/evaluation_states.log").read_text()


def test_a_job_without_memory_succeeds_with_more_on_its_second_attempt(troubled):
    first, second = [job for job in troubled.jobs if "corpus_text" in job["Comment"]]
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert (megabytes(first["MinMemoryNode"]), megabytes(second["MinMemoryNode"])) == (
        50,
        pytest.approx(2000, rel=0.01),
    )
    assert "exceeded memory limit" in troubled.output


def test_a_job_that_hits_its_time_limit_says_so_and_starts_again_with_twice_as_much(troubled):
    first, second = troubled.of_rule("train_lm")
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    assert (
        minutes(second["TimeLimit"]) == 2 * asked(troubled.folder, "train_lm", {}).runtime
    )  # Slurm shows the first one's as it was cut short
    assert megabytes(second["MinMemoryNode"]) == pytest.approx(2 * megabytes(first["MinMemoryNode"]), rel=0.01)
    assert "SLURM status is: 'TIMEOUT'" in troubled.output
    assert "DUE TO TIME LIMIT" in troubled.output
    assert "Trying to restart job" in troubled.output


def test_the_second_attempt_goes_on_from_the_checkpoint_and_ends_in_the_same_loss_curve(whole, troubled):
    log = (troubled.folder / "results/tiny/logs/train_lm.log").read_text()
    assert "update 60," in log
    assert "update 5," not in log
    undisturbed, resumed = (
        pd.read_csv(run.folder / "results/tiny/lm/loss.csv").drop(columns="tokens_per_second")
        for run in (whole, troubled)
    )
    pd.testing.assert_frame_equal(undisturbed, resumed)
