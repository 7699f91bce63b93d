from math import exp, log, pi, sqrt, tan
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree
from docutils.nodes import entry, strong
from scipy import stats

from knnlm.analysis.tables import Split
from knnlm.analysis.units import Units
from knnlm.analysis.verdicts import (
    INPUT_COLUMNS,
    SHARE_COLUMNS,
    VERDICT_COLUMNS,
    Certainty,
    input_representation_table,
    judge,
    perplexity_replicates,
    share_table,
    verdict_table,
)
from knnlm.analysis.wording import decimals, main_rst, verdict_rst, verdict_text
from knnlm.errors import KnnlmError

SOTU = Path(__file__).parents[3] / "results/sotu/tables"
MAIN = {"h": "att", "metric": "l2"}
REFERENCE, APPROXIMATE = "knn-att-l2-exact-real", "knn-att-l2-approximate-faiss"
ENTRY = {"question": "Does it help?", "paper": "refuted", "share": None, "against": None, "candidates": None}
RULE = {"share": 0.25}
# Perplexity of each of two documents of one word each; of both together it is the geometric mean.
TOY = {"base": (8, 8), REFERENCE: (4, 1), APPROXIMATE: (4, 2), "new-a": (8, 4), "new-b": (4, 2), "other-a": (8, 8)}
VALID = {
    "base": 8,
    REFERENCE: 2,
    APPROXIMATE: 3,
    "new-a": 5,
    "new-b": 6,
    "other-a": 8,
}  # new-a is chosen though new-b is better on test


def toy(documents):
    """Table, reader and split of components used as they are (λ = 1), from perplexities of one-word documents."""
    rows = []
    for name, ppls in documents.items():
        knn = name.startswith("knn")
        known = {
            "component": name,
            "lambda": 1.0,
            "hypothesis": None if knn or name == "base" else name.partition("-")[0],
        }
        known |= {
            "family": "knn" if knn else "lm" if name == "base" else "new",
            "h": None if name == "base" else "att",
            "metric": "l2" if knn else None,
        }
        known |= {
            "rows": 9,
            "added_parameters": 3,
            "ppl_alone": np.inf,
            "oracle": 1.0,
            "agreement": 0.5,
            "helped": 0.25,
            "temperature_status": "optimum",
        }
        known |= {
            "mask": "real" if name == REFERENCE else None,
            "score": "real" if name == REFERENCE else None,
            "fraction": 1.0 if knn else None,
        }
        mean = exp(np.mean(np.log(ppls)))
        first = exp(np.mean(np.log(documents["base"])))
        rows += [
            known | {"split": split, "ppl": ppl, "gain": first - ppl}
            for split, ppl in (("valid", VALID.get(name, mean)), ("test", mean))
        ]
    count = len(documents["base"])
    split = Split("test", np.zeros(count, np.int32), Units(np.arange(count + 1), count, None), np.ones(count))
    return pd.DataFrame(rows), lambda name, _: -np.log(np.array(documents[name], float)), [split]


def verdicts(entries, level, documents=TOY):
    components, read, splits = toy(documents)
    replicates = perplexity_replicates(components, read, splits)
    return verdict_table(entries, components, replicates, MAIN, RULE, Certainty(level, 20_000, 1))


def test_two_documents_worked_by_hand():
    """Without AB, A or B: base 8, 8, 8, kNN-LM 2, 1, 4, candidate √32, 4, 8. Two units: t of one degree of freedom."""
    row = verdicts({"new": ENTRY}, 0.3).iloc[0]
    assert list(row.index) == VERDICT_COLUMNS
    assert (row["component"], row["question"], row["paper"]) == ("new-a", "Does it help?", "refuted")
    gain, t = 8 - sqrt(32), tan(0.3 * pi / 2)  # the gain is 4 or 0 with one unit left out: a standard error of 2
    assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx([gain, gain - 2 * t, gain + 2 * t])
    # the kNN-LM's gain is 6 with a standard error of 1.5 and rises and falls with the candidate's
    low, high = (gain - 2 * t) / (6 - 1.5 * t), (gain + 2 * t) / (6 + 1.5 * t)
    assert [row["share"], row["share_low"], row["share_high"]] == pytest.approx([gain / 6, low, high])
    assert (row["verdict"], row["agrees"]) == ("supported", "no")


def test_a_wider_interval_leaves_it_open():
    row = verdicts({"new": ENTRY}, 0.5).iloc[0]  # t = 1
    assert [row["share_low"], row["share_high"]] == pytest.approx([(6 - sqrt(32)) / 4.5, (10 - sqrt(32)) / 7.5])
    assert (row["verdict"], row["agrees"]) == ("inconclusive", "")
    row = verdicts({"new": ENTRY}, 0.9).iloc[0]  # the kNN-LM's own gain may be nothing
    assert row[["share_low", "share_high"]].isna().all()
    assert row["verdict"] == "inconclusive"


