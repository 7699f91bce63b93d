"""Learn BPE on the training text, encode the three splits and write fairseq's dictionary."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus import bpe
from knnlm.corpus.dictionary import dictionary_lines
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.storage.files import atomic, read_manifest, write_manifest


def main(
    settings: dict,
    tokenised: Sequence[Path],
    of_tokenised: Path,
    codes: Path,
    pieces: Sequence[Path],
    dictionary: Path,
    manifest: Path,
) -> None:
    """Write the learned codes, the pieces of each split and the dictionary."""
    read_manifest(of_tokenised, kind="tokenised text")
    train = tokenised[0]
    words: Counter[str] = Counter()
    with open(train, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            words.update(line.split())
    merges = settings["corpus"]["bpe_merges"]
    tokenizer = bpe.learn(train, words, merges)
    if (learned := len(bpe.merges_of(tokenizer))) < merges:
        print(
            f"Warning: corpus.bpe_merges is {merges}, but the training text gives {learned} merges only.",
            file=sys.stderr,
        )
    encoder = bpe.Encoder(tokenizer)
    counts = bpe.count_pieces(words, encoder)
    if not counts.keys() - {bpe.UNKNOWN}:
        raise KnnlmError(f"{train}: no word of the training text can be encoded; give more text.")
    for words_file, pieces_file in zip(tokenised, pieces, strict=True):
        with open(words_file, "rb") as lines:
            total = sum(1 for _ in lines)
        with (
            atomic(pieces_file) as unfinished,
            open(words_file, encoding="utf-8", newline="\n") as lines,
            open(unfinished, "w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(f"{encoder(line)}\n" for line in progress(lines, f"encode {words_file} (lines)", total))
    with atomic(dictionary) as unfinished:
        lines = dictionary_lines(bpe.vocabulary_of(tokenizer), counts)
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with atomic(codes) as unfinished:
        tokenizer.save(str(unfinished))
    write_manifest(manifest, [*pieces, dictionary, codes], kind="pieces")
