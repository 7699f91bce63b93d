"""The checks of config and command line, where the library is, and who may write what a run writes."""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config, validate

# The folder of these rules: `workflow.basedir` is that of another Snakefile where this one is a module.
if not isinstance(workflow.current_basedir, os.PathLike):
    sys.exit(
        "Error: module: the workflow's steps need its files in a folder; clone it, and name its Snakefile by a path."
    )
LIBRARY = Path(workflow.current_basedir).parent
ROOT = LIBRARY.parent
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
sys.path.insert(0, str(LIBRARY))

from knnlm.config import checks, files, schema, sizes, variants
from knnlm.errors import KnnlmError
from knnlm.storage import locks

IN_MODULE = not workflow.modifier.is_main_snakefile()
# A workflow that uses this one as a module may have a default target already, which stays that.
IS_DEFAULT = workflow.default_target is None
# Where a file of the run is, for who looks for it without a rule: a module may be given a `prefix`.
placed = workflow.modifier.modify_path

# Whatever the user's shell allows, nobody else may write into results; jobs inherit it.
os.umask(os.umask(0o002) | 0o002)
# Snakemake has made its own folder, and its log there, before it reads this.
for path in (Path(".snakemake"), Path(".snakemake/log"), *Path(".snakemake/log").glob("*.log")):
    with suppress(OSError):  # it is not there, or another user's
        if path.stat().st_mode & 0o002:
            path.chmod(path.stat().st_mode & ~0o002)


def stop_at_mistake(check, *given):
    """Call a check; a user's mistake ends Snakemake with its sentence. A WorkflowError would name lines of code too."""
    try:
        return check(*given)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")


def own_file(path):
    """Return where one of the workflow's own config files is: in the working folder, else beside the Snakefile.

    A module reads only the file beside the Snakefile: a config/ in the working folder is of the workflow that uses it.
    """
    return path if Path(path).exists() and not IN_MODULE else os.path.relpath(ROOT / path)


def over_own_files(given):
    """Return the config that a module is given, over the workflow's own files: Snakemake reads none for a module.

    A config with every section is complete and returned as it is.
    """
    if not IN_MODULE or given.keys() >= schema.read_schema()["properties"].keys():
        return given
    complete = load_configfile(CONFIG)
    update_config(complete, load_configfile(HYPOTHESES_CONFIG))
    update_config(complete, given)
    return complete


def check_files(*own):
    """Stop with one sentence if a config file, `own` or from the command line, is not YAML or repeats a key."""
    for folder in (ROOT, Path.cwd()):
        stop_at_mistake(files.check_folder, folder)
    for path in (*own, *map(os.path.relpath, workflow.config_settings.configfiles)):
        stop_at_mistake(files.check_file, path)


def check_submission():
    """Stop with one sentence if jobs go to a cluster whose shells would run a folder's name or a value as code."""
    if workflow.non_local_exec:
        settings = workflow.config_settings
        try:
            for path in (ROOT, Path.cwd(), *settings.configfiles):
                files.check_submitted(str(path))
            files.check_submitted(str(settings.config), files.SUBSTITUTION_MARKS)
        except KnnlmError as error:
            raise WorkflowError(str(error))


def check(given):
    """Stop with one sentence if a key is unknown or of the wrong kind."""
    stop_at_mistake(checks.check, given, schema.read_schema())


def forget_sizes(whole, given):
    """Leave the sizes of config.yaml open if the config that a run is `given` names another source of text."""
    own = load_configfile(CONFIG).get("corpus", {}).get("source")
    sizes.forget(whole, given, own)


SAID = set()  # of the config; its variants do not repeat it


def complete(given, variant=""):
    """Choose the sizes that a config leaves open, say what looks wrong, and return what was chosen, by key."""
    chosen, lines = sizes.complete(given)
    said = [line for line in (*lines, *checks.warnings(given)) if line not in SAID]
    if workflow.is_main_process and not IN_MODULE:
        for line in said:
            logger.info(variant + line)
    SAID.update(said)
    return chosen


def check_combinations(given):
    """Stop with one sentence if keys that are right by themselves cannot go together."""
    stop_at_mistake(checks.check_combinations, without_counted(given))


def without_counted(given):
    """Return a config without token counts if tokens have been counted: `check_size` compares them then."""
    _, makers = given.get("variant", (None, {"corpus": given["name"]}))
    if os.path.exists(placed(f"results/{makers['corpus']}/corpus/tokens/manifest.json")):
        return given | {"corpus": given["corpus"] | {"token_counts": None}}
    return given


def complete_variants(given, main):
    """Return the config of each variant by its run's name, complete and checked; `given` has open sizes, `main` none.

    Beside its config, a variant has what was chosen for it, and the run that makes each stage's files, under `variant`.
    """
    found = {}
    for name, overlay in stop_at_mistake(variants.overlays, given).items():
        try:
            own = variants.applied(given, name, overlay)
            checks.check(own, schema.read_schema())
            if own["hypotheses"].keys() != given["hypotheses"].keys():
                validate(own, SCHEMA)  # defaults of a new entry
            chosen = complete(own, f"variants.{name}.")
            own["variant"] = chosen, variants.makers(own, [main, *found.values()])
            checks.check_combinations(without_counted(own))
        except KnnlmError as error:
            sys.exit(f"Error: {str(error).replace('config key ', f'config key variants.{name}.', 1)}")
        found[own["name"]] = own
    return found


# Whether runs share what takes long to make. If not, no rule offers it, since Snakemake prints a line for every offer.
SHARED = workflow.workflow_settings is not None and workflow.workflow_settings.cache is not None


def check_cache():
    """Stop with one sentence if the cache between runs cannot be used: Snakemake says so after the first long job."""
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
        problem = f"{folder} is open to every user of this machine, who could change what is in it; chmod o-rwx it"
        raise KnnlmError(f"SNAKEMAKE_OUTPUT_CACHE: {problem}.")


def lock_runs():
    """Lock this run and its variants until Snakemake ends; stop with one sentence if another Snakemake works on one."""
    for name in (config["name"], *VARIANTS):
        folder = Path(placed("results"), name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if locks.lock(folder / ".lock") is None:
                remedy = "see to it yourself that no other Snakemake works on this run"
                logger.warning(f"{folder}: this file system has no locks; {remedy}.")
        except BlockingIOError:
            remedy = "wait until it has ended, or stop it and run the same command again"
            raise WorkflowError(f"{folder}: another Snakemake works on this run; {remedy}.")
        except OSError as error:
            raise WorkflowError(f"{error.filename}: {error.strerror}; put that right and run the same command again.")


def look_when_a_job_ends():
    """Let Snakemake look for jobs to start whenever one ends, and at no other time.

    Its limit of jobs a second has it look again a second after each look, for every job that has ended: with 60 of them
    60 times a second, which takes a good part of a core.
    """
    with suppress(AttributeError):  # of another version
        workflow.scheduler.job_rate_limiter = None


def repeat_mistakes(logs):
    """Say at the end why steps have failed: the sentence of each, from the logs that Snakemake's own `logs` name."""
    said = "".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in logs)
    sentences = {}
    for names in re.findall(r"^ *log: (.+) \(check log file", said, flags=re.MULTILINE):
        for log in filter(os.path.isfile, names.split(", ")):
            lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
            sentences |= dict.fromkeys(line for line in lines if line.startswith("Error: "))
    if sentences:
        logger.error("\n".join(["", *sentences, ""]))
