"""Bad entries of hypotheses: settings of every kind, and components that no run has. Each is told by its key."""

import copy

import numpy as np
import pytest
from configs import config_of

from knnlm.components.catalogue import knn_components, retrievals
from knnlm.config.checks import check_combinations
from knnlm.config.hypotheses import problems
from knnlm.errors import KnnlmError
from knnlm.hypotheses.registry import settings_schema, values_of_kind

DEMO = config_of()
RECIPE = DEMO["hypotheses"]["additional-linear"]["settings"]["recipe"]


def with_changes(name: str, **changes: object) -> dict:
    """Return the demo's config with fields of one entry changed; dots in a field's name lead into its settings."""
    config = copy.deepcopy(DEMO)
    for field, value in changes.items():
        *path, last = field.split(".")
        section = config["hypotheses"][name]
        for part in path:
            section = section[part]
        section[last] = value
    return config


def problem(config: dict) -> tuple[str, str]:
    key, message = next(problems(config))
    assert message.endswith(".")
    assert message.isprintable()
    return key, message


SETTINGS = [
    ("sparsification", "k", 16, "a list"),
    ("sparsification", "k", [0], "at least 1"),
    ("sparsification", "k", ["16"], "a whole number"),
    ("sparsification", "k", [16.0], "a whole number"),
    ("sparsification", "k", [True], "a whole number"),
    ("sparsification", "K", [16], "known here are k"),
    ("neighbours", "counts", [1, -1, None], "at least 1 or null"),
    ("padding", "shares", [1.0], "below 1"),
    ("padding", "shares", [-0.1], "at least 0"),
    ("padding", "shares", [float("nan")], "at least 0"),
    ("approximate-search", "nprobe", [None], "at least 1"),
    ("approximate-search", "codes", {"a": 1}, "a list"),
    ("approximate-search", "factories", "IVF512,PQ32", "a list"),
    ("approximate-search", "factories", ["IVF512,PQ32", "IVF512,PQ32"], "twice"),
    ("approximate-search", "factories", ["IVF512,PQ32", 3], "3 is not a factory string"),
    ("additional-linear", "noise", -1, "at least 0"),
    ("additional-linear", "noise", float("inf"), "a number"),
    ("additional-linear", "recipe", [RECIPE], "a section"),
    ("additional-linear", "recipe.betas", [0.9], "two numbers"),
    ("additional-linear", "recipe.betas", [0.9, 1], "below 1"),
    ("additional-linear", "recipe.rows", 0, "at least 1 or null"),
    ("additional-linear", "recipe.learning_rates", 0, "above 0"),
    ("additional-linear", "recipe.learning_rates", "1e-3", "above 0"),
    ("additional-linear", "recipe.learning_rates", [1e-3, 0], "above 0"),
    ("additional-linear", "recipe.learning_rates", [], "one or more"),
    ("additional-linear", "recipe.patience", 0, "at least 1"),
    ("additional-linear", "recipe.learning_rate", 1e-3, "known here are passes, patience"),
    ("clustering", "fine_tuning.patience", 0.5, "at least 1"),
    ("additional-linear", "recipe.passes", 0, "at least 1"),
    ("additional-linear", "recipe.warm_up", 0.1, "known here are passes"),
    ("softmax-capacity", "h", ["att", "attention"], "att or ffn"),
    ("softmax-capacity", "n", ["two"], "a whole number"),
    ("softmax-capacity", "initial", {"zeros": {"rows": None, "learning_rates": 0.1}}, "known here are random, copies"),
    ("softmax-capacity", "initial", {"random": {"rows": None}}, "missing"),
    ("softmax-capacity", "initial", ["random"], "a section"),
    ("adaptive-capacity", "extra", ["length"], "frequency or loss"),
    ("adaptive-capacity", "total_ratio", 0.5, "at least 1"),
    ("mixture-of-softmaxes", "K", [0], "at least 1"),
    ("clustering", "kinds", {"k-means": ["l2"]}, "known here are kmeans"),
    ("clustering", "kinds", {"kmeans": ["cosine"]}, "l2 or ip"),
    ("clustering", "kinds", {"kmeans": "l2"}, "a list"),
    ("clustering", "ratio", 0, "above 0"),
    ("clustering", "k_means.factory", "PQ8", "Flat or IVF"),
    ("clustering", "k_means.factory", "IVF0,Flat", "Flat or IVF"),
    ("clustering", "words.samples", None, "at least 1"),
    ("interpolated-loss", "lambda", 1, "below 1"),
    ("loss-weighting", "sample_rows", 0.5, "a whole number"),
    ("stolen-probabilities", "most_linear_programs", -1, "at least 0 or null"),
    ("memorisation", "every", 0, "at least 1"),
    ("memorisation", "clip_norm", -1, "at least 0"),
    ("memorisation", "warmup_updates", -1, "at least 0"),
    ("soft-labels", "k", None, "at least 1"),
    ("second-seed", "seed_offset", 0, "at least 1"),
    ("ensembling", "ensembles", {"two": []}, "one or more"),
    ("ensembling", "ensembles", {"two": "{l2}"}, "a list"),
    ("ensembling", "ensembles", {"two": ["{l2}", 5]}, "the name of a component"),
]


