"""The cache between runs: what another run fetches, and that it is never the wrong thing."""

import re
from pathlib import Path

import pytest
import yaml

from knnlm.storage.manifests import read_manifest

pytestmark = pytest.mark.slow

ENTRIES = yaml.safe_load((Path(__file__).parents[2] / "config/hypotheses.yaml").read_text())["hypotheses"]
INDEX = ["trained", "chunk-0", "chunk-1"]
SHARED = [
    "lm/model.pt",
    "states/manifest.json",
    "datastore/chunk-0/manifest.json",
    "datastore/chunk-1/manifest.json",
]  # the first output of each job
HYPOTHESES = {"hypotheses/sparsification.json", "hypotheses/neighbours.json"}  # the second one reads neighbours
ARRAYS = [
    *(f"components/base.{split}.npy" for split in ("valid", "test")),
    *(f"states/{split}.{h}.npy" for split in ("valid", "test") for h in ("att", "ffn")),
    *(f"datastore/chunk-{chunk}/{name}.npy" for chunk in (0, 1) for name in ("att", "ffn", "values", "positions")),
]


def index(h: str) -> list[str]:
    return [f"index/{h}-l2/{name}.faiss" for name in INDEX]


def neighbours(h: str) -> list[str]:
    return [f"neighbours/{h}-l2-{search}/manifest.json" for search in ("exact", "approximate")]


def of(h: str) -> set[str]:
    return {*index(h), *neighbours(h)}


class Runs:
    """Runs of several names in one project, which share a cache.

    Each finds the neighbours of the key types it is asked for, and tries two hypotheses.
    """

    def __init__(self, project, cache: Path):
        self.project, self.cache = project, cache

    def __call__(self, name: str, *words: str, h: list[str], check: bool = True, **changes: object) -> str:
        overlay = yaml.safe_load((self.project.folder / "config/tiny.yaml").read_text()) | {"name": name} | changes
        overlay["retrieval"] |= {"h": h, "metrics": ["l2"]}
        tried = {
            hypothesis: entry
            for hypothesis, entry in overlay["hypotheses"].items()
            if f"hypotheses/{hypothesis}.json" in HYPOTHESES
        }
        overlay["hypotheses"] = {hypothesis: tried.get(hypothesis, {"enabled": False}) for hypothesis in ENTRIES}
        (self.project.folder / f"config/{name}.yaml").write_text(yaml.safe_dump(overlay))
        targets = [f"results/{name}/{file}" for file in (*(file for one in h for file in neighbours(one)), *HYPOTHESES)]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("SNAKEMAKE_OUTPUT_CACHE", str(self.cache))
            return self.project(*targets, *words, config=f"config/{name}.yaml", check=check).stdout

    def planned(self, name: str, **given: object) -> dict[str, set[str]]:
        """Return what a run would get from the cache and what it would add to it, by the first output of each job."""
        output = self(name, "-n", **given)
        plan = re.findall(
            rf"^Output file results/{name}/(\S+) will be (obtained from|written to) global", output, flags=re.MULTILINE
        )
        return {verb: {file for file, does in plan if does == verb} for verb in ("obtained from", "written to")}

    def file(self, run: str, name: str) -> Path:
        return self.project.folder / "results" / run / name


@pytest.fixture(scope="module")
def runs(new_project, tmp_path_factory):
    """Return runs of which the first has filled the cache, with the index and the neighbours of the key type att."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    runs = Runs(new_project("cached"), cache)
    runs("first", h=["att"])
    return runs


def test_another_seed_fetches_nothing(runs):
    assert runs.planned("other-seed", h=["att"], seed=2) == {
        "obtained from": set(),
        "written to": {*SHARED, *of("att"), *HYPOTHESES},
    }


def test_another_name_fetches_all_and_of_another_key_type_only_what_is_its_own(runs, finished):
    everything = {*SHARED, *of("att"), *HYPOTHESES}
    assert runs.planned("both", h=["att", "ffn"]) == {"obtained from": everything, "written to": of("ffn")}
    assert runs.planned("again", h=["att"]) == {"obtained from": everything, "written to": set()}
    runs("again", h=["att"])
    arrays = [
        f"{file}.{split}.npy"
        for file in ("hypotheses/sparsification", "hypotheses/neighbours")
        for split in ("valid", "test")
    ]
    arrays += [
        f"neighbours/att-l2-exact/{split}.{array}.npy"
        for split in ("valid", "test")
        for array in ("ids", "similarities")
    ]
    arrays += [
        f"neighbours/att-l2-approximate/{split}.{array}.npy"
        for split in ("valid", "test")
        for array in ("ids", "similarities", "real")
    ]
    for name in arrays:
        assert runs.file("again", name).resolve() == runs.file("first", name).resolve()
        assert runs.file("again", name).read_bytes() == (finished.folder / "results/tiny" / name).read_bytes()


def test_another_k_and_key_type_fetch_all_but_the_neighbours_and_what_is_of_that_key_type(runs, finished):
    other = {"h": ["att", "ffn"], "retrieval": {"k": 32}}
    plan = runs.planned("second", **other)
    assert plan["obtained from"] == {*SHARED, *index("att"), "hypotheses/sparsification.json"}
    assert plan["written to"] == {*neighbours("att"), *of("ffn"), "hypotheses/neighbours.json"}
    runs("second", **other)
    for name in (*SHARED, *ARRAYS, *index("att")):
        assert runs.file("second", name).is_symlink()
        assert runs.file("second", name).resolve() == runs.file("first", name).resolve()
    for name in (*ARRAYS, *index("att"), *index("ffn")):  # a run that knows no cache is the judge
        assert runs.file("second", name).read_bytes() == (finished.folder / "results/tiny" / name).read_bytes()
    for h in ("att", "ffn"):
        assert read_manifest(runs.file("second", f"index/{h}-l2/trained.json"))["settings"]["h"] == h
        for search in ("exact", "approximate"):
            assert (
                read_manifest(runs.file("second", f"neighbours/{h}-l2-{search}/manifest.json"), h=h, search=search)["k"]
                == 32
            )
    assert "Nothing to be done" in runs("second", "-n", **other)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [(None, "is not a folder that can be written to"), (0o755, "is open to every user of this machine")],
)
def test_a_cache_that_cannot_be_used_stops_before_the_first_job(new_project, tmp_path, mode, sentence):
    runs = Runs(new_project("refused"), tmp_path / "cache")
    if mode is not None:
        runs.cache.mkdir()
        runs.cache.chmod(mode)
    output = runs("refused", h=["att"], check=False)
    assert re.search(rf"SNAKEMAKE_OUTPUT_CACHE: {runs.cache} {sentence}", output)
    assert not (runs.project.folder / "results").exists()
