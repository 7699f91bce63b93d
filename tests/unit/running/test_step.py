import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from knnlm.errors import KnnlmError
from knnlm.running.step import parser_of, run
from knnlm.storage.atomic import atomic

WORKFLOW = Path(__file__).parents[3] / "workflow"
STEPS = sorted((WORKFLOW / "knnlm/steps").glob("[a-z]*.py"))


@dataclass(frozen=True)
class Place:
    """Two options of a step that belong together."""

    folder: Path
    depth: int = 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--settings", '{"a": [1, 2]}', "--some-files", "a", "b/c", "--folder", "d"],
            ({"a": [1, 2]}, [Path("a"), Path("b/c")], Place(Path("d")), None, (), 1),
        ),
        (
            [
                "--some-files",
                "--settings",
                "{}",
                "--folder",
                "d",
                "--depth",
                "4",
                "--table",
                "--more",
                "--threads",
                "2",
            ],
            ({}, [], Place(Path("d"), 4), None, [], 2),
        ),
        (
            ["--some-files", "--table", "t.csv", "--more", "m", "--folder", "d", "--settings", "{}"],
            ({}, [], Place(Path("d")), Path("t.csv"), [Path("m")], 1),
        ),
    ],
)
def test_the_command_line_follows_from_the_signature(words, expected):
    found = []

    def main(
        settings: dict,
        some_files: Sequence[Path],
        place: Place,
        table: Path | None = None,
        more: Sequence[Path] = (),
        threads: int = 1,
    ) -> None:
        found.append((settings, some_files, place, table, more, threads))

    run(main, words)
    assert found == [expected]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--settings", "{a: 1}", "--k", "1"], r"--settings: is not JSON"),
        (["--settings", "{}", "--k", "one"], r"--k: invalid int value: 'one'"),
        (["--settings", "{}"], r"the following arguments are required: --k"),
        (["--settings", "{}", "--k", "1", "--l", "2"], r"unrecognized arguments: --l 2"),
        (["--set", "{}", "--k", "1"], r"the following arguments are required: --settings"),
    ],
)
def test_a_command_line_that_does_not_fit_is_told(words, said, capsys):
    def main(settings: dict, k: int) -> None:
        raise AssertionError

    with pytest.raises(SystemExit) as end:
        run(main, words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.stem for path in STEPS])
def test_every_step_has_a_command_line(name):
    main = import_module(f"knnlm.steps.{name}").main
    assert main.__doc__ in parser_of(main).format_help() or parser_of(main).description == main.__doc__


def test_the_name_of_a_step_is_one_that_there_is():
    done = subprocess.run(
        [sys.executable, "-m", "knnlm.steps", "retreive"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Error: retreive is not a step; choose one of binarise, .*, retrieve, .*\.\n", done.stderr)


def test_a_users_mistake_ends_in_its_sentence():
    def main(settings: dict) -> None:
        raise KnnlmError(f"file.txt: {settings['a']} is wrong; mend it.")

    with pytest.raises(SystemExit) as end:
        run(main, ["--settings", '{"a": [1, 2]}'])
    assert end.value.code == "Error: file.txt: [1, 2] is wrong; mend it."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/keys.npy"),
            "a/keys.npy: No space left on device; make room on that disk",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; give yourself the right to"),
        (OSError(errno.EIO, "Input/output error"), "a file: Input/output error; put that right"),
    ],
)
def test_what_the_system_refuses_ends_in_a_sentence(error, sentence):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run(main, [])
    assert end.value.code == f"Error: {sentence}, then run the same command again."


ALLOCATIONS = {  # far more than any machine has, or than a process may have
    "Python": "bytes(10**16)",
    "Python with a limit": "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); [bytes(2**24) for _ in range(100)]",
    "NumPy": "import numpy; numpy.empty((10**8, 10**8), numpy.float32)",
    "PyTorch": "import torch; torch.empty(10**16)",
    "FAISS": "import faiss; faiss.UInt8Vector().resize(10**16)",
    "the system": "import mmap; mmap.mmap(-1, 2**60)",
}


def end_of_step(code):
    """Run a step of this code in a process of its own and return its status and what it says."""
    step = f"import resource\nfrom knnlm.running.step import run\ndef main():\n    {code}\nrun(main)"
    done = subprocess.run(
        [sys.executable, "-c", step],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems may promise memory that they do not have"
)
@pytest.mark.parametrize("library", ALLOCATIONS)
def test_memory_that_is_used_up_ends_in_a_sentence(library):
    status, output = end_of_step(ALLOCATIONS[library])
    assert status == 1
    assert output.startswith("Error: this step ran out of memory (")
    assert output.endswith("then run the same command again.\n")
    assert "give its job more" in output
    assert output.count("\n") == 1


def test_the_memory_of_a_gpu_is_another_than_that_of_the_job():
    message = (
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.94 GiB"
    )
    message += " is free."
    status, output = end_of_step(f"import torch; raise torch.OutOfMemoryError({message!r})")
    assert status == 1
    assert output.startswith(
        "Error: this step ran out of the memory of its GPU (CUDA out of memory. Tried to allocate 20.00 GiB. "
    )
    assert "give it a GPU with more" in output
    assert "Slurm" not in output
    assert output.count("\n") == 1


def test_a_runtime_error_of_another_kind_keeps_its_traceback():
    status, output = end_of_step("raise RuntimeError('shapes do not fit')")
    assert status == 1
    assert "Traceback" in output


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_in_a_sentence_after_tidying_up(interruption, tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, pytest may be one, ignore it

    def main():
        with atomic(tmp_path / "file"):
            signal.raise_signal(interruption)

    with pytest.raises(SystemExit) as end:
        run(main, [])
    assert end.value.code == "Error: this step was interrupted; run the same command again."
    assert not list(tmp_path.iterdir())


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, [])
