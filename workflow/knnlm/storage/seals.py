"""Seals: the SHA-256 of a file's content, written behind it, by which every reader knows the file whole and as it was written.

NumPy, FAISS and PyTorch read a sealed file like any other: what stands behind the content does not matter to them, memory-mapped or not.
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import BinaryIO

from knnlm.errors import KnnlmError

MAGIC = b"\nknnlm1\n"
SIZE = len(MAGIC) + hashlib.sha256().digest_size
BLOCK = 2**20  # bytes of a file that are in memory


def seal(path: str | Path) -> None:
    """Write the seal behind the content of a file that is complete."""
    with open(path, "r+b") as file:
        digest = _digest(file, os.path.getsize(path))
        file.write(MAGIC + digest)


def seal_of(path: str | Path) -> str | None:
    """Return the SHA-256 that a file's seal tells, hexadecimal, without reading the content; None where there is no seal."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - SIZE, 0))
        found = file.read(SIZE)
    return found[len(MAGIC) :].hex() if len(found) == SIZE and found.startswith(MAGIC) else None


def verified(path: str | Path) -> str:
    """Return the SHA-256 of a sealed file's content, hexadecimal, having found it to be what its seal tells; a process reads the file for it once.

    Raises KnnlmError, naming the file, if it is missing, cut short, damaged or not sealed.
    """
    try:
        facts = os.stat(path)
        return _verified(os.fspath(path), facts.st_ino, facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError:
        raise KnnlmError(f"{path}: the file is missing; rerun the step that makes it.") from None
    except OSError as error:
        raise KnnlmError(
            f"{path}: cannot be read ({error.strerror}); delete it and rerun the step that makes it."
        ) from None


@cache
def _verified(path: str, inode: int, size: int, modified: int) -> str:
    told = seal_of(path)
    if told is None:
        raise KnnlmError(
            f"{path}: cut short, damaged or from another version (no checksum at its end); delete it and rerun the step that makes it."
        )
    with open(path, "rb") as file:
        if _digest(file, size - SIZE).hex() != told:
            raise KnnlmError(
                f"{path}: damaged (its content does not have the checksum at its end); delete it and rerun the step that makes it."
            )
    return told


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 of the next `size` bytes of a file."""
    found = hashlib.sha256()
    while size and (block := file.read(min(BLOCK, size))):
        found.update(block)
        size -= len(block)
    return found.digest()
