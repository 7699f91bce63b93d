"""What the documents point to exists: files, headings, and the commands of the Makefile."""

import re
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/*.md"), ROOT.glob("config/*.md")))
CODE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")


def prose(path: Path) -> str:
    return CODE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document; equal headings are numbered."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(path), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        same = sum(slug == earlier or re.fullmatch(rf"{re.escape(slug)}-\d+", earlier) is not None for earlier in found)
        found.append(f"{slug}-{same}" if same else slug)
    return set(found)


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a document whose file or heading does not exist."""
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(path):
    assert broken_links(path) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# Two words, really?\n\n## again\n\n## again\n")
    text = (
        "[a](b.md) [b](c.md) [c](b.md#two-words-really) [d](b.md#three) [e](#here) [f](b.md#again-1) [g](https://x.y)"
    )
    (tmp_path / "a.md").write_text(text + "\n```\n[h](in-code.md)\n```\n")
    assert broken_links(tmp_path / "a.md") == ["c.md", "b.md#three", "#here"]


def test_anchors_of_the_paper_that_the_code_cites_exist():
    cited = set()
    for path in chain(*((ROOT / "workflow").rglob(pattern) for pattern in ("*.py", "*.smk", "*.yaml", "*.rst"))):
        cited |= set(re.findall(r"docs/paper\.md#([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    assert cited <= anchors(ROOT / "docs/paper.md")


def test_every_hypothesis_has_a_section_on_the_paper():
    entries = yaml.safe_load((ROOT / "config/hypotheses.yaml").read_text(encoding="utf-8"))["hypotheses"]
    assert entries.keys() - {"second-seed-and-knn"} <= anchors(ROOT / "docs/paper.md")


def test_the_readme_is_short_and_says_what_the_catalogue_looks_for():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "snakemake" in text.lower()
    assert "workflow" in text.lower()


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    named = set()
    for path in DOCUMENTS:
        named |= set(re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_the_trees_of_the_documents_name_every_room():
    rooms = {path.parent.name for path in (ROOT / "workflow/knnlm").glob("*/__init__.py")}
    (tree,) = re.findall(
        r"^```\n(Snakefile .*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert rooms <= set(re.findall(r"(\w+)/", tree))
    for name in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (ROOT / name).is_dir()
    architecture = (ROOT / "docs/architecture.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)/` \|", architecture, re.MULTILINE)) == rooms


def test_files_and_functions_that_the_architecture_names_exist():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"\| (?:`(\w+)` in )?`(\w+/\w+\.py)` \|", text)
    assert named
    for function, path in named:
        assert f"def {function}" in (ROOT / "workflow/knnlm" / path).read_text("utf-8"), path
