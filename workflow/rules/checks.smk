"""The config's checks, and where the library is."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(LIBRARY))

from knnlm import configuration
from knnlm.errors import KnnlmError


def check(given):
    """Stop with one sentence if a key is unknown or of the wrong kind."""
    try:
        configuration.check(given, configuration.read_schema())
    except KnnlmError as error:
        raise WorkflowError(str(error))


def check_combinations(given):
    """Stop with one sentence if keys that are right by themselves cannot go together."""
    try:
        configuration.check_combinations(given)
    except KnnlmError as error:
        raise WorkflowError(str(error))
