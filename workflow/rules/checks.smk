"""The checks of config and command line, and where the library is."""

import os
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


def check_cache():
    """Stop with one sentence if the cache between runs is asked for and cannot be used: Snakemake would say so after the first long job."""
    if workflow.workflow_settings is None or workflow.workflow_settings.cache is None:
        return
    folder = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")
    if not folder:
        raise WorkflowError("--cache: the environment variable SNAKEMAKE_OUTPUT_CACHE names no folder; set it.")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise WorkflowError(f"SNAKEMAKE_OUTPUT_CACHE: {folder} is not a folder that can be written to; make it, or name another.")
    if os.stat(folder).st_mode & 0o007:  # Snakemake makes what it puts there writable for everyone
        raise WorkflowError(
            f"SNAKEMAKE_OUTPUT_CACHE: {folder} is open to every user of this machine, who could change what is in it; chmod o-rwx it."
        )
