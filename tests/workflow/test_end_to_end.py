"""The whole pipeline on `tiny`: what comes out, that it comes out the same twice, and that an outsider can read it."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VARIANTS = [("faiss", "faiss"), ("faiss", "real"), ("real", "real")]


@pytest.fixture(scope="module")
def components(finished):
    return pd.read_csv(finished.folder / "results/tiny/tables/components.csv")


def test_every_component_of_the_paper_has_a_row_on_both_splits(components):
    knn = components[components["family"] == "knn"]
    whole = knn[(knn["fraction"] == 1) & (knn["temperature_status"] != "fixed")]
    found = set(zip(whole["h"], whole["metric"], whole["mask"], whole["score"], whole["split"], strict=True))
    wanted = itertools.product(["att", "ffn"], ["l2", "ip"], VARIANTS, ["valid", "test"])
    assert found == {(h, metric, mask, score, split) for h, metric, (mask, score), split in wanted}
    assert not knn.drop(columns=["hypothesis", "series", "x"]).isna().any(axis=None)


def test_the_weight_found_on_valid_never_makes_valid_worse(components):
    assert (components.loc[components["split"] == "valid", "gain"] >= 0).all()


def test_the_oracle_is_the_best_of_all_and_the_interval_holds_the_estimate(components):
    assert (components["oracle"] <= components["ppl"]).all()
    assert components["ppl"].between(components["ppl_low"], components["ppl_high"]).all()


def test_a_tuned_temperature_is_at_least_as_good_as_the_untuned_and_the_grid(components, finished):
    valid = components[components["split"] == "valid"].set_index("component")["ppl"]
    for name in valid.index[valid.index.str.startswith("knn-") & valid.index.str.endswith("-untuned")]:
        assert valid[name.removesuffix("-untuned")] <= valid[name] * (1 + 1e-9)
    curves = pd.read_csv(finished.folder / "results/tiny/tables/temperature.csv")
    for name, curve in curves[curves["split"] == "valid"].groupby("component"):
        assert valid[name] <= curve["ppl"].min() * (1 + 1e-9)


def test_the_base_model_s_perplexity_is_the_tokens_own(components, finished):
    folder = finished.folder / "results/tiny"
    log_p = np.load(folder / "components/base.test.npy")[0].astype(np.float64)
    pieces = (folder / "corpus/pieces/test.txt").read_text().replace("\n", " </s> ").split()
    assert len(pieces) == len(log_p)
    words = sum(not piece.endswith("@@") for piece in pieces)
    row = components[(components["component"] == "base") & (components["split"] == "test")].iloc[0]
    assert row["ppl"] == pytest.approx(np.exp(-log_p.sum() / words))


def test_the_store_has_a_row_for_every_training_token_and_remembers_where_it_was(finished):
    folder = finished.folder / "results/tiny"
    tokens = np.load(folder / "corpus/tokens/train.npy")
    chunks = sorted((folder / "datastore").iterdir())
    assert len(chunks) == 2
    positions = np.concatenate([np.load(chunk / "positions.npy") for chunk in chunks])
    values = np.concatenate([np.load(chunk / "values.npy") for chunk in chunks])
    np.testing.assert_array_equal(np.sort(positions), np.arange(len(tokens)))
    np.testing.assert_array_equal(values, tokens[positions])
    assert not (np.diff(positions) == 1).all()


def test_stored_neighbours_are_the_nearest_keys(finished):
    folder = finished.folder / "results/tiny"
    keys = np.concatenate([np.load(chunk / "att.npy") for chunk in sorted((folder / "datastore").iterdir())]).astype(
        np.float64
    )
    queries = np.load(folder / "states/test.att.npy")[:50].astype(np.float64)
    distances = ((queries[:, None] - keys[None]) ** 2).sum(-1)
    stored = np.load(folder / "neighbours/att-l2-exact/test.similarities.npy")[-1, :50]
    np.testing.assert_allclose(stored, -np.sort(distances, axis=1)[:, : stored.shape[1]], rtol=1e-3, atol=1e-3)
    ids = np.load(folder / "neighbours/att-l2-exact/test.ids.npy")[-1, :50]
    np.testing.assert_allclose(-np.take_along_axis(distances, ids.astype(int), 1), stored, rtol=1e-3, atol=1e-3)


def test_every_figure_is_there_as_pdf_and_png(finished):
    for figure in ("components", "datastore_size", "temperature", "lambda", "loss"):
        assert (finished.folder / f"results/tiny/figures/{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert (finished.folder / f"results/tiny/figures/{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_holds_every_caption(finished):
    finished("--report", "results/tiny/report.html")
    report = (finished.folder / "results/tiny/report.html").read_text()
    for words in (
        "Why do nearest neighbour language models work?",
        "components.csv",
        "summary.txt",
        "temperature.png",
        "datastore_size.png",
    ):
        assert words in report


def test_the_same_seed_gives_the_same_tables(finished, new_project):
    again = new_project("again")
    again("hypotheses", "--until", "tables", "helped_tokens")  # pictures are drawn from them
    first, second = finished.tables(), again.tables()
    assert first.keys() == second.keys()
    speeds = {"loss.csv": "tokens_per_second", "indexes.csv": "queries_a_second"}
    for name, speed in speeds.items():
        files = [project.folder / "results/tiny/tables" / name for project in (finished, again)]
        pd.testing.assert_frame_equal(*(pd.read_csv(file).drop(columns=speed) for file in files))
    different = [name for name in first if first[name] != second[name] and name not in speeds]
    assert not different


def test_the_twenty_lines_of_the_documentation_recompute_a_perplexity(finished):
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import numpy.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 24
    done = subprocess.run(
        [sys.executable, "-c", code.replace("results/demo", "results/tiny")],
        cwd=finished.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    recomputed, from_table = map(float, done.stdout.split())
    assert recomputed == pytest.approx(from_table, rel=1e-4)


def test_the_main_result_alone_is_that_of_the_whole_run(components, finished):
    finished("main_result")
    folder = finished.folder / "results/tiny/main_result"
    alone = pd.read_csv(folder / "components.csv").set_index(["component", "split"])
    whole = components.set_index(["component", "split"]).loc[alone.index]
    assert {name for name, _ in alone.index} > {"base", "knn-att-l2-exact-real"}
    for column in ("ppl", "gain", "gain_low", "gain_high", "lambda", "temperature"):
        assert np.array_equal(alone[column], whole[column], equal_nan=True), column
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".txt", ".png", ".pdf"}
