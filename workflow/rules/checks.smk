"""The config's checks, where the library is, and who may write what a run writes."""

import os
import sys
from pathlib import Path

LIBRARY = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(LIBRARY))

from knnlm import config_files, configuration
from knnlm.errors import KnnlmError

# Whatever the user's shell allows, nobody else may write into results; jobs inherit it.
os.umask(os.umask(0o002) | 0o002)


def stop_at_mistake(check, *given):
    """Call a check; a user's mistake ends Snakemake with its sentence, as it ends a step: a WorkflowError would name places in the code as well."""
    try:
        check(*given)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")


def check_files(*own):
    """Stop with one sentence if one of the config's files, `own` or from the command line, is none or says something twice."""
    for folder in (LIBRARY.parent, Path.cwd()):
        stop_at_mistake(config_files.check_folder, folder)
    for path in (*own, *map(os.path.relpath, workflow.config_settings.configfiles)):
        stop_at_mistake(config_files.check_file, path)


def check(given):
    """Stop with one sentence if a key is unknown or of the wrong kind."""
    stop_at_mistake(configuration.check, given, configuration.read_schema())


def check_combinations(given):
    """Stop with one sentence if keys that are right by themselves cannot go together."""
    stop_at_mistake(configuration.check_combinations, given)