def test_the_threshold_is_the_rule_s_or_the_entry_s_own():
    assert verdicts(
        {"a": ENTRY | {"candidates": ["new-a"]}, "b": ENTRY | {"candidates": ["new-a"], "share": 0.6}}, 0.3
    )["threshold"].tolist() == [0.25, 0.6]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.26, 0.9, "supported"),
        (0.25, 0.9, "inconclusive"),
        (-1, 0.24, "refuted"),
        (-1, 0.25, "inconclusive"),
        (0.1, 0.3, "inconclusive"),
        (np.nan, np.nan, "inconclusive"),
    ],
)
def test_the_rule(low, high, verdict):
    assert judge(low, high, 0.25) == verdict


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
    assert [table["gain"][0], table["share"][0]] == pytest.approx([gain, gain / 6])
    ends = (gain - 0.5 * t) / (6 + 1.5 * t), (gain + 0.5 * t) / (6 - 1.5 * t)
    assert [table["share_low"][0], table["share_high"][0]] == pytest.approx(ends, rel=0.02)  # both at once: the same t
    assert table["verdict"][0] == "refuted"


def test_the_intervals_of_several_questions_are_wider_than_that_of_one():
    generator = np.random.default_rng(7)
    shared = generator.normal(0, 0.3, 60)
    documents = {"base": 8 * np.exp(shared), REFERENCE: 4 * np.exp(shared + generator.normal(0, 0.1, 60))}
    documents |= {f"{name}-a": 6 * np.exp(shared + generator.normal(0, 0.1, 60)) for name in "pqrstu"}
    one = verdicts({"p": ENTRY}, 0.95, documents).iloc[0]
    all_of_them = verdicts(dict.fromkeys("pqrstu", ENTRY), 0.95, documents).set_index("hypothesis").loc["p"]
    components, read, splits = toy(documents)
    shares = share_table(components, perplexity_replicates(components, read, splits), MAIN, 0.95)
    alone = shares.set_index("component").loc["p-a"]
    assert one[["share_low", "share_high"]].tolist() == alone[["share_low", "share_high"]].tolist()
    wider = (all_of_them["share_high"] - all_of_them["share_low"]) / (one["share_high"] - one["share_low"])
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


def test_an_entry_may_have_a_threshold_of_its_own():
    documents = TOY | {"new-a": (7.6, 7.2)}  # a share of about a tenth
    assert verdicts({"new": ENTRY}, 0.3, documents)["verdict"][0] == "refuted"
    assert verdicts({"new": ENTRY | {"share": 0}}, 0.3, documents)["verdict"][0] == "supported"


def test_a_knn_lm_that_may_gain_nothing_leaves_every_verdict_open():
    documents = TOY | {REFERENCE: (16, 1)}  # worse than the base LM in one of two documents
    row = verdicts({"new": ENTRY}, 0.9, documents).iloc[0]
    assert np.isnan([row["share_low"], row["share_high"]]).all()
    assert row["share"] == pytest.approx((8 - sqrt(32)) / (8 - 4))
    assert row["verdict"] == "inconclusive"
    assert np.isnan(verdicts({"new": ENTRY}, 0.9, TOY | {REFERENCE: (16, 16)})["share"][0])


def test_shares_are_those_of_a_jackknife_in_plain_python():
    generator = np.random.default_rng(3)
    base = generator.uniform(50, 200, 7)
    documents = {
        "base": base,
        REFERENCE: base * generator.uniform(0.6, 1.02, 7),
        "new-a": base * generator.uniform(0.8, 1.1, 7),
    }
    components, read, splits = toy({name: tuple(ppls) for name, ppls in documents.items()})
    table = share_table(components, perplexity_replicates(components, read, splits), MAIN, 0.8).set_index("component")
    assert list(table.reset_index()) == SHARE_COLUMNS
    gains = []  # of the candidate and of the kNN-LM, without each document in turn, and last on all
    for without in range(8):
        left = [place for place in range(7) if place != without]
        ppl = {name: exp(fmean(log(ppls[place]) for place in left)) for name, ppls in documents.items()}
        gains.append((ppl["base"] - ppl["new-a"], ppl["base"] - ppl[REFERENCE]))

    def t_value(ratio):
        *rests, whole = [above - ratio * below for above, below in gains]
        return whole / sqrt(6 / 7 * sum((rest - fmean(rests)) ** 2 for rest in rests))

    row, t = table.loc["new-a"], stats.t.ppf(0.9, 6)
    assert row["share"] == pytest.approx(gains[-1][0] / gains[-1][1])
    assert [t_value(row["share_low"]), t_value(row["share_high"])] == pytest.approx([t, -t], rel=1e-6)
    shares = ["share", "share_low", "share_high"]
    assert table.loc[REFERENCE, shares].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert table.loc["base", shares].tolist() == pytest.approx([0, 0, 0])


