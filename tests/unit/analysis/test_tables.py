import itertools

import numpy as np
import pandas as pd
import pytest
from runs import CONTINUATION, FRACTIONS, OFFSETS, REFERENCE, VARIANTS
from scipy import stats
from scipy.optimize import minimize_scalar

from knnlm.analysis.tables import (
    COMPONENT_COLUMNS,
    HYPOTHESIS,
    Split,
    component_table,
    datastore_size_table,
    index_table,
    lambda_table,
    main_variants,
)
from knnlm.analysis.wording import summary
from knnlm.errors import KnnlmError


def test_one_row_per_component_and_split_base_first(run):
    parts, _, _, _, _, table = run
    assert list(table) == COMPONENT_COLUMNS
    assert list(zip(table["component"], table["split"], strict=True)) == [
        (part["component"], split) for part in parts for split in OFFSETS
    ]


def test_rows_are_what_plain_arithmetic_gives(run):
    _, log_p, tokens, _, _, table = run
    for row in table.to_dict("records"):
        base, own = (np.exp(np.float64(log_p[name, row["split"]])) for name in ("base", row["component"]))
        words = sum(not CONTINUATION[token] for token in tokens[row["split"]])
        assert (row["tokens"], row["words"]) == (len(base), words)
        with np.errstate(divide="ignore"):
            assert row["ppl"] == pytest.approx(
                np.prod(((1 - row["lambda"]) * base + row["lambda"] * own) ** (-1 / words)), rel=1e-9
            )
            assert row["ppl_alone"] == pytest.approx(np.exp(-np.log(own).sum() / words), rel=1e-9)
        assert row["oracle"] == pytest.approx(np.exp(-np.log(np.maximum(base, own)).sum() / words), rel=1e-9)


