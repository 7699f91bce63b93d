import json

import numpy as np
import pytest

from knnlm.components.catalogue import BASE, Component, knn_components, retrievals, searched_fractions
from knnlm.components.columns import checkpoint_of, component_file, find_component, load_components, save_components
from knnlm.errors import KnnlmError
from knnlm.storage.manifests import write_manifest

SETTINGS = {
    "retrieval": {"k": 8, "h": ["att", "ffn"], "metrics": ["l2", "ip"]},
    "main": {"h": "att", "metric": "l2"},
    "fractions": [0.05, 0.5, 1.0],
}


def names(h, metric, search, settings=SETTINGS):
    return [component.component for component in knn_components(settings, h, metric, search)]


def test_names_of_the_main_retrieval():
    assert names("att", "l2", "approximate") == [
        "knn-att-l2-approximate-faiss-f0.05",
        "knn-att-l2-approximate-faiss-f0.5",
        "knn-att-l2-approximate-faiss",
        "knn-att-l2-approximate-faiss-untuned",
        "knn-att-l2-approximate-real-f0.05",
        "knn-att-l2-approximate-real",
        "knn-att-l2-approximate-real-untuned",
    ]
    assert names("att", "l2", "exact") == [
        "knn-att-l2-exact-real-f0.05",
        "knn-att-l2-exact-real-f0.5",
        "knn-att-l2-exact-real",
        "knn-att-l2-exact-real-untuned",
    ]


@pytest.mark.parametrize(("h", "metric"), [("att", "ip"), ("ffn", "l2"), ("ffn", "ip")])
def test_other_retrievals_use_the_full_store_alone(h, metric):
    assert names(h, metric, "exact") == [f"knn-{h}-{metric}-exact-real", f"knn-{h}-{metric}-exact-real-untuned"]
    assert {component.fraction for component in knn_components(SETTINGS, h, metric, "approximate")} == {1.0}


def test_a_single_fraction_gives_no_component_twice():
    single = SETTINGS | {"fractions": [1.0]}
    assert len(names("att", "l2", "approximate", single)) == len(set(names("att", "l2", "approximate", single))) == 4


def test_all_retrievals_and_no_name_twice():
    assert len(retrievals(SETTINGS)) == 8
    every = [name for retrieval in retrievals(SETTINGS) for name in names(*retrieval)]
    assert len(every) == len(set(every)) == 7 + 4 + 3 * (4 + 2)


def test_fields_say_what_the_name_says():
    for component in (part for retrieval in retrievals(SETTINGS) for part in knn_components(SETTINGS, *retrieval)):
        fields = component.component.split("-")
        assert fields[:3] == ["knn", component.h, component.metric]
        assert (component.mask, component.score) == {
            "approximate-faiss": ("faiss", "faiss"),
            "approximate-real": ("faiss", "real"),
            "exact-real": ("real",) * 2,
        }["-".join(fields[3:5])]
        assert (component.family, component.k, component.added_parameters) == ("knn", 8, 0)
        untuned = fields[-1] == "untuned"
        assert (component.temperature, component.temperature_status) == ((1.0, "fixed") if untuned else (None, None))
        assert component.fraction == (float(fields[-1][1:]) if fields[-1].startswith("f0") else 1.0)
        assert component.fraction in searched_fractions(SETTINGS, component.h, component.metric)


def test_tuning_fills_in_the_temperature_alone():
    before = knn_components(SETTINGS, "att", "l2", "exact")[0]
    after = before.tuned(2.5, "optimum")
    assert (after.temperature, after.temperature_status) == (2.5, "optimum")
    assert Component(**{**vars(after), "temperature": None, "temperature_status": None}) == before


@pytest.fixture
def saved(tmp_path):
    components = [BASE, Component("knn-x", "knn", "att", "l2", "faiss", "real", 1.5, "edge", 0.05, 8)]
    log_p = {
        "valid": [np.array([-1.0, -np.inf, -3.0]), np.array([-0.5, -2.0, -9.0])],
        "test": [np.array([-4.0]), np.array([-np.inf])],
    }
    save_components(tmp_path / "some.json", components, log_p, "abc")
    return tmp_path / "some.json", components, log_p


