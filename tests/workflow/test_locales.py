"""Locales that are not UTF-8: the workflow starts in them, and its steps write the same bytes."""

import json
import subprocess

import pytest

LOCALES = ["C", "de_DE.ISO-8859-1", "zh_CN.GB18030", "ja_JP.EUC-JP"]
STEP = "results/tiny/hypotheses/sparsification"
# Letters that Latin-1 has, letters that it lacks, and one beyond the first 65,536.
WORDS = ["für", "λ", "שלום", "中文", "かな", "😀"]


@pytest.fixture(params=LOCALES)
def locale(request, monkeypatch, tmp_path_factory):
    """Make the processes that a test starts live in a locale, for which Python does not put UTF-8 in place.

    The locale is made if the system has the means.
    """
    name, folder = request.param, tmp_path_factory.mktemp("locales")
    if name != "C":
        language, encoding = name.split(".")
        command = ["localedef", "--inputfile", language, "--charmap", encoding, str(folder / name)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{name} cannot be made here: {error}")
    for variable, value in {"LOCPATH": folder, "LC_ALL": name, "PYTHONUTF8": 0, "PYTHONCOERCECLOCALE": 0}.items():
        monkeypatch.setenv(variable, str(value))
    return name


@pytest.fixture(scope="module")
def project(new_project):
    project = new_project("locales")
    (project.folder / "texts").mkdir()
    for number in range(3):
        lines = [" ".join(WORDS[(number + line) % len(WORDS) :]) for line in range(100)]
        (project.folder / f"texts/{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    text = {"folder": "texts", "valid_fraction": 0.3, "test_fraction": 0.3}
    corpus = {"source": "text", "tokeniser": "none", "bpe_merges": 5, "text": text}
    (project.folder / "config/mine.yaml").write_text(json.dumps({"name": "mine", "corpus": corpus}))
    return project


def test_a_run_is_planned_in_every_locale(project, locale):
    assert "train_lm" in project("-n", config="config/mine.yaml").stdout


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "ja_JP.EUC-JP"], indirect=True)
def test_words_of_any_script_come_through_whole(project, locale):
    run = f"in-locale-{LOCALES.index(locale)}"
    project("binarise", "--config", f"name={run}", config="config/mine.yaml")
    corpus = project.folder / f"results/{run}/corpus"
    for split in ("train", "valid", "test"):
        pieces = (corpus / f"pieces/{split}.txt").read_text(encoding="utf-8").replace("@@ ", "")
        assert set(pieces.split()) == set(WORDS)
    assert "<unk>" not in (corpus / "dictionary.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["de_DE.ISO-8859-1", "zh_CN.GB18030"], indirect=True)
def test_a_step_that_says_a_greek_letter_writes_the_same_bytes(finished, locale, tmp_path):
    project = finished.copied(tmp_path / "project")
    made = sorted((project.folder / STEP).parent.glob("sparsification.*"))
    before = [path.read_bytes() for path in made]
    for path in made:
        path.unlink()
    assert "λ" in project(f"{STEP}.json").stdout
    assert [path.read_bytes() for path in made] == before
