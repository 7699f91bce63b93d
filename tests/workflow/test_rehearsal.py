"""The paper's own configuration with other sizes, whole: on this machine, and on a real Slurm with a pretend GPU.

Before a release: pytest -m release, most of an hour on two cores.
"""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from slurm_cluster import Cluster, unavailable
from wikitext_zip import NAME, wikitext_zip

from knnlm.analysis.rule import VERDICTS

pytestmark = pytest.mark.release

GPU = {"resources": {"gpus": 1, "training_gpus": 1, "threads": 2}}
# The polls of a cluster with no accounting, for a test that cannot wait; a site needs none of them.
POLLING = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
JOBS_OF_RULES = {"datastore_chunk": 64, "fill_index": 256, "training_neighbours": 64, "retrieve_exact": 16}
JOBS_OF_RULES |= {"retrieve_approximate": 16, "train_index": 4, "train_lm": 1, "evaluation_states": 1, "hypothesis": 17}
USING_A_GPU = JOBS_OF_RULES.keys() - {"hypothesis"}  # of hypotheses, some


@dataclass
class Rehearsal:
    """A run that has ended: its folder, what Snakemake said, and its tables."""

    folder: Path
    output: str

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"results/rehearsal/tables/{name}.csv")


def run(folder: Path, profile: str, address: str, config: dict, *words: str) -> Rehearsal:
    """Run the rehearsal from its text to its report, as a user would; steps compute on the CPU."""
    overlay = {"corpus": {"wikitext103": {"urls": [address]}}} | config
    (folder / "config/here.yaml").write_text(json.dumps(overlay))
    files = ["config/wikitext103.yaml", "config/rehearsal.yaml", "config/here.yaml"]
    report = ["--report", "results/rehearsal/report.html"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for targets in (["hypotheses", *words], ["hypotheses", *words, *report]):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *targets, "--workflow-profile", profile, "--configfile", *files],
            cwd=folder,
            env=os.environ | {"PATH": path, "KNNLM_DEVICE": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-20000:]
    return Rehearsal(folder, done.stdout)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server of this machine hands the zip out."""
    folder = tmp_path_factory.mktemp("server")
    wikitext_zip(folder / NAME)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{NAME}"
        server.shutdown()


@pytest.fixture(scope="module")
def local(new_project, address):
    return run(new_project("local").folder, "workflow/profiles/local", address, {})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := unavailable():
        pytest.skip(f"no Slurm: {reason}")
    running = Cluster(tmp_path_factory.mktemp("slurm"), gpus=2)  # most jobs want one
    yield running
    running.stop()


@pytest.fixture(scope="module")
def on_slurm(cluster, new_project, address):
    folder = new_project("on-slurm").folder.resolve()
    return run(folder, "workflow/profiles/slurm", address, GPU, *POLLING)


@pytest.fixture(scope="module", params=["local", "on_slurm"])
def rehearsal(request):
    return request.getfixturevalue(request.param)


def test_every_hypothesis_has_a_verdict(rehearsal):
    entries = yaml.safe_load((rehearsal.folder / "config/hypotheses.yaml").read_text())["hypotheses"]
    verdicts = rehearsal.table("verdicts")
    assert set(verdicts["hypothesis"]) == set(entries)
    assert verdicts["verdict"].isin(VERDICTS).all()
    assert (rehearsal.folder / "results/rehearsal/report.html").stat().st_size > 1e6


def test_the_papers_lists_were_computed_whole(rehearsal):
    names = set(rehearsal.table("components")["component"])
    for h in ("att", "ffn"):
        assert {f"softmax-capacity-{h}-{n}v-random" for n in range(1, 10)} <= names
        assert {f"mixture-of-softmaxes-{h}-{softmaxes}" for softmaxes in (2, 3, 4)} <= names
        for metric in ("l2", "ip"):
            assert {f"knn-{h}-{metric}-{search}-real" for search in ("exact", "approximate")} <= names
    assert {f"approximate-search-codes-{codes}" for codes in (16, 32, 64, 128)} <= names
    temperatures = rehearsal.table("temperature").groupby(["component", "split"]).size()
    assert set(temperatures) == {39}
    assert rehearsal.table("datastore_size")["fraction"].nunique() == 11


def test_every_mixture_has_a_perplexity_below_that_of_chance(rehearsal):
    facts = json.loads((rehearsal.folder / "results/rehearsal/corpus/tokens/manifest.json").read_text())
    for split, of_split in rehearsal.table("components").groupby("split"):
        pieces = facts["tokens"][split] / facts["words"][split]
        assert of_split["ppl"].between(1, facts["vocabulary_size"] ** pieces).all()


def test_every_job_of_slurm_ended_and_asked_for_what_its_rule_asks_for(on_slurm, cluster):
    jobs = cluster.jobs(on_slurm.folder)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    rules = Counter(re.sub(r"^rule_|_wildcards_.*$", "", job["Comment"]) for job in jobs)
    assert {rule: rules[rule] for rule in JOBS_OF_RULES} == JOBS_OF_RULES
    on_gpus = {re.sub(r"^rule_|_wildcards_.*$", "", job["Comment"]) for job in jobs if "TresPerJob" in job}
    assert on_gpus >= USING_A_GPU


def test_slurm_and_this_machine_come_to_the_same_verdicts(on_slurm, local):
    there, here = on_slurm.table("components"), local.table("components")
    assert there["component"].tolist() == here["component"].tolist()
    assert there["ppl"].to_numpy() == pytest.approx(here["ppl"].to_numpy(), rel=0.01)
