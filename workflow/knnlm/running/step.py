"""How a step runs: the command line is the signature of `main`, errors are sentences, times lie beside the log."""

import argparse
import errno
import json
import os
import re
import resource
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

from knnlm.errors import OUT_OF_MEMORY, KnnlmError
from knnlm.running.devices import Job
from knnlm.running.processes import die_with
from knnlm.storage.atomic import atomic

REMEDIES = {errno.ENOSPC: "make room on that disk", errno.EDQUOT: "make room in your quota"}
REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM), "give yourself the right to")
REMEDIES |= {errno.EROFS: "have it mounted for writing", errno.ENOENT: "rerun the step that makes it"}
ON_A_GPU = re.compile("CUDA|CUBLAS|GPU", re.IGNORECASE)
LONGEST_REASON = 160  # characters
STARTED = time.time() - time.process_time()  # of this process, near enough

# A step ends with the Snakemake that has started it, from the first moment on: the imports that follow take seconds.
if driver := os.environ.get("KNNLM_DRIVER"):
    die_with(int(driver))


def options(function: Callable) -> Iterator[tuple[str, type, object]]:
    """Yield name, type and default of every parameter; one that is a dataclass stands for its fields."""
    for name, parameter in signature(function).parameters.items():
        kind = parameter.annotation
        yield from options(kind) if is_dataclass(kind) else [(name, kind, parameter.default)]


def reading(kind: type) -> dict:
    """Return how argparse reads an option: `dict` as JSON, `Sequence[T]` as words, `T | None` as one word or none."""
    if kind is dict:
        return {"type": from_json, "metavar": "JSON"}
    if isinstance(kind, UnionType):
        return {"type": get_args(kind)[0], "nargs": "?"}
    return {"type": get_args(kind)[0], "nargs": "*"} if get_origin(kind) else {"type": kind}


def from_json(text: str) -> object:
    """Return what a JSON text says; argparse tells the user if it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None


def call(function: Callable, values: dict) -> object:
    """Call a function with its options' values by name; a parameter that is a dataclass is made of its fields."""
    kinds = {name: parameter.annotation for name, parameter in signature(function).parameters.items()}
    given = {name: call(kind, values) if is_dataclass(kind) else values[name] for name, kind in kinds.items()}
    return function(**given)


def parser_of(main: Callable[..., None]) -> argparse.ArgumentParser:
    """Return the parser of a step: `main(chunk_folder: Path, k: int = 1)` has `--chunk-folder` and `--k`."""
    name = " ".join(main.__module__.rsplit(".", 1))
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=main.__doc__, allow_abbrev=False)
    for name, kind, default in options(main):
        how = {"required": True} if default is Parameter.empty else {"default": default}
        parser.add_argument(f"--{name.replace('_', '-')}", **reading(kind), **how)
    return parser


def run(main: Callable[..., None], words: Sequence[str] | None = None) -> None:
    """Call `main` with what the command line says; in a workflow, leave the step's times beside its log.

    A KnnlmError ends the step with its sentence and status 1. So do used-up memory, a refusal of the operating system,
    such as a full disk, and an interruption. Any other error keeps its traceback.
    """
    values = vars(parser_of(main).parse_args(words))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = {"began": time.time(), "starting_cpu_seconds": time.process_time()}
    try:
        call(main, values)
    except KnnlmError as error:
        sys.exit(f"Error: {error}")
    except (MemoryError, RuntimeError, OSError) as error:
        if (sentence := want_of_memory(error) or refusal(error)) is None:
            raise
        sys.exit(f"Error: {sentence}")
    except KeyboardInterrupt:
        sys.exit("Error: this step was interrupted; run the same command again.")
    if log := os.environ.get("KNNLM_LOG"):
        given = {field.name: values[field.name] for field in fields(Job) if field.name in values}
        leave_times(Path(log), began | {"gpus": Job(**given).gpus_of_node})


def want_of_memory(error: Exception) -> str | None:
    """Return the sentence for used-up memory, told by Python, a library or the system; None for other errors."""
    told = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    if not (told or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
        return None
    first_line = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
    told = first_line or "Python could not have any more"
    reason = textwrap.shorten(told, LONGEST_REASON, placeholder=" ...").rstrip(".")
    smaller = "or lower the settings of what `snakemake plan` shows to need it, then run the same command again."
    if ON_A_GPU.search(str(error)):
        return f"this step ran out of the memory of its GPU ({reason}); give it a GPU with more, {smaller}"
    more = "give its job more (on Slurm it starts again with twice as much by itself)"
    return f"this step ran out of memory ({reason}); {more}, {smaller}"


def refusal(error: Exception) -> str | None:
    """Return the sentence for what the operating system has refused; None for any other error."""
    if getattr(error, "errno", None) is None:
        return None
    remedy = REMEDIES.get(error.errno, "put that right")
    return f"{error.filename or 'a file'}: {error.strerror}; {remedy}, then run the same command again."


def leave_times(log: Path, told: dict[str, float]) -> None:
    """Write beside a job's log, as JSON, when its step started, began to compute and ended (`cost.hours.Times`).

    Each job has a file, as nodes that append to one file lose lines; no step fails for want of disk for its times.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    facts = {"threads": int(os.environ.get("OMP_NUM_THREADS", 1))}
    facts["peak_memory_bytes"] = max(of.ru_maxrss for of in used) * (1 if sys.platform == "darwin" else 1024)
    facts["cpu_seconds"] = round(sum(of.ru_utime + of.ru_stime for of in used), 3)
    facts |= {"driver_started": float(os.environ["KNNLM_DRIVER_STARTED"]), "started": STARTED, **told}
    facts["ended"] = time.time()
    with suppress(OSError), atomic(log.with_suffix(".json")) as unfinished:
        unfinished.write_text(json.dumps(facts) + "\n", encoding="utf-8")
