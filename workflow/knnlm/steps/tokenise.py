"""Tokenise the three splits line by line, as WikiText is tokenised, or copy text that already is."""

import argparse
import shutil

from knnlm import artifacts, moses
from knnlm.progress import progress
from knnlm.steps import run


def main(arguments: argparse.Namespace) -> None:
    """Write one tokenised line for each line of text."""
    for text, tokenised in zip(arguments.texts, arguments.tokenised, strict=True):
        with artifacts.atomic(tokenised) as unfinished:
            if arguments.settings["corpus"]["tokeniser"] == "none":
                shutil.copyfile(text, unfinished)
                continue
            with open(text, "rb") as lines:
                total = sum(1 for _ in lines)
            with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
                tokenised_lines = moses.tokenise_stream(artifacts.stored_lines(text), arguments.threads)
                done = progress(tokenised_lines, f"tokenise {text} (lines)", total)
                file.writelines(f"{line}\n" for line in done)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help='JSON: {"corpus"}')
    parser.add_argument("--texts", nargs=3, required=True, metavar="TXT", help="train, valid, test")
    parser.add_argument("--tokenised", nargs=3, required=True, metavar="TXT", help="train, valid, test (written)")
    parser.add_argument("--threads", type=int, default=1, help="processes")
    run(main, parser)
