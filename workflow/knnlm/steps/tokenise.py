"""Tokenise the three splits line by line, as WikiText is tokenised, or copy text that already is."""

import argparse
import shutil

from knnlm.corpus.tokenise import tokenise_stream
from knnlm.running.progress import progress
from knnlm.running.step import run
from knnlm.storage.files import atomic, read_manifest, write_manifest


def main(arguments: argparse.Namespace) -> None:
    """Write one tokenised line for each line of text."""
    read_manifest(arguments.of_texts, kind="text")
    for text, tokenised in zip(arguments.texts, arguments.tokenised, strict=True):
        with atomic(tokenised) as unfinished:
            if (tokeniser := arguments.settings["corpus"]["tokeniser"]) == "none":
                shutil.copyfile(text, unfinished)
                continue
            with open(text, "rb") as lines:
                total = sum(1 for _ in lines)
            with (
                open(text, encoding="utf-8", newline="\n") as lines,
                open(unfinished, "w", encoding="utf-8", newline="\n") as file,
            ):
                done = progress(tokenise_stream(lines, arguments.threads, tokeniser), f"tokenise {text} (lines)", total)
                file.writelines(f"{line}\n" for line in done)
    write_manifest(arguments.manifest, arguments.tokenised, kind="tokenised text")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help='JSON: {"corpus"}')
    parser.add_argument("--texts", nargs=3, required=True, metavar="TXT", help="train, valid, test")
    parser.add_argument("--of-texts", required=True, metavar="JSON", help="manifest of the texts")
    parser.add_argument("--tokenised", nargs=3, required=True, metavar="TXT", help="train, valid, test (written)")
    parser.add_argument("--manifest", required=True, metavar="JSON", help="of the tokenised texts (written)")
    parser.add_argument("--threads", type=int, default=1, help="processes")
    run(main, parser)
