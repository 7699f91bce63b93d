"""Make the page of findings from the tables of runs."""

from pathlib import Path

from knnlm.analysis.findings import page as page_of
from knnlm.storage.atomic import atomic


def main(folder: Path, page: Path) -> None:
    """Read the tables of the runs in a folder, and write the page."""
    text = page_of(folder)
    with atomic(page) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