def test_one_document_gives_shares_without_intervals():
    row = verdicts({"new": ENTRY}, 0.9, {name: ppls[:1] for name, ppls in TOY.items()} | {"new-a": (7,)}).iloc[0]
    assert row["share"] == pytest.approx(1 / 4)
    assert row[["gain_low", "gain_high", "share_low", "share_high"]].isna().all()
    assert row["verdict"] == "inconclusive"


def test_input_representation_holds_the_exact_knn_and_the_learned_embeddings():
    components, read, splits = toy(TOY)
    entries = {"input-representation": {"candidates": ["new-a"], "against": "new-b"}}
    shares = share_table(components, perplexity_replicates(components, read, splits), MAIN, 0.9)
    table = input_representation_table(components, shares, entries, MAIN)
    assert list(table) == INPUT_COLUMNS
    assert dict(zip(table["component"], table["similarity"], strict=True)) == {
        REFERENCE: "l2",
        "new-a": "ip",
        "new-b": "ip",
    }


def judged():
    """A table with an awkward question and unknown ends."""
    table = verdicts(
        {
            "new": ENTRY
            | {"question": "Is *p_x* `all` | there is, or does a \\ stand in a long question that must be wrapped?"},
            "other": ENTRY,
        },
        0.3,
    )
    table.loc[1, ["share_low", "share_high"]] = np.nan
    return table


def test_the_text_is_aligned_and_fits_a_terminal():
    lines = verdict_text(judged(), RULE, 0.9, 20.0).splitlines()
    assert max(map(len, lines)) <= 120
    header = next(line for line in lines if line.startswith("question"))
    column = header.index("verdict")
    assert [line[column:].split() for line in lines if "refuted " in line and "[" in line] == [
        ["supported", "no"],
        ["refuted", "yes"],
    ]
    assert {"90%", "25%"} <= set(" ".join(lines).replace(",", " ").split())
    assert "No hypothesis" in verdict_text(judged().iloc[:0], RULE, 0.9, 20.0)


def test_the_rst_is_a_valid_table_of_every_verdict():
    table = judged()
    strict = {"halt_level": 2, "report_level": 2}
    cells = [
        node.astext()
        for node in publish_doctree(verdict_rst(table, RULE, 0.9, 20.0), settings_overrides=strict).findall(entry)
    ]
    assert len(cells) == 4 * 3
    assert [cell.split() for cell in cells[4::4]] == [
        [*question.split(), name] for question, name in zip(table["question"], table["component"], strict=True)
    ]
    said = [
        f" (the paper: {paper})" if agrees == "no" else ""
        for paper, agrees in zip(table["paper"], table["agrees"], strict=True)
    ]
    assert cells[7::4] == [verdict + other for verdict, other in zip(table["verdict"], said, strict=True)]
    emptied = publish_doctree(verdict_rst(table.iloc[:0], RULE, 0.9, 20.0), settings_overrides=strict)
    assert not list(emptied.findall(entry)) + list(emptied.findall(strong))


@pytest.mark.parametrize(
    ("perplexity", "gain", "shown"),
    [
        (267.26, 0.5, "0.50 [0.25, 1.00]"),
        (20.0, 0.5, "0.50 [0.25, 1.00]"),
        (2.1, 0.004, "0.004 [0.002, 0.008]"),
        (1.0, 0.0004, "0.0004 [0.0002, 0.0008]"),
    ],
)
def test_the_digits_of_a_gain_follow_the_size_of_the_perplexity(perplexity, gain, shown):
    table = judged().assign(gain=gain, gain_low=gain / 2, gain_high=2 * gain)
    assert shown in verdict_text(table, RULE, 0.9, perplexity)
    assert shown in verdict_rst(table, RULE, 0.9, perplexity)


def test_the_first_table_of_the_report_is_the_main_result():
    components = pd.read_csv(SOTU / "components.csv").assign(documents=39, units=60)
    cells = [node.astext() for node in publish_doctree(main_rst(components, MAIN, 0.95)).findall(entry)]
    assert cells[5:10] == ["base LM", "149.60", "", "", ""]
    assert cells[-5:] == ["base LM + kNN, exact search", "127.58", "22.02 [14.39, 37.15]", "0.320", "6.73"]
    assert len(cells) == 5 * 5


def test_what_is_not_known_is_said_in_words():
    table = judged().assign(gain=1.0, gain_low=np.nan, gain_high=np.nan)
    for text in (verdict_text(table, RULE, 0.9, 20.0), verdict_rst(table, RULE, 0.9, 20.0)):
        assert "1.00 [unknown, unknown]" in text
        assert "nan" not in text
    assert decimals(np.inf) == decimals(np.nan) == 2
