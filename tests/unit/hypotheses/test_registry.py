"""The config's hypotheses: every shipped entry fits its step, and each mistake is told by the name of its key."""

import ast
import copy
import re
from pathlib import Path

import pytest
from configs import config_of

from knnlm.config.hypotheses import problems
from knnlm.hypotheses import registry

ROOT = Path(__file__).parents[3]


SHIPPED = config_of()


@pytest.mark.parametrize("overlay", ["tiny", "sotu", "wiki", "wikitext103"])
def test_shipped_entries_fit_their_steps(overlay):
    assert not list(problems(config_of(overlay)))


def test_every_step_is_asked_for_by_a_shipped_entry():
    assert {SHIPPED["hypotheses"][name]["family"] for name in registry.with_step(SHIPPED)} == set(registry.families())


@pytest.mark.parametrize("family", registry.families())
def test_a_step_reads_the_settings_it_declares_and_no_others(family):
    code = (registry.STEPS / f"{family}.py").read_text()
    read = {
        node.slice.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and ast.unparse(node.value).endswith(("inputs.settings", "self.settings"))
    }
    assert read <= registry.read_step(family)[1]["properties"].keys()


def test_what_trains_an_lm():
    trained = {name for name in registry.with_step(SHIPPED) if registry.trains_lm(SHIPPED, name)}
    assert trained == {"memorisation", "soft-labels", "second-seed", "second-seed-and-knn"}


def changed(**entries: dict) -> dict:
    config = copy.deepcopy(SHIPPED)
    empty = {
        "enabled": True,
        "family": None,
        "question": "?",
        "paper": "silent",
        "against": None,
        "candidates": None,
        "after": [],
        "x_label": None,
    }
    for name, entry in entries.items():
        config["hypotheses"][name] = {**config["hypotheses"].get(name, {**empty, "settings": {}}), **entry}
    return config


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ({}, "candidates", "list components"),
        ({"family": "sparsfication"}, "family", "sparsification"),
        ({"family": "sparsification"}, "settings.k", "missing"),
        ({"family": "sparsification", "settings": {"k": 3}}, "settings.k", "not a list"),
        ({"family": "sparsification", "settings": {"k": [3], "size": 1}}, "settings.size", "known here are k"),
        ({"family": "second_seed", "settings": {"seed_offset": True}}, "settings.seed_offset", "whole number"),
        ({"family": "ensembling", "settings": {"ensembles": {}}, "after": ["temperature"]}, "after", "temperature"),
        (
            {"family": "sparsification", "settings": {"k": [3]}, "after": ["second-seed"]},
            "after",
            "reads no components",
        ),
        ({"family": "ensembling", "settings": {"ensembles": {}}, "after": ["new"]}, "after", "waits for itself"),
        (
            {
                "family": "loss_weighting",
                "settings": SHIPPED["hypotheses"]["loss-weighting"]["settings"] | {"recipe": {}},
            },
            "settings.recipe.passes",
            "missing",
        ),
    ],
)
def test_problems_name_the_key(entry, key, said):
    found, message = next(problems(changed(new=entry)))
    assert found == f"hypotheses.new.{key}"
    assert said in message


def test_a_disabled_entry_is_not_looked_at():
    assert not list(problems(changed(new={"enabled": False, "family": "nothing"})))


def test_the_example_of_contributing_is_short():
    (code,) = re.findall(r"```python\n(# workflow/.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) < 30


def test_counts_of_neighbours_that_a_run_has_not_stored_are_left_out_and_told(capsys):
    from knnlm.hypotheses.inputs import Inputs
    from knnlm.hypotheses.neighbour_counts import counts

    def of(k: int) -> list[int]:
        known = {"hypothesis": "few", "seed": 1, "settings": {"counts": [64, None, 1, 256, 16]}, "retrieval": {"k": k}}
        return counts(Inputs(**known))

    assert of(1024) == [1, 16, 64, 256, 1024]
    assert of(256) == [1, 16, 64, 256]
    assert capsys.readouterr().out == ""
    assert of(63) == [1, 16, 63]
    assert capsys.readouterr().out == "hypotheses.few.settings.counts: 64, 256 left out, as retrieval.k is 63\n"
