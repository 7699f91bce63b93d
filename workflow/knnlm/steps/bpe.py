"""Learn BPE on the training text, encode the three splits and write fairseq's dictionary."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from knnlm.corpus import bpe
from knnlm.corpus.dictionary import dictionary_lines
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.running.step import run
from knnlm.storage.files import atomic, read_manifest, write_manifest


def main(arguments: argparse.Namespace) -> None:
    """Write the learned codes, the pieces of each split and the dictionary."""
    read_manifest(arguments.of_tokenised, kind="tokenised text")
    train = Path(arguments.tokenised[0])
    words: Counter[str] = Counter()
    with open(train, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            words.update(line.split())
    merges = arguments.settings["corpus"]["bpe_merges"]
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
    for tokenised, pieces in zip(arguments.tokenised, arguments.pieces, strict=True):
        with open(tokenised, "rb") as lines:
            total = sum(1 for _ in lines)
        with (
            atomic(pieces) as unfinished,
            open(tokenised, encoding="utf-8", newline="\n") as lines,
            open(unfinished, "w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(f"{encoder(line)}\n" for line in progress(lines, f"encode {tokenised} (lines)", total))
    with atomic(arguments.dictionary) as unfinished:
        lines = dictionary_lines(bpe.vocabulary_of(tokenizer), counts)
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with atomic(arguments.codes) as unfinished:
        tokenizer.save(str(unfinished))
    write_manifest(arguments.manifest, [*arguments.pieces, arguments.dictionary, arguments.codes], kind="pieces")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help='JSON: {"corpus"}')
    parser.add_argument("--tokenised", nargs=3, required=True, metavar="TXT", help="train, valid, test")
    parser.add_argument("--of-tokenised", required=True, metavar="JSON", help="manifest of the tokenised texts")
    parser.add_argument("--codes", required=True, help="the learned BPE, a file of the library tokenizers (written)")
    parser.add_argument("--pieces", nargs=3, required=True, metavar="TXT", help="train, valid, test (written)")
    parser.add_argument("--dictionary", required=True, help="fairseq's dict.txt (written)")
    parser.add_argument("--manifest", required=True, metavar="JSON", help="of pieces, dictionary and codes (written)")
    run(main, parser)