def test_the_weight_is_tuned_on_valid_and_used_on_test(run):
    _, log_p, _, _, _, table = run
    for component, rows in table.groupby("component"):
        assert rows["lambda"].nunique() == 1
        base, own = (np.exp(np.float64(log_p[name, "valid"])) for name in ("base", component))
        best = minimize_scalar(
            lambda weight: -np.log((1 - weight) * base + weight * own).sum(),  # noqa: B023
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert component == "base" or rows["lambda"].iloc[0] == pytest.approx(best.x, abs=1e-4)


def test_gains_and_intervals(run):
    table = run[-1]
    for _, rows in table.groupby("split"):
        base = rows.iloc[0]
        assert (base["ppl_alone"], base["lambda"], base["gain"], base["gain_low"], base["gain_high"]) == (
            base["ppl"],
            0,
            0,
            0,
            0,
        )
        np.testing.assert_allclose(rows["gain"], base["ppl"] - rows["ppl"])
        assert (rows["ppl_low"] < rows["ppl"]).all()
        assert (rows["ppl"] < rows["ppl_high"]).all()
        others = rows.iloc[1:]
        assert (others["gain_low"] < others["gain"]).all()
        assert (others["gain"] < others["gain_high"]).all()


def test_intervals_are_those_of_a_plain_paired_jackknife(run):
    _, log_p, tokens, _, _, table = run
    name, offsets = "knn-ffn-ip-exact-real", OFFSETS["test"]
    row = table[(table["component"] == name) & (table["split"] == "test")].iloc[0]
    base, own = (np.exp(np.float64(log_p[part, "test"])) for part in ("base", name))
    mixture, is_word = np.log((1 - row["lambda"]) * base + row["lambda"] * own), ~CONTINUATION[tokens["test"]]
    gains, nats = [], []
    for begin, end in itertools.pairwise(offsets):
        left = np.delete(np.arange(base.size), slice(begin, end))
        words = is_word[left].sum()
        nats.append(-mixture[left].sum() / words)
        gains.append(np.exp(-np.log(base[left]).sum() / words) - np.exp(nats[-1]))
    units = len(gains)
    assert (row["documents"], row["units"]) == (units, units)
    sizes = [is_word[begin:end].sum() for begin, end in itertools.pairwise(offsets)]
    t = stats.t.ppf(0.95, sum(sizes) ** 2 / sum(size**2 for size in sizes) - 1)  # of nearly as many units of one size
    expected = row["gain"] + t * np.sqrt((units - 1) * np.var(gains)) * np.array([-1, 1])
    np.testing.assert_allclose(row[["gain_low", "gain_high"]].astype(float), expected)
    expected = row["ppl"] * np.exp(t * np.sqrt((units - 1) * np.var(nats)) * np.array([-1, 1]))
    np.testing.assert_allclose(row[["ppl_low", "ppl_high"]].astype(float), expected)


def one_document(tokens, block):
    ends = {split: np.array([0, tokens[split].size]) for split in OFFSETS}
    return [Split.of(split, tokens[split], ends[split], CONTINUATION, block) for split in OFFSETS]


def test_a_split_of_one_unit_has_no_intervals(run):
    parts, _, tokens, _, read, _ = run
    table = component_table(parts[:3], read, one_document(tokens, 1000), parts[1]["component"], 0.9)
    assert table[["ppl_low", "ppl_high", "gain_low", "gain_high"]].isna().all(axis=None)
    assert table[["ppl", "gain"]].notna().all(axis=None)
    assert table[["documents", "units"]].eq(1).all(axis=None)


def test_one_document_of_several_blocks_has_intervals(run):
    parts, _, tokens, _, read, _ = run
    table = component_table(parts[:3], read, one_document(tokens, 50), parts[1]["component"], 0.9)
    assert table[["ppl_low", "ppl_high", "gain_low", "gain_high"]].notna().all(axis=None)
    assert table["documents"].eq(1).all()
    assert table.groupby("split")["units"].first().to_dict() == {
        split: int((~CONTINUATION[tokens[split]]).sum() / 50 + 0.5) for split in OFFSETS
    }


def test_a_missing_or_doubled_component_is_refused(run):
    parts, _, _, splits, read, _ = run
    for wrong in (parts[1:], [*parts, parts[-1]]):
        with pytest.raises(KnnlmError, match="base"):
            component_table(wrong, read, splits, REFERENCE, 0.9)
    with pytest.raises(KnnlmError, match="the reference knn-att-l2-exact-real is not among them"):
        component_table([part for part in parts if part["component"] != REFERENCE], read, splits, REFERENCE, 0.9)


def test_helped_and_agreement_are_counted_token_by_token(run):
    _, log_p, _, _, _, table = run
    for row in table.to_dict("records"):
        base, own, reference = (log_p[name, row["split"]].tolist() for name in ("base", row["component"], REFERENCE))
        helped = [a > b for a, b in zip(own, base, strict=True)]
        same = [h == (a > b) for h, a, b in zip(helped, reference, base, strict=True)]
        assert row["helped"] == sum(helped) / len(helped)
        assert row["agreement"] == sum(same) / len(same)
    assert set(table.loc[table["component"] == REFERENCE, "agreement"]) == {1.0}


def test_what_is_known_of_a_hypothesis_component_stands_in_the_table_and_not_in_the_main_result(run):
    table = run[-1]
    assert list(table)[-8:] == [*HYPOTHESIS, "helped", "agreement"]
    row = table[table["component"] == "padding-0.1"].iloc[0]
    assert (row["rows"], row["hypothesis"], row["series"], row["x"]) == (1100, "padding", "exact", 10.0)
    shown = summary(table, 0.9).splitlines()
    main = table[
        (table["split"] == "test") & table["hypothesis"].isna() & (table["fraction"].isna() | (table["fraction"] == 1))
    ]
    assert len(shown) == 5 + len(main)


def test_datastore_size_table_holds_the_tuned_main_variants_at_every_fraction(run):
    table = datastore_size_table(run[-1], "att", "l2", FRACTIONS)
    assert list(table) == COMPONENT_COLUMNS
    assert len(table) == len(VARIANTS) * len(FRACTIONS) * len(OFFSETS)
    assert set(table["temperature_status"]) == {"optimum"}
    assert set(table["h"]) == {"att"}
    some = run[-1][~((run[-1]["fraction"] == 0.5) & (run[-1]["mask"] == "real"))]
    assert set(datastore_size_table(some, "att", "l2", FRACTIONS)["mask"]) == {"faiss"}
    with pytest.raises(KnnlmError, match="at every fraction"):
        datastore_size_table(run[-1], "att", "l2", [0.1, *FRACTIONS])
    with pytest.raises(KnnlmError, match="none is made from ffn"):
        datastore_size_table(run[-1], "ffn", "l2", FRACTIONS)


def test_lambda_curves_run_from_the_base_lm_to_the_component_alone(run):
    _, _, _, splits, read, components = run
    names = main_variants(components, "att", "l2")
    assert names == [f"knn-att-l2-{search}-{score}" for search, _, score in VARIANTS]
    table = lambda_table(names, read, splits)
    known = components.set_index(["component", "split"])
    for (name, split), curve in table.groupby(["component", "split"]):
        np.testing.assert_array_equal(curve["lambda"], np.arange(101) / 100)
        assert curve["ppl"].iloc[0] == pytest.approx(known.loc[("base", split), "ppl"])
        assert curve["ppl"].iloc[-1] == known.loc[(name, split), "ppl_alone"] == np.inf
        if split == "valid":
            assert curve["ppl"].min() >= known.loc[(name, split), "ppl"] * (1 - 1e-12)
            assert curve["lambda"].iloc[curve["ppl"].argmin()] == pytest.approx(
                known.loc[(name, split), "lambda"], abs=0.01
            )


def test_kinds_of_index_have_what_was_measured_and_their_perplexity():
    names = ["base", "sweep-nprobe-1", "sweep-codes-8", "sweep-index-IVF8-PQ4"]
    components = pd.DataFrame({"component": names, "hypothesis": [None, *["sweep"] * 3]})
    components = components.assign(split="test", ppl=[100.0, 90, 85, 80], gain=0.0, gain_low=0.0, gain_high=9.0)
    facts = pd.DataFrame(
        [
            ("sweep-nprobe-1", "recall", "0.4"),
            ("sweep-codes-8", "recall", "0.5"),
            ("sweep-codes-8", "codes", "8"),
            ("sweep-codes-8", "bytes_a_row", "16"),
            ("sweep-index-IVF8-PQ4", "recall", "0.75"),
            ("sweep-index-IVF8-PQ4", "bytes_a_row", "12"),
            ("sweep-index-IVF8-PQ4", "queries_a_second", "1234.5"),
        ],
        columns=["component", "quantity", "value"],
    ).assign(hypothesis="sweep")
    table = index_table(components, facts)
    assert table["index"].tolist() == ["PQ8", "IVF8,PQ4"]
    assert table["ppl"].tolist() == [85, 80]
    assert table["bytes_a_row"].tolist() == [16, 12]
    np.testing.assert_array_equal(table["queries_a_second"], [np.nan, 1234.5])
    assert index_table(components, facts[:3]).empty
    assert index_table(components, facts[:0]).empty
