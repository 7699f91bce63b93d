"""One thin command line per rule: paths and settings in, library calls, files out."""

import argparse
import json
import sys
from collections.abc import Callable

from knnlm.errors import KnnlmError


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line and call `main`; a KnnlmError ends the step with its sentence and status 1."""
    arguments = parser.parse_args()
    if hasattr(arguments, "settings"):
        try:
            arguments.settings = json.loads(arguments.settings)
        except ValueError as error:
            parser.error(f"--settings is not JSON: {error}")
    try:
        main(arguments)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")
