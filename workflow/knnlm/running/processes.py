"""Processes that a step starts: how they end with it, and what one has said that has failed.

A process ends with the one it works for, however that ends: an orphan would go on writing into a run that has been started again. Both ways are
Linux's own; elsewhere they do nothing, and whoever kills a process should kill its children.
"""

import ctypes
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

LONGEST_REASON = 300  # characters


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends; for what a process calls first in a child of its own."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def die_with(process: int) -> None:
    """Kill this process when another one, which need not be its parent, ends or has ended already."""
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


def reason_in(output: str) -> str:
    """Return why a program has failed, the last line of its output that is not empty, and where to find the rest: the end of a sentence.

    The output, most often a traceback, is kept beside the log of the job and not in it, as the terminal shows what is there; where that cannot
    be, it is shown.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    reason = "".join(character if character.isprintable() else " " for character in lines[-1][:LONGEST_REASON]).rstrip(
        ". "
    )
    if log := os.environ.get("KNNLM_LOG"):
        kept = Path(log).with_suffix(".output.txt")
        with suppress(OSError):
            kept.write_text(output, encoding="utf-8")
            return f"{reason}; see {kept} for what else it said."
    print(output, file=sys.stderr)
    return f"{reason}; see above for what else it said."