@pytest.mark.parametrize(("name", "setting", "value", "said"), SETTINGS)
def test_a_bad_setting_is_told_by_its_key(name, setting, value, said):
    key, message = problem(with_changes(name, **{f"settings.{setting}": value}))
    assert key.startswith(f"hypotheses.{name}.settings.{setting}")
    assert said in message


COMPONENTS = [
    ("padding", "against", "knn-att-l2-exact", "did you mean knn-att-l2-exact-real"),
    ("padding", "against", "basis", "did you mean base"),
    ("padding", "against", "{main}-tuned", "no component of this run"),
    ("padding", "against", "Something else entirely", "<hypothesis>-..."),
    ("padding", "candidates", ["{main}", "{approx}"], "'{approx}' is no component"),
    ("padding", "candidates", ["padding-*", "paddings-*"], "'paddings-*' is no component"),
    ("padding", "candidates", ["knn-att-cos-*"], "no component of this run"),
    ("padding", "candidates", ["temperature-*"], "a component of temperature, which makes none in this run"),
    (
        "ensembling",
        "settings.ensembles",
        {"two": ["{l2}", "knn-att-l3-exact-real"]},
        "did you mean knn-att-l2-exact-real",
    ),
]


@pytest.mark.parametrize(("name", "field", "value", "said"), COMPONENTS)
def test_a_component_that_no_run_has_is_told(name, field, value, said):
    key, message = problem(with_changes(name, **{field: value}))
    assert key == f"hypotheses.{name}.{field.split('.')[0]}"
    assert said in message


@pytest.mark.parametrize(
    "pattern",
    [
        "base",
        "{main}",
        "{main}-untuned",
        "{approximate}",
        "{ip}",
        "knn-ffn-*",
        "*",
        "soft*",
        "softmax-capacity-att-[2-9]v-*",
        "padding-exact-0.1",
    ],
)
def test_a_component_that_a_run_may_have_is_let_pass(pattern):
    assert not list(problems(with_changes("padding", candidates=[pattern])))


def test_every_component_of_the_main_result_may_be_named():
    for retrieval in retrievals(DEMO):
        for component in knn_components(DEMO, *retrieval):
            assert not list(problems(with_changes("padding", against=component.component)))


def test_the_components_of_a_disabled_hypothesis_are_told():
    key, message = problem(with_changes("softmax-capacity", enabled=False))
    assert key == "hypotheses.input-representation.against"
    assert "a component of softmax-capacity, which makes none in this run; enable softmax-capacity" in message


def test_a_metric_that_is_not_retrieved_has_no_component():
    config = copy.deepcopy(DEMO)
    config["retrieval"]["metrics"] = ["l2"]
    key, message = problem(config)
    assert key == "hypotheses.ensembling.settings"
    assert "'knn-att-ip-exact-real' is no component" in message


