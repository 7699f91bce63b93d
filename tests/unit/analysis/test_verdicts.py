from math import exp, pi, sqrt, tan

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from toy_components import APPROXIMATE, ENTRY, MAIN, NO_FACTS, REFERENCE, RULE, TOY, confidence, evidence, toy, verdicts

from knnlm.analysis.evidence import Evidence
from knnlm.analysis.verdicts import VERDICT_COLUMNS, Certainty, papers_share, verdict_table
from knnlm.components.columns import FACT_COLUMNS
from knnlm.errors import KnnlmError

EXPLANATION = ENTRY | {"asks": "explanation"}


def test_two_documents_worked_by_hand():
    """Without AB, A or B: base 8, 8, 8, kNN-LM 2, 1, 4, candidate √32, 4, 8. Two units: t of one degree of freedom."""
    row = verdicts({"new": ENTRY}, 0.3).iloc[0]
    assert list(row.index) == VERDICT_COLUMNS
    assert (row["component"], row["question"], row["paper"]) == ("new-a", "Does it help?", "refuted")
    gain, t = 8 - sqrt(32), tan(0.3 * pi / 2)  # the gain is 4 or 0 with one unit left out: a standard error of 2
    assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx([gain, gain - 2 * t, gain + 2 * t])
    ends = gain / 6 - t * 2 / 7, gain / 6 + t * 2 / 7  # with one unit left out the kNN-LM's gain is 7 or 4: 4 / 7 and 0
    assert [row["reaches"], row["reaches_low"], row["reaches_high"]] == pytest.approx([gain / 6, *ends])
    assert (row["verdict"], row["agrees"]) == ("better", "no")


def test_a_wider_interval_leaves_it_open():
    row = verdicts({"new": ENTRY}, 0.5).iloc[0]  # t = 1
    assert row["why"] == ""
    row = verdicts({"new": ENTRY}, 0.6).iloc[0]
    assert (row["verdict"], row["agrees"], row["why"]) == ("inconclusive", "", "the interval does not tell")
    row = verdicts({"new": ENTRY}, 0.5).iloc[0]
    assert [row["reaches_low"], row["reaches_high"]] == pytest.approx(
        [(8 - sqrt(32)) / 6 - 2 / 7, (8 - sqrt(32)) / 6 + 2 / 7]
    )
    row = verdicts({"new": ENTRY}, 0.9).iloc[0]  # the kNN-LM's own gain may be nothing
    assert row[["reaches_low", "reaches_high"]].isna().all()
    assert row["verdict"] == "inconclusive"


@pytest.mark.parametrize(("paper", "agrees"), [("supported", "yes"), ("refuted", "no"), ("silent", "")])
def test_agreement_with_the_paper(paper, agrees):
    assert verdicts({"new": ENTRY | {"paper": paper}}, 0.3)["agrees"].tolist() == [agrees]


def test_against_another_component_and_candidates_by_pattern():
    table = verdicts(
        {
            "approximate": ENTRY | {"against": "{main}", "candidates": ["{approximate}"]},
            "mix": ENTRY | {"candidates": ["new-[b-z]", "oth*"]},
        },
        0.3,
    )
    assert table["component"].tolist() == [APPROXIMATE, "new-b"]
    gain, t = 2 - sqrt(8), tan(0.3 * pi / 2)  # with one unit left out -1 or 0, where the kNN-LM's is 7 or 4
    assert [table["gain"][0], table["reaches"][0]] == pytest.approx([gain, gain / 6])
    ends = gain / 6 - t / 14, gain / 6 + t / 14
    assert [table["reaches_low"][0], table["reaches_high"][0]] == pytest.approx(
        ends, rel=0.02
    )  # both at once: the same t
    assert table["verdict"][0] == "worse"


def test_the_intervals_of_several_questions_are_wider_than_that_of_one():
    generator = np.random.default_rng(7)
    shared = generator.normal(0, 0.3, 60)
    documents = {"base": 8 * np.exp(shared), REFERENCE: 4 * np.exp(shared + generator.normal(0, 0.1, 60))}
    documents |= {f"{name}-a": 6 * np.exp(shared + generator.normal(0, 0.1, 60)) for name in "pqrstu"}
    one = verdicts({"p": ENTRY}, 0.95, documents).iloc[0]
    all_of_them = verdicts(dict.fromkeys("pqrstu", ENTRY), 0.95, documents).set_index("hypothesis").loc["p"]
    _, found = evidence(documents)
    alone = pd.Series(found.reaches("p-a").named("reaches", confidence(60, 0.95)))
    assert one[["reaches_low", "reaches_high"]].tolist() == alone[["reaches_low", "reaches_high"]].tolist()
    wider = (all_of_them["reaches_high"] - all_of_them["reaches_low"]) / (one["reaches_high"] - one["reaches_low"])
    bonferroni = stats.t.ppf(1 - 0.025 / 6, 59) / stats.t.ppf(0.975, 59)
    assert 1.15 < wider < bonferroni


def test_what_was_not_run_has_no_row_and_a_mistake_is_named():
    table = verdicts(
        {"not-run": ENTRY, "nothing": ENTRY | {"candidates": ["not-run-*"]}, "new": ENTRY | {"against": "not-run-1"}},
        0.9,
    )
    assert table.empty
    assert list(table) == VERDICT_COLUMNS
    with pytest.raises(KnnlmError, match=r"hypotheses\.new\.against: there is no component knn-att-l3"):
        verdicts({"new": ENTRY | {"against": "knn-att-l3"}}, 0.9)
    with pytest.raises(KnnlmError, match=r"hypotheses\.new\.candidates: new-q\* is no component"):
        verdicts({"new": ENTRY | {"candidates": ["new-a", "new-q*"]}}, 0.9)


