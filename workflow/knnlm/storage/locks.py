"""Locks that end with whoever holds them, however that ends: no lock is ever left behind by a kill."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock(path: str | Path, wait: bool = False) -> int | None:
    """Lock a file, which is made where it is missing, and return the descriptor that holds the lock until it is closed or this process ends.

    Returns None where the file system has no locks. Raises BlockingIOError where somebody else holds the lock, unless it is to `wait` for it, and
    OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # programs that are started do not inherit it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_LOCKS:
            return None
        raise
    return descriptor


@contextmanager
def locked(path: str | Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock on a file, as `lock` does, for as long as the block runs. Where somebody else holds it, say `waiting` and wait."""
    try:
        descriptor = lock(path)
    except BlockingIOError:
        if waiting:
            print(waiting, flush=True)
        descriptor = lock(path, wait=True)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove the files that match and that nobody holds the lock on: what a process that was killed has left behind."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            descriptor = lock(path)
            if descriptor is not None:
                try:
                    path.unlink()
                finally:
                    os.close(descriptor)