def test_hypotheses_that_wait_for_each_other_are_told():
    config = with_changes("second-seed-and-knn", after=["ensembling"])
    config["hypotheses"]["ensembling"]["after"] = ["second-seed-and-knn"]
    key, message = problem(config)
    assert key in ("hypotheses.ensembling.after", "hypotheses.second-seed-and-knn.after")
    assert "waits for itself" in message
    assert "no enabled hypothesis" in problem(with_changes("second-seed-and-knn", after=["third-seed"]))[1]


@pytest.mark.parametrize(("seed", "seeds"), [(1, []), (2**31 - 1, []), (7, [3, 2**31 - 1, 5])])
def test_a_second_seed_is_one_that_numpy_has(seed, seeds):
    largest = max(seeds or [seed])
    config = with_changes("second-seed", **{"settings.seed_offset": 2**32 - 1 - largest}) | {
        "seed": seed,
        "seeds": seeds,
    }
    check_combinations(config)
    np.random.RandomState(2**32 - 1)
    for offset in (2**32 - largest, 10**79):
        with pytest.raises(ValueError, match=r"between 0 and 2\*\*32"):
            np.random.RandomState(largest + offset)
        config["hypotheses"]["second-seed"]["settings"]["seed_offset"] = offset
        key = r"^config key hypotheses\.second-seed\.settings\.seed_offset: "
        said = rf"{key}.* of the seed {largest}, and .*; lower it\.$"
        with pytest.raises(KnnlmError, match=said):
            check_combinations(config)
    config["hypotheses"]["second-seed"]["enabled"] = config["hypotheses"]["second-seed-and-knn"]["enabled"] = False
    check_combinations(config)


def test_codes_that_the_training_rows_cannot_train_are_told():
    config = copy.deepcopy(DEMO)
    config["index"] = {"factory": "IVF16,Flat", "training_rows": 256, "nprobe": 4}
    check_combinations(config)
    config["index"]["training_rows"] = 255
    said = r"^config key hypotheses\.approximate-search\.settings\.codes: a code of 8 bytes needs 256 rows .* is 255"
    with pytest.raises(KnnlmError, match=said):
        check_combinations(config)
    for codes in ([], [48]):  # of which none is trained, as 48 does not divide the width
        config["hypotheses"]["approximate-search"]["settings"]["codes"] = codes
        check_combinations(config)


def test_values_are_found_by_their_kind_wherever_they_stand():
    deep = {"properties": {"deep": {"type": "array", "items": {"$ref": "#/$defs/count"}, "minItems": 1}}}
    kinds = settings_schema(
        {
            "k": "count",
            "none": "count_or_null",
            "many": "counts",
            "name": "component",
            "inner": {"type": "object", "additionalProperties": deep},
        }
    )
    given = {
        "k": 1,
        "none": None,
        "many": [2, None, 3],
        "name": "base",
        "inner": {"a": {"deep": [4]}, "b": {"deep": [5, 6]}},
    }
    assert list(values_of_kind("count", given, kinds)) == [
        ("k", 1), ("many", 2), ("many", 3), ("inner.a.deep", 4), ("inner.b.deep", 5), ("inner.b.deep", 6)
    ]  # fmt: skip
    assert list(values_of_kind("component", given, kinds)) == [("name", "base")]


@pytest.mark.parametrize("family", ["__init__", "nothing", "x" * 3000])
def test_a_family_without_a_step_is_told(family):
    key, message = problem(with_changes("padding", family=family))
    assert key == "hypotheses.padding.family"
    assert len(message) < 600


@pytest.mark.parametrize("kind", ["lists of count", "count or none", "Count", "one of a, b"])
def test_a_step_of_ones_own_with_a_kind_that_there_is_not_is_told(kind):
    with pytest.raises(ValueError, match="is no kind of setting"):
        settings_schema({"sizes": {"properties": {"k": kind}}})
