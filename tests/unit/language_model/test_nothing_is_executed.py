"""Files and names are data: nothing is unpickled, no text of the user's reaches a shell as code."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from knnlm.config.files import LOADER
from knnlm.language_model.fairseq_runs import saved_updates
from knnlm.language_model.transformer import export_model, trained_updates

ROOT = Path(__file__).parents[3]
CODE = sorted((ROOT / "workflow").rglob("*.py"))
RULES = [*sorted((ROOT / "workflow/rules").glob("*.smk")), ROOT / "Snakefile"]
# What runs code out of data, unless the call says otherwise.
NEVER = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.unsafe_load",
}
NEVER |= {
    "joblib.load",
    "torch.hub.load",
    "torch.jit.load",
    "shelve.open",
    "marshal.loads",
    "marshal.load",
    "yaml.full_load",
    "subprocess.getoutput",
}
ONLY_WITH = {"torch.load": "weights_only=True", "np.save": "allow_pickle=False"}
FALSE_BY_DEFAULT = {"np.load", "np.lib.format.open_memmap", "np.lib.format.read_array"}  # allow_pickle


def calls(path: Path) -> list[tuple[str, set[str]]]:
    """Return name and keywords of every call in a file."""
    found = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return [(ast.unparse(call.func), {ast.unparse(keyword) for keyword in call.keywords}) for call in found]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_call_makes_code_of_data(path):
    for name, keywords in calls(path):
        assert name not in NEVER
        assert "shell=True" not in keywords
        assert ONLY_WITH.get(name) is None or ONLY_WITH[name] in keywords
        assert name not in FALSE_BY_DEFAULT or not any(
            keyword.startswith("allow_pickle") for keyword in keywords - {"allow_pickle=False"}
        )
        assert name != "yaml.load" or path.name == "schema.py"  # with LOADER, below
    assert not re.search(r"yaml\.(Full|Unsafe|)Loader", path.read_text(encoding="utf-8"))


def test_the_calls_that_read_files_are_found():
    """The test above would pass where it finds nothing."""
    names = {name for path in CODE for name, _ in calls(path)}
    assert {
        "torch.load",
        "np.save",
        "np.lib.format.open_memmap",
        "subprocess.run",
        "faiss.read_index",
        "yaml.load",
    } <= names
    assert issubclass(LOADER, yaml.constructor.SafeConstructor)


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def poisoned(tmp_path) -> Path:
    """A checkpoint of fairseq's that would make the folder `executed`."""
    content = {
        "model": {"w": torch.zeros(2)},
        "optimizer_history": [{"num_updates": 7}],
        "args": Code(tmp_path / "executed"),
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "checkpoint_last.pt")
    return tmp_path / "checkpoints" / "checkpoint_last.pt"


def test_code_in_a_checkpoint_is_not_run(poisoned, tmp_path):
    """Neither by what asks how far it is, nor by what exports it, nor by fairseq itself, which resumes from it."""
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    assert trained_updates(poisoned) == 0
    for read in (
        lambda: export_model(poisoned, tmp_path / "model.pt", {}, 8, tmp_path / "dict.txt"),
        lambda: load_checkpoint_to_cpu(str(poisoned)),
    ):
        with pytest.raises(Exception, match="Weights only load failed"):
            read()
    assert saved_updates(poisoned.parent) == 0
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "model.pt").exists()
    torch.save(Code(tmp_path / "executed"), tmp_path / "code.pt")
    torch.load(tmp_path / "code.pt", weights_only=False)  # such a file is as dangerous as this test believes
    assert (tmp_path / "executed").exists()


def shell_words(path: Path) -> list[str]:
    """Return the placeholders of every shell command of a file of rules."""
    commands = re.findall(r"^\s+shell:\n((?:\s+(?:\"|').*\n?)+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [word for command in commands for word in re.findall(r"\{([^{}]+)\}", command)]


def test_what_the_user_writes_reaches_a_shell_quoted():
    """Settings are quoted. Else there are names of rules and of files below results/<run>, without odd characters."""
    words = {word for path in RULES for word in shell_words(path)}
    assert "params.settings:q" in words
    unquoted = {word for word in words if word.startswith("params.") and not word.endswith(":q")}
    assert unquoted <= {"params.family", "params.figure", "params.table"}
    assert not {word for word in words if word.startswith("config")}
    assert "input.code:q" in words  # the library may be in another folder than the results, of whatever name
    assert "input.code" not in words
    (corpus_text,) = re.findall(
        r"rule corpus_text:.*?\n\n\n", (ROOT / "workflow/rules/corpus.smk").read_text(), flags=re.DOTALL
    )
    assert "{input" not in corpus_text.partition("shell:")[2]  # the only rule whose inputs are files of the user's own


def test_a_config_of_any_name_is_one_word_of_the_command_that_make_runs():
    done = subprocess.run(
        ["make", "--dry-run", "figures", "CONFIG=config/my run; &.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (command,) = [line for line in done.stdout.splitlines() if "redraw" in line]
    assert shlex.split(command)[-2:] == ["--configfile", "config/my run; &.yaml"]
