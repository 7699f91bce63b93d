"""Learn BPE on the training text, encode the three splits and write fairseq's dictionary."""

import sys
from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus import bpe
from knnlm.corpus.dictionary import UNKNOWN, dictionary_lines
from knnlm.corpus.text import rewrite
from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import read_manifest, write_manifest


def main(
    settings: dict, tokenised: Sequence[Path], of_tokenised: Path,
    codes: Path, pieces: Sequence[Path], dictionary: Path, manifest: Path,
) -> None:  # fmt: skip
    """Write the learned codes, the pieces of each split and the dictionary."""
    read_manifest(of_tokenised, kind="tokenised text")
    words = bpe.count_words(tokenised[0])
    merges = settings["corpus"]["bpe_merges"]
    tokenizer = bpe.learn(tokenised[0], words, merges)
    if (learned := len(bpe.merges_of(tokenizer))) < merges:
        said = f"corpus.bpe_merges is {merges}, but the training text gives {learned} merges only."
        print(f"Warning: {said}", file=sys.stderr)
    encoder = bpe.Encoder(tokenizer)
    counts = bpe.count_pieces(words, encoder)
    if not counts.keys() - {UNKNOWN}:
        raise KnnlmError(f"{tokenised[0]}: no word of the training text can be encoded; give more text.")
    for source, target in zip(tokenised, pieces, strict=True):
        rewrite(source, target, lambda lines: map(encoder, lines), "encode")
    with atomic(dictionary) as unfinished:
        lines = dictionary_lines(bpe.vocabulary_of(tokenizer), counts)
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with atomic(codes) as unfinished:
        tokenizer.save(str(unfinished))
    write_manifest(manifest, [*pieces, dictionary, codes], kind="pieces")
