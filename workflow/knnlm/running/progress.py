"""Long loops say where they are: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 5.0


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, reporting on stderr under `label`; `total` is needed where `items` has no length."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total)
        return
    total = len(items) if total is None else total
    begin = last = time.monotonic()
    for done, item in enumerate(items):
        if (now := time.monotonic()) - last >= SECONDS_BETWEEN_LINES:
            last = now
            estimate = f", about {(now - begin) / done * (total - done):.0f} s to go" if done else ""
            print(f"{label}: {done} of {total}, {now - begin:.0f} s gone{estimate}", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {total} of {total}, {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
