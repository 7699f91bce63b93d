"""Peak memory of this process, in the kernel's own accounting."""

import math
import threading
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.005
STATUS = Path("/proc/self/status")  # `ru_maxrss` would count what the parent process had when it started this one


def memory_bytes(field: str) -> float:
    """Return a field of Linux's account of this process in bytes; NaN on other systems."""
    lines = STATUS.read_text(encoding="utf-8").splitlines() if STATUS.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), math.nan)


class PeakMemory:
    """The highest memory of this process, by the kernel's own accounting."""

    def __init__(self):
        self.own = math.nan  # while it is open, without memory-mapped files, which the kernel may drop at any time
        self.resident = math.nan  # since the process began, all pages
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        self.resident = memory_bytes("VmHWM")

    def _look(self) -> None:  # as the kernel keeps no record of the highest value
        while True:
            self.own = max(memory_bytes("RssAnon"), self.own)  # in this order NaN gives way
            if self._closed.wait(SECONDS_BETWEEN_LOOKS):
                return
