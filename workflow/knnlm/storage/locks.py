"""Locks that end with their holder, however it ends: a kill leaves none behind.

`filelock` locks an open file, and the system drops that lock with the process. Its `FileLock` is not used here: without
the system's locks it falls back to marker files, and a marker outlives a holder that is killed.
"""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock(path: str | Path, wait: bool = False) -> int | None:
    """Lock a file, made if it is missing, and return the descriptor that holds the lock until it is closed or we end.

    Returns None, with a warning, if the file system has no locks. Raises BlockingIOError if another process holds the
    lock and we do not `wait` for it, and OSError if the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # programs that are started do not inherit it
    try:
        if lock_descriptor(descriptor, blocking=wait):
            return descriptor
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), os.fspath(path))
    except BaseException as error:
        os.close(descriptor)
        if getattr(error, "errno", None) not in NO_LOCKS:
            raise
    folder = os.path.dirname(path) or "."
    warnings.warn(f"{folder}: this file system has no locks; let no two runs write there at once.", stacklevel=2)
    return None


@contextmanager
def locked(path: str | Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock on a file while the block runs. If another process holds it, say `waiting` and wait."""
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
    """Remove the files that match and that no process holds a lock on: killed processes left them."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if (descriptor := lock(path)) is not None:
                try:
                    path.unlink()
                finally:
                    os.close(descriptor)