def test_a_knn_lm_that_may_gain_nothing_leaves_every_verdict_open():
    documents = TOY | {REFERENCE: (16, 1)}  # worse than the base LM in one of two documents
    row = verdicts({"new": ENTRY}, 0.9, documents).iloc[0]
    assert np.isnan([row["reaches_low"], row["reaches_high"]]).all()
    assert row["reaches"] == pytest.approx((8 - sqrt(32)) / (8 - 4))
    assert row["verdict"] == "inconclusive"
    assert np.isnan(verdicts({"new": ENTRY}, 0.9, TOY | {REFERENCE: (16, 16)})["reaches"][0])


def test_one_document_gives_shares_without_intervals():
    row = verdicts({"new": ENTRY}, 0.9, {name: ppls[:1] for name, ppls in TOY.items()} | {"new-a": (7,)}).iloc[0]
    assert row["reaches"] == pytest.approx(1 / 4)
    assert row[["gain_low", "gain_high", "reaches_low", "reaches_high"]].isna().all()
    assert row["verdict"] == "inconclusive"


def measured(**left) -> Evidence:
    """Evidence on four units, of which only what is left is told; the kNN adds 2 nats a word to the base LM alone."""
    wobble = np.array([0.0, 0.01, -0.01, 0.01, -0.01])  # of all replicates without a unit
    own = np.array([0.0, 0.002, 0.002, -0.002, -0.002])
    left = {"base": 2.0, REFERENCE: 0.0} | left
    left = {name: value * (1 + wobble) + (name != "base") * own for name, value in left.items()}
    perplexities = {name: np.exp(2 + gain) for name, gain in left.items()}
    return Evidence(REFERENCE, perplexities, left, dict.fromkeys(left, 5.0))


def judged(found: Evidence, entry: dict = EXPLANATION, facts=NO_FACTS):
    """The row of the verdict on `new-a`, whose perplexity here falls by what it removes."""
    components = toy(TOY)[0]
    return verdict_table(
        {"new": entry}, components, found, facts, MAIN, RULE, Certainty(confidence(4, 0.95), 1000, 1)
    ).iloc[0]


@pytest.mark.parametrize(
    ("left", "removes", "verdict"),
    [(0.5, 0.75, "explains"), (1.5, 0.25, "contributes"), (1.999, 0.0005, "does nothing"), (2.5, -0.25, "worse")],
)
def test_an_explanation_is_judged_by_what_is_left_beside_it(left, removes, verdict):
    row = judged(measured(**{"new-a": left}))
    assert row["removes"] == pytest.approx(removes)
    assert row["removes_low"] < removes < row["removes_high"]
    assert (row["verdict"], row["ppl_with_knn"], row["against"]) == (verdict, 5.0, "base")


def test_against_another_component_what_is_removed_is_the_difference():
    found = measured(**{"new-a": 0.5, "new-b": 1.5})
    row = judged(found, EXPLANATION | {"against": "new-b", "candidates": ["new-a"]})
    assert row["removes"] == pytest.approx(0.75 - 0.25)
    assert row["reaches"] == pytest.approx((exp(3.5) - exp(2.5)) / (exp(4) - exp(2)))
    assert row["against"] == "new-b"


def test_a_difference_has_nothing_to_remove():
    row = judged(measured(**{"new-a": 0.5}), ENTRY)
    assert row[["removes", "removes_low", "removes_high"]].isna().all()


def test_a_training_that_was_cut_off_and_a_control_that_failed_are_told():
    found = measured(**{"new-a": 1.5, "new-b": 0.5})
    cut = pd.DataFrame([("new", "new-a", "cut_off", "True"), ("new", "new-a", "cut_off_at", "the last pass")])
    cut.columns = FACT_COLUMNS
    row = judged(found, facts=cut)
    assert (row["verdict"], row["why"]) == ("inconclusive", "its training was cut off at the last pass")
    assert judged(found, facts=cut.replace("True", "False"))["verdict"] == "contributes"
    assert judged(found, facts=cut.replace("new-a", "new-b"))["verdict"] == "contributes"  # of another component
    assert judged(measured(**{"new-a": 0.5}), facts=cut)["verdict"] == "explains"  # more training would not undo that
    against = EXPLANATION | {"against": "new-a", "candidates": ["new-b"]}
    assert judged(found, against, cut)["verdict"] == "inconclusive"
    failed = pd.DataFrame([("new", "", "not_tested", "It has not memorised.")], columns=FACT_COLUMNS)
    row = judged(found, facts=failed)
    assert (row["verdict"], row["why"], row["agrees"]) == ("not tested", "It has not memorised.", "")


def test_facts_that_an_entry_asks_for_are_told_shortly():
    facts = pd.DataFrame([("new", "new-a", "pairs", "260400"), ("new", "new-a", "share", "0.64419")])
    facts.columns = FACT_COLUMNS
    row = judged(measured(**{"new-a": 1.5}), EXPLANATION | {"facts": ["pairs", "share", "unknown"]}, facts)
    assert row["note"] == "pairs: 260,400, share: 0.644"


def test_the_paper_s_perplexity_becomes_the_share_that_it_reaches():
    row = judged(measured(**{"new-a": 0.5}), EXPLANATION | {"paper_perplexity": 21.1095})
    assert row["paper_reaches"] == pytest.approx(0.25, abs=1e-3)
    assert row["agrees"] == "no"  # ours reaches more than half, the paper's a quarter
    assert papers_share(EXPLANATION | {"paper_reaches": 0.55}, RULE) == 0.55
    assert papers_share(EXPLANATION, RULE) is None
