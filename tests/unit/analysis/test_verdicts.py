from math import ceil, exp, log, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree
from docutils.nodes import entry, strong

from knnlm.analysis.significance import resample_counts
from knnlm.analysis.tables import Split
from knnlm.analysis.verdicts import (
    INPUT_COLUMNS,
    SHARE_COLUMNS,
    VERDICT_COLUMNS,
    input_representation_table,
    judge,
    resampled,
    share_interval,
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
    split = Split("test", np.zeros(count, np.int32), np.arange(count + 1), np.ones(count))
    return pd.DataFrame(rows), lambda name, _: -np.log(np.array(documents[name], float)), [split]


def verdicts(entries, level, documents=TOY):
    components, read, splits = toy(documents)
    return verdict_table(entries, components, resampled(components, read, splits, 2000, 1), MAIN, RULE, level)


def test_two_documents_worked_by_hand():
    """Resamples AA, AB and BB come with 1/4, 1/2, 1/4; base 8 throughout, kNN-LM 4, 2, 1, candidate 8, √32, 4."""
    row = verdicts({"new": ENTRY}, 0.9).iloc[0]
    assert list(row.index) == VERDICT_COLUMNS
    assert (row["component"], row["question"], row["paper"]) == ("new-a", "Does it help?", "refuted")
    assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx([8 - sqrt(32), 0, 4])
    assert [row["share"], row["share_low"], row["share_high"]] == pytest.approx([(8 - sqrt(32)) / 6, 0, 4 / 7])
    assert (row["verdict"], row["agrees"]) == ("inconclusive", "")


def test_a_narrower_interval_decides():
    row = verdicts({"new": ENTRY}, 0.3).iloc[0]  # only AB is left between the ends
    assert row["share_low"] == row["share_high"] == pytest.approx((8 - sqrt(32)) / 6)
    assert (row["verdict"], row["agrees"]) == ("supported", "no")


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
        0.9,
    )
    assert table["component"].tolist() == [APPROXIMATE, "new-b"]
    ratio = [(4 - 4) / 4, (2 - sqrt(8)) / 6, (1 - 2) / 7]  # AA, AB, BB
    assert [table["gain"][0], table["share"][0]] == pytest.approx([2 - sqrt(8), ratio[1]])
    assert [table["share_low"][0], table["share_high"][0]] == pytest.approx([min(ratio), max(ratio)])
    assert table["verdict"][0] == "refuted"


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
    assert verdicts({"new": ENTRY}, 0.9, documents)["verdict"][0] == "refuted"
    assert verdicts({"new": ENTRY | {"share": 0}}, 0.9, documents)["verdict"][0] == "supported"


def test_a_knn_lm_that_may_gain_nothing_leaves_every_verdict_open():
    documents = TOY | {REFERENCE: (16, 1)}  # worse than the base LM in AA, a quarter of the resamples
    row = verdicts({"new": ENTRY}, 0.9, documents).iloc[0]
    assert np.isnan([row["share_low"], row["share_high"]]).all()
    assert row["share"] == pytest.approx((8 - sqrt(32)) / (8 - 4))
    assert row["verdict"] == "inconclusive"
    assert np.isnan(verdicts({"new": ENTRY}, 0.9, TOY | {REFERENCE: (16, 16)})["share"][0])


def test_few_undefined_ratios_count_against_both_ends():
    gains, reference = np.arange(1.0, 101), np.full(100, 100.0)
    assert share_interval(gains, reference, 0.9) == (0.05, 0.95)
    reference[[10, 50, 90]] = 0, -1, 0
    assert share_interval(gains, reference, 0.9) == (
        0.02,
        0.98,
    )  # the second defined ratio from below, the 95th from below
    reference[:5] = 0
    assert np.isnan(share_interval(gains, reference, 0.9)).all()


def test_shares_are_those_of_a_bootstrap_in_plain_python():
    generator = np.random.default_rng(3)
    base = generator.uniform(50, 200, 7)
    documents = {
        "base": base,
        REFERENCE: base * generator.uniform(0.6, 1.02, 7),
        "new-a": base * generator.uniform(0.8, 1.1, 7),
    }
    components, read, splits = toy({name: tuple(ppls) for name, ppls in documents.items()})
    table = share_table(components, resampled(components, read, splits, 500, 1), MAIN, 0.8)
    assert list(table) == SHARE_COLUMNS
    shares = []
    for counts in resample_counts(7, 500, 1).tolist():
        ppl = {
            name: exp(sum(n * log(p) for n, p in zip(counts, ppls, strict=True)) / sum(counts))
            for name, ppls in documents.items()
        }
        shares.append((ppl["base"] - ppl["new-a"]) / (ppl["base"] - ppl[REFERENCE]))
    shares.sort()
    row = table.set_index("component").loc["new-a"]
    assert [row["share_low"], row["share_high"]] == pytest.approx(
        [shares[ceil(0.1 * 500) - 1], shares[ceil(0.9 * 500) - 1]], rel=1e-9
    )
    assert table.set_index("component").loc[REFERENCE, ["share", "share_low", "share_high"]].tolist() == pytest.approx(
        [1, 1, 1]
    )
    assert table.set_index("component").loc["base", ["share", "share_low", "share_high"]].tolist() == [0, 0, 0]


def test_one_document_gives_shares_without_intervals():
    row = verdicts({"new": ENTRY}, 0.9, {name: ppls[:1] for name, ppls in TOY.items()} | {"new-a": (7,)}).iloc[0]
    assert row["share"] == pytest.approx(1 / 4)
    assert row[["gain_low", "gain_high", "share_low", "share_high"]].isna().all()
    assert row["verdict"] == "inconclusive"


def test_input_representation_holds_the_exact_knn_and_the_learned_embeddings():
    components, read, splits = toy(TOY)
    entries = {"input-representation": {"candidates": None}}
    components["hypothesis"] = components["hypothesis"].replace("new", "input-representation")
    shares = share_table(components, resampled(components, read, splits, 50, 1), MAIN, 0.9)
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
    components = pd.read_csv(SOTU / "components.csv")
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
