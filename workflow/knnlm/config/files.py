"""The config's files before they are merged, and the folders that they are in.

YAML lets some mistakes pass in silence, and Snakemake ends others with a traceback: here each gets one sentence.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from knnlm.config.values import dotted, unfit_character
from knnlm.errors import KnnlmError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MERGE = "tag:yaml.org,2002:merge"
FOLDER_MARKS = ":{}"
SUBSTITUTION_MARKS = "$`"
SHELL_MARKS = SUBSTITUTION_MARKS + "'\"\\"


def check_file(path: str | Path) -> None:
    """Raise KnnlmError, naming it, unless a file is YAML with keys and repeats none, where YAML takes the last."""
    try:
        root = yaml.compose(Path(path).read_bytes().decode("utf-8-sig"), LOADER)
    except OSError as error:
        advice = "put a config there, and start Snakemake in the folder of its Snakefile"
        raise KnnlmError(f"{path}: cannot be read ({error.strerror}); {advice}.") from None
    except UnicodeDecodeError as error:
        raise KnnlmError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or getattr(error, "reason", "cannot be read")
        raise KnnlmError(f"{path}: not YAML{line} ({why}); correct it.") from None
    if not isinstance(root, yaml.MappingNode):
        raise KnnlmError(f"{path}: has no keys; give it at least one, such as `name: demo`, or do without the file.")
    if repeated := next(_repeated(root, (), set()), None):
        key, first, second = repeated
        raise KnnlmError(f"{path}: the key {key} stands twice, in lines {first} and {second}; remove one.")


def check_folder(folder: Path) -> None:
    """Raise KnnlmError, naming it, for a folder in which no workflow runs: PYTHONPATH or Snakemake cannot name it."""
    if unfit := unfit_character(str(folder), FOLDER_MARKS):
        problem = f"the workflow cannot run in a folder with {unfit} in its name"
        raise KnnlmError(f"{str(folder)!r}: {problem}; rename the folder.")


def check_submitted(given: str, marks: str = SHELL_MARKS) -> None:
    """Raise KnnlmError, naming it, for what may not stand in a cluster job's command, which several shells read."""
    if mark := next((mark for mark in marks if mark in given), None):
        problem = f"jobs on a cluster cannot be given a path or value with the character {mark} in it"
        raise KnnlmError(f"{given!r}: {problem}; use another name.")


def _repeated(node: yaml.Node, place: tuple[str | int, ...], seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield (dotted key, line, line) for keys that a mapping has twice; `seen` holds the nodes that aliases share."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _repeated(item, (*place, number), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines and key.tag != MERGE:
                yield dotted([*place, key.value]), lines[name], line
            lines[name] = line
            yield from _repeated(value, (*place, key.value), seen)
