import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from knnlm.running.processes import end_with_children

WORKFLOW = Path(__file__).parents[3] / "workflow"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an orphan ends by itself on Linux only")


def start(code, *words):
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], env=environment, stdout=subprocess.PIPE, text=True
    )


WATCHER = """
import sys, time
from knnlm.running.processes import die_with
die_with(int(sys.argv[1]))
print("alive", flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_another_that_is_not_its_parent():
    other = subprocess.Popen(["sleep", "60"])
    with start(WATCHER, other.pid) as process:
        assert process.stdout.readline() == "alive\n"
        assert process.poll() is None
        other.kill()  # and nobody has waited for it yet: it is a zombie
        assert process.wait(timeout=10) == -signal.SIGKILL
    other.wait()


def test_a_process_ends_at_once_where_the_other_has_ended_before():
    other = subprocess.Popen(["true"])
    other.wait()
    with start(WATCHER, other.pid) as process:
        assert process.wait(timeout=10) == -signal.SIGKILL
        assert process.stdout.read() == ""


PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                          "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_is_ended_with_a_child_that_would_outlive_it():
    with start(PARENT) as process:
        child = os.pidfd_open(int(process.stdout.readline()))
        end_with_children(process)
        assert process.returncode == -signal.SIGTERM
        assert select.select([child], [], [], 10)[0] == [child]


POOL = """
import os, time
from knnlm.corpus.tokenise import tokenise_stream
lines = tokenise_stream((f"line {number}" for number in range(10**9)), processes=2)
next(lines)
print(*open(f"/proc/self/task/{os.getpid()}/children").read().split(), flush=True)
time.sleep(60)
"""


def test_worker_processes_end_with_the_step_that_is_killed():
    with start(POOL) as step:
        workers = [os.pidfd_open(int(number)) for number in step.stdout.readline().split()]
        assert len(workers) == 2
        step.kill()
    for worker in workers:
        assert select.select([worker], [], [], 10)[0]
        os.close(worker)
