"""One thin command line per rule: paths and settings in, library calls, files out."""

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable

from knnlm.errors import KnnlmError
from knnlm.processes import die_with

REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EACCES: "give yourself the right to",
    errno.EPERM: "give yourself the right to",
    errno.EROFS: "have it mounted for writing",
    errno.ENOENT: "rerun the step that makes it",
}

# A step ends with the Snakemake that has started it; seen to here, because the imports that follow take seconds.
if driver := os.environ.get("KNNLM_DRIVER"):
    die_with(int(driver))


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line and call `main`.

    A KnnlmError ends the step with its sentence and status 1; so does what the operating system refuses, such as room on the disk, and so does an
    interruption.
    """
    arguments = parser.parse_args()
    if hasattr(arguments, "settings"):
        try:
            arguments.settings = json.loads(arguments.settings)
        except ValueError as error:
            parser.error(f"--settings is not JSON: {error}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(arguments)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        if error.errno is None:
            raise
        remedy = REMEDIES.get(error.errno, "put that right")
        sys.exit(f"Error: {error.filename or 'a file'}: {error.strerror}; {remedy}, then run the same command again.")
    except KeyboardInterrupt:
        sys.exit("Error: this step was interrupted; run the same command again.")
