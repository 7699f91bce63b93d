"""How a rule runs its step, and which code the step consists of."""

import os
import re
import time
from functools import cache

# Our prefix replaces Snakemake's own, which sets strict mode, so it is set again here.
# The allocator keeps freed pages, and idle threads sleep: both were measured to pay.
# A step ends with the Snakemake that runs it: on a cluster the one in the job, so that jobs outlive the submitting one.
# Steps speak UTF-8 in every locale; names of files stay in the locale's encoding, in which Snakemake has found them.
# `logged LOG COMMAND` runs a step, shows what it says and keeps it in LOG; the step leaves its times beside LOG.
DRIVER = os.getpid()
DRIVER_STARTED = time.time() - time.process_time()  # the imports of Snakemake itself counted
shell.prefix(
    "set -euo pipefail; export KNNLM_DRIVER={DRIVER} KNNLM_DRIVER_STARTED={DRIVER_STARTED} PYTHONPATH={LIBRARY:q} "
    "PYTHONIOENCODING=utf-8 OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=4294967296 "
    "MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456; "
    'logged() {{ KNNLM_LOG="$1" "${{@:2}}" 2>&1 | tee "$1"; }}; '
)


IMPORT = re.compile(r"^ *(?:from ([\w.]+) import (\([^)]*\)|.+)|import ([\w., ]+))", re.MULTILINE)


@cache
def imported_files(path):
    """List the files that the module at `path` imports or takes from `report`; a pattern is faster than a parser."""
    names, text = [], path.read_text(encoding="utf-8")
    for module, parts, modules in IMPORT.findall(text):
        names += re.findall(r"[\w.]+", modules) or [module, *(f"{module}.{part}" for part in re.findall(r"\w+", parts))]
    targets = [LIBRARY.joinpath(*name.split(".")) for name in names]
    files = [file for target in targets for file in (target.with_suffix(".py"), target / "__init__.py")]
    files += [LIBRARY / "report" / name for name in re.findall(r'"report" . "([\w.]+)"', text)]
    return [file for file in files if file.is_file()]


def sources(step, *modules):
    """List the library files that a step and further modules execute: a change of code reruns what depends on it."""
    names = ["steps/__main__", f"steps/{step}", *modules]
    pending, found = [LIBRARY / "knnlm" / f"{name}.py" for name in names], set()
    while pending:
        if (path := pending.pop()) not in found:
            found.add(path)
            pending.extend(imported_files(path))
    return [local(os.path.relpath(path)) for path in sorted(found)]
