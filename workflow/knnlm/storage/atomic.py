"""Writing a file whole or not at all."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knnlm.storage.locks import locked, remove_abandoned


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place only if the block succeeds.

    Files that killed attempts left under such names are removed first. An OSError of writing names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, f".{glob.escape(path.name)}.*.unfinished")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with naming(path), locked(unfinished):
            yield unfinished
            os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        # NumPy, PyTorch and FAISS do not pass on the system's reason; writing a little more brings it out.
        if getattr(error, "errno", None) is None:
            with naming(path), open(unfinished, "ab") as file:
                file.write(bytes(1 << 16))
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError that comes of writing, such as a full disk's, the name of the file; it has none of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".unfinished"):
            error.filename = str(path)
        raise
