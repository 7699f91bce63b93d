"""Processes that end with the one they work for, however it ends: an orphan would go on writing into a run that has been started again.

Both ways are Linux's own; elsewhere they do nothing, and whoever kills a process should kill its children.
"""

import ctypes
import os
import select
import signal
import sys
import threading


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