def test_components_come_back(saved):
    path, components, log_p = saved
    for split, tokens in (("valid", 3), ("test", 1)):
        loaded = load_components(path, split, tokens, "abc")
        assert [component for component, _ in loaded] == components
        assert all(array.dtype == np.float32 and array.shape == (tokens,) for _, array in loaded)
        assert np.array_equal([array for _, array in loaded], log_p[split])


def test_the_interface_of_the_files(saved):
    path, *_ = saved
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["some.json", "some.test.npy", "some.valid.npy"]
    first = json.loads(path.read_text())["components"][0]
    assert (first["component"], first["family"], first["temperature"]) == ("base", "lm", None)


def test_another_number_of_tokens_is_refused_by_name(saved):
    with pytest.raises(KnnlmError, match=r"some\.valid\.npy: has shape \(2, 3\), expected \(2, 4\)"):
        load_components(saved[0], "valid", 4, "abc")


def test_a_missing_component_is_refused_by_name(saved):
    path, components, _ = saved
    files = [component_file(path, split) for split in ("valid", "test")]
    write_manifest(path, files, kind="components", checkpoint="abc", components=[vars(components[0])])
    with pytest.raises(KnnlmError, match=r"some\.valid\.npy: has shape"):
        load_components(path, "valid", 3, "abc")


def test_components_of_another_base_lm_are_refused_by_name(saved):
    assert checkpoint_of(saved[0]) == "abc"
    with pytest.raises(
        KnnlmError, match=r"some\.json: checkpoint is 'abc', but 'abd' is needed here; delete it and rerun"
    ):
        load_components(saved[0], "valid", 3, "abd")


def test_a_component_is_found_in_the_file_that_has_it(saved, tmp_path):
    path, components, log_p = saved
    save_components(
        tmp_path / "other.json", [Component("other", "knn")], {split: [log_p[split][0]] for split in log_p}, "abc"
    )
    found, columns = find_component([tmp_path / "other.json", path], "knn-x", {"valid": 3, "test": 1}, "abc")
    assert found == components[1]
    assert {split: column.tolist() for split, column in columns.items()} == {
        "valid": [-0.5, -2.0, -9.0],
        "test": [-np.inf],
    }
    with pytest.raises(KnnlmError, match=r"component none: not among the stored ones \(other, base, knn-x\)"):
        find_component([tmp_path / "other.json", path], "none", {"valid": 3}, "abc")


def test_a_table_that_was_written_beside_the_components_is_checked_too(tmp_path):
    (tmp_path / "some.csv").write_text("a\n1\n2\n")
    save_components(tmp_path / "some.json", [BASE], {"valid": [np.zeros(2)]}, "abc", more_files=[tmp_path / "some.csv"])
    load_components(tmp_path / "some.json", "valid", 2, "abc")
    (tmp_path / "some.csv").write_text("a\n1\n")
    with pytest.raises(KnnlmError, match=r"some\.csv: not as it was when .*some\.json was written"):
        load_components(tmp_path / "some.json", "valid", 2, "abc")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[{]",
        b"3",
        b"null",
        b'[{"component": "base"}]',
        b'[{"name": "base"}]',
        b"[1]",
        b'{"a": 1}',
        b'["base"]',
        b"\xff",
    ],
)
def test_a_damaged_description_is_refused_by_name(saved, content):
    saved[0].write_bytes(content)
    with pytest.raises(KnnlmError, match=r"some\.json: (not a readable manifest|format is None)"):
        load_components(saved[0], "valid", 3, "abc")


def test_missing_and_damaged_files_are_refused_by_name(saved):
    path, *_ = saved
    array = path.with_name("some.valid.npy")
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(KnnlmError, match=r"some\.valid\.npy: not as it was when .*some\.json was written"):
        load_components(path, "valid", 3, "abc")
    array.unlink()
    with pytest.raises(KnnlmError, match=r"some\.valid\.npy: the file is missing"):
        load_components(path, "valid", 3, "abc")
    with pytest.raises(KnnlmError, match=r"none\.json"):
        load_components(path.with_name("none.json"), "valid", 3, "abc")
