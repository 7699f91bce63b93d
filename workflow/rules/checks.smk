"""The checks of config and command line, where the library is, and who may write what a run writes."""

import os
import sys
from contextlib import suppress
from pathlib import Path

LIBRARY = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(LIBRARY))

from knnlm.config import files
from knnlm.config import checks
from knnlm.config import schema
from knnlm.errors import KnnlmError

# Whatever the user's shell allows, nobody else may write into results; jobs inherit it.
os.umask(os.umask(0o002) | 0o002)
# Snakemake has made its own folder, and its log there, before it reads this.
for path in (Path(".snakemake"), Path(".snakemake/log"), *Path(".snakemake/log").glob("*.log")):
    with suppress(OSError):  # it is not there, or another user's
        if path.stat().st_mode & 0o002:
            path.chmod(path.stat().st_mode & ~0o002)


def stop_at_mistake(check, *given):
    """Call a check; a user's mistake ends Snakemake with its sentence, as it ends a step: a WorkflowError would name places in the code as well."""
    try:
        check(*given)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")


def check_files(*own):
    """Stop with one sentence if one of the config's files, `own` or from the command line, is none or says something twice."""
    for folder in (LIBRARY.parent, Path.cwd()):
        stop_at_mistake(files.check_folder, folder)
    for path in (*own, *map(os.path.relpath, workflow.config_settings.configfiles)):
        stop_at_mistake(files.check_file, path)


def check_submission():
    """Stop with one sentence if jobs go to a cluster and its shells would read a folder, a config file or a value from the command line as code."""
    if workflow.non_local_exec:
        settings = workflow.config_settings
        try:
            for path in (LIBRARY.parent, Path.cwd(), *settings.configfiles):
                files.check_submitted(str(path))
            files.check_submitted(str(settings.config), files.SUBSTITUTION_MARKS)
        except KnnlmError as error:
            raise WorkflowError(str(error))


def check(given):
    """Stop with one sentence if a key is unknown or of the wrong kind."""
    stop_at_mistake(checks.check, given, schema.read_schema())


def check_combinations(given):
    """Stop with one sentence if keys that are right by themselves cannot go together."""
    stop_at_mistake(checks.check_combinations, given)


# Whether runs share what is long to make. Where they do not, nothing is offered for it, since Snakemake prints a line for every such offer.
SHARED = workflow.workflow_settings is not None and workflow.workflow_settings.cache is not None


def check_cache():
    """Stop with one sentence if the cache between runs is asked for and cannot be used: Snakemake would say so after the first long job."""
    if SHARED:
        stop_at_mistake(check_cache_folder, os.environ.get("SNAKEMAKE_OUTPUT_CACHE"))


def check_cache_folder(folder):
    """Check that a folder can hold the cache between runs; raises KnnlmError."""
    if not folder:
        raise KnnlmError("--cache: the environment variable SNAKEMAKE_OUTPUT_CACHE names no folder; set it.")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise KnnlmError(
            f"SNAKEMAKE_OUTPUT_CACHE: {folder} is not a folder that can be written to; make it, or name another."
        )
    if os.stat(folder).st_mode & 0o007:  # Snakemake makes what it puts there writable for everyone
        raise KnnlmError(
            f"SNAKEMAKE_OUTPUT_CACHE: {folder} is open to every user of this machine, who could change what is in it; chmod o-rwx it."
        )
