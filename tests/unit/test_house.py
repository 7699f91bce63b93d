"""How the library is built: which room may import which, how large rooms are, and that text names its encoding."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parents[2] / "workflow"
# The way of the data: a room imports those before it.
KNOWN_TO_ALL = ["errors", "storage", "running"]
STAGES = ["corpus", "language_model", "datastore", "retrieval", "components", "hypotheses", "analysis", "figures"]
# What a config may say and what a job takes is told from these modules of the stages alone, which import nothing heavy.
LIGHT = {
    "corpus.sotu",
    "corpus.text",
    "datastore.factory",
    "retrieval.blocks",
    "components.catalogue",
    "hypotheses.registry",
    "figures.catalogue",
}
DESCRIBING = ["config", "cost"]
DOING = ["performance", "steps"]
PLUGIN = "fairseq_plugin"  # fairseq loads it, so it imports the library and rooms import it
HEAVY = {"numpy", "torch", "pandas", "scipy", "faiss", "fairseq", "transformers", "matplotlib"}
MOST_ROOMS, MOST_LINES = 20, 300  # lines of a module: one that is longer wants to be two


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(WORKFLOW.rglob("*.py")):
        yield path.relative_to(WORKFLOW), ast.parse(path.read_text(encoding="utf-8"))


def place(name: str) -> tuple[str, str] | None:
    """Return room and module of a dotted name; None where it is neither the library's nor the plugin's."""
    first, *rest = name.split(".")
    if first == PLUGIN:
        return PLUGIN, PLUGIN
    return (rest[0], ".".join(rest[:2])) if first == "knnlm" and rest else None


def imports() -> Iterator[tuple[str, str, str]]:
    """Yield (importing room, imported room, imported module) for every import between rooms, inside functions too."""
    for path, tree in parsed():
        room, _ = place(".".join(path.with_suffix("").parts)) or ("knnlm", "")
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports by a relative name"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for other, module in filter(None, map(place, names)):
                if other != room:
                    yield room, other, module


def lines_of_rooms() -> Counter[str]:
    lines: Counter[str] = Counter()
    for path in WORKFLOW.rglob("*.py"):
        room = path.relative_to(WORKFLOW).with_suffix("").parts
        lines[room[1] if room[0] == "knnlm" else room[0]] += len(path.read_text(encoding="utf-8").splitlines())
    return lines


def test_a_room_imports_only_rooms_before_it():
    """The one arrow backwards is that to the plugin, which is ours but not the library's."""
    ordered = [*KNOWN_TO_ALL, *STAGES]
    backwards = {
        (room, other)
        for room, other, _ in imports()
        if room in ordered and (other not in ordered or ordered.index(other) >= ordered.index(room))
    }
    assert backwards == {("language_model", PLUGIN), ("hypotheses", PLUGIN)}


@pytest.mark.parametrize("room", DESCRIBING)
def test_a_room_that_describes_knows_light_modules_alone(room):
    rooms = [*KNOWN_TO_ALL, *DESCRIBING[: DESCRIBING.index(room)]]
    assert {module for importer, other, module in imports() if importer == room and other not in rooms} <= LIGHT


def test_nothing_imports_steps_or_measurements_but_they_themselves():
    assert {room for room, other, _ in imports() if other in DOING} <= set(DOING)


def test_rooms_are_few_and_none_is_too_large():
    lines = lines_of_rooms()
    assert set(lines) - {"__init__"} <= {*KNOWN_TO_ALL, *STAGES, *DESCRIBING, *DOING, PLUGIN}
    assert len(lines) <= MOST_ROOMS
    assert max(lines.values()) <= lines.total() / 5, lines.most_common(1)


def test_no_module_is_too_long():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in WORKFLOW.rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_reading_the_workflow_imports_nothing_heavy():
    """Neither its rules, whatever they import, nor the modules that describe; told in a process of its own."""
    rules = "".join(path.read_text(encoding="utf-8") for path in (WORKFLOW / "rules").glob("*.smk"))
    read = {
        f"{module}.{name}"
        for module, names in re.findall(r"^ *from (knnlm[\w.]*) import ([\w, ]+)", rules, flags=re.MULTILINE)
        for name in names.split(", ")
    }
    modules = {f"knnlm.{module}" for module in LIGHT}
    for path in (path for room in DESCRIBING for path in (WORKFLOW / "knnlm" / room).glob("*.py")):
        modules.add(".".join(path.relative_to(WORKFLOW).with_suffix("").parts))
    assert {"knnlm.config.checks", "knnlm.hypotheses.registry"} <= read
    modules |= {name for name in read if WORKFLOW.joinpath(*name.split(".")).with_suffix(".py").exists()}
    code = f"import sys\nimport {', '.join(sorted(modules))}\nprint(*{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=WORKFLOW, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_text_file_and_stream_names_its_encoding():
    """Else it would be the locale's. Binary modes and devices are no text."""
    unnamed = [
        f"{path}:{node.lineno}"
        for path, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and is_text(node) and "encoding" not in {word.arg for word in node.keywords}
    ]
    for path in (WORKFLOW / "rules").glob("*.smk"):
        calls = re.findall(r"\b(?:open|read_text|write_text)\(([^()]*)\)", path.read_text(encoding="utf-8"))
        unnamed += [path.name for given in calls if "encoding" not in given]
    assert unnamed == []


def is_text(call: ast.Call) -> bool:
    """Return whether a call opens, reads or writes text, or starts a process and reads text from it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if name in ("read_text", "write_text"):
        return True
    if name == "open" and isinstance(call.func, ast.Name):
        mode = (
            call.args[1]
            if len(call.args) > 1
            else next((word.value for word in call.keywords if word.arg == "mode"), None)
        )
        return mode is None or "b" not in ast.literal_eval(mode)
    return any(word.arg in ("text", "universal_newlines") for word in call.keywords)
