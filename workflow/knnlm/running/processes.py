"""Processes that a step starts: they end with it, and the one that fails says why.

A process ends with the one it works for, however that ends. An orphan would go on writing into a run that has been
started again. Only Linux has ways to do this; elsewhere, whoever kills a process should kill its children too.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

LONGEST_REASON = 300  # characters


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends; a child process calls it first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, the signal at the parent's death


def die_with(process: int) -> None:
    """Kill this process when another one, its parent or not, ends or has ended already."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    except OSError:  # a kernel older than Linux 5.3
        return

    def wait() -> None:
        select.select([descriptor], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def end_with_children(process: subprocess.Popen) -> None:
    """End a process that has done its work, and on Linux those of its children that outlive it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = children.read_text(encoding="utf-8").split() if children.exists() else []
    process.terminate()  # srun ends what it has started on other nodes
    process.wait()
    for child in map(int, started):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def reason_in(output: str) -> str:
    """Return the end of a sentence: why a program has failed, by the last line of its output, and where the rest is.

    Most often it is a traceback. The terminal shows a job's log, so it is kept in a file beside that, or else printed.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    last = lines[-1][:LONGEST_REASON]
    reason = "".join(character if character.isprintable() else " " for character in last).rstrip(". ")
    if log := os.environ.get("KNNLM_LOG"):
        kept = Path(log).with_suffix(".output.txt")
        with suppress(OSError):
            kept.write_text(output, encoding="utf-8")
            return f"{reason}; see {kept} for what else it said."
    print(output, file=sys.stderr)
    return f"{reason}; see above for what else it said."
