"""Training heads on stored states: toy data with a known optimum, and the steps, which must never need fairseq."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from stores import known

from knnlm.components import head_training, heads
from knnlm.components.catalogue import BASE
from knnlm.components.columns import checkpoint_of, load_components, save_components
from knnlm.components.head_training import (
    Rows,
    faster_in_bfloat16,
    learning_rates,
    log_p_of,
    store_log_p,
    store_rows,
    train_head,
    wide_dtype,
)
from knnlm.components.heads import (
    MixtureOfSoftmaxes,
    OutputEmbedding,
    copied_weights,
    even_rows,
    interpolated_likelihood,
    likelihood,
    random_weights,
)
from knnlm.datastore.store import open_datastore
from knnlm.language_model.transformer import save_model
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import verified, write_manifest

ROOT = Path(__file__).parents[3]
RECIPE = {"passes": 30, "patience": 30, "rows": None, "batch": 64, "learning_rate": 0.05}
RECIPE |= {"betas": [0.9, 0.999], "warmup": 0.5}
STEPS = ("output_embeddings", "additional_linear", "mixture_of_softmaxes", "interpolated_loss", "loss_weighting")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that every test divides its batches."""
    monkeypatch.setattr(heads, "TILE_BYTES", 1)
    monkeypatch.setattr(heads, "LEAST_TILE_ROWS", 5)


def test_learning_rate_rises_and_falls():
    rates = learning_rates({"warmup": 0.1, "learning_rate": 2.0}, 100)
    assert rates[:10] == pytest.approx(np.linspace(0.2, 2, 10))
    assert (np.diff(rates[9:]) <= 0).all()
    assert 0 < rates[-1] < 0.01
    of_passes = [
        learning_rates({"warmup": 0.1, "learning_rate": 2.0}, 100, number == 0, number == 2) for number in (0, 1, 2)
    ]
    assert of_passes[0] == pytest.approx([*rates[:10], *[2.0] * 90])
    assert of_passes[1].tolist() == [2.0] * 100
    assert of_passes[2] == pytest.approx(1 + np.cos(np.pi * np.arange(100) / 100))


def train(head, rows, valid=None, objective=likelihood, **recipe):
    """Train, and judge passes by the objective on valid."""
    valid = valid or rows[0]

    def loss_of(log_p):
        return float(objective(torch.from_numpy(log_p).double(), valid.batch(slice(None), "cpu"))[0].mean())

    return train_head(head, rows, valid, objective, loss_of, RECIPE | recipe, seed=3, device="cpu", label="test")


@pytest.mark.parametrize("n", [1, 3])
def test_constant_states_give_the_empirical_frequencies(n):
    gold = np.repeat(np.arange(4), [10, 20, 30, 40])[np.random.default_rng(1).permutation(100)]
    rows = Rows(np.ones((100, 2), np.float16), gold)
    head = OutputEmbedding(random_weights(4 * n, 2, torch.Generator().manual_seed(1)), even_rows(4, n), 4)
    trained = train(head, [rows], passes=100, batch=100)
    log_p = [log_p_of(head, Rows(np.ones((1, 2)), np.array([token])), "cpu").item() for token in range(4)]
    assert np.exp(log_p) == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.005)
    assert trained.train_loss == pytest.approx(-sum(p * np.log(p) for p in (0.1, 0.2, 0.3, 0.4)), abs=0.01)


FLAGS = "processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu avx2 avx512f {more}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("vendor", "more", "faster"),
    [
        ("AuthenticAMD", "avx512_bf16", True),
        ("AuthenticAMD", "", False),
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
    ],
)
def test_the_kind_of_processor_tells_the_precision_of_products(vendor, more, faster, tmp_path, monkeypatch):
    facts = FLAGS.format(vendor=vendor, more=more)
    assert faster_in_bfloat16(facts) is faster
    monkeypatch.setattr(head_training, "CPU_FACTS", tmp_path / "cpuinfo")
    assert wide_dtype(torch.float32, "cpu") == torch.float32
    (tmp_path / "cpuinfo").write_text(facts)
    assert wide_dtype(torch.float32, "cpu") == (torch.bfloat16 if faster else torch.float32)
    assert wide_dtype(torch.float32, "cuda") == torch.float32
    assert wide_dtype(torch.float64, "cpu") == torch.float64


def test_heads_trained_with_bfloat16_products_reach_the_same_loss(tmp_path, monkeypatch):
    generator, found = np.random.default_rng(0), []
    states, truth = generator.normal(size=(4000, 8)), generator.normal(size=(8, 30))
    gold = (states @ truth + generator.gumbel(size=(4000, 30))).argmax(axis=1)
    rows, valid = (Rows(states[some].astype(np.float16), gold[some]) for some in (slice(3000), slice(3000, 4000)))
    for more in ("", "avx512_bf16"):
        (tmp_path / "cpuinfo").write_text(FLAGS.format(vendor="AuthenticAMD", more=more))
        monkeypatch.setattr(head_training, "CPU_FACTS", tmp_path / "cpuinfo")
        head = OutputEmbedding(random_weights(30, 8, torch.Generator().manual_seed(1)), even_rows(30, 1), 30)
        found.append(train(head, [rows], valid, passes=5).valid_loss)
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_the_interpolated_loss_leaves_out_what_the_base_knows():
    """p_base is 1 on type 0; gold is 0 three times out of four. The mixture's optimum at λ = ½ is p = (½, ½)."""
    gold = np.array([0, 0, 0, 1] * 25)
    rows = Rows(np.ones((100, 1), np.float16), gold, log_p_base=np.where(gold == 0, 0, -np.inf).astype(np.float32))
    head = OutputEmbedding(random_weights(2, 1, torch.Generator().manual_seed(1)), even_rows(2, 1), 2)
    train(head, [rows], objective=partial(interpolated_likelihood, 0.5), passes=150, batch=100)
    assert np.exp(log_p_of(head, rows, "cpu")[:4]) == pytest.approx([0.5] * 4, abs=0.01)


@pytest.mark.parametrize(
    ("losses", "limit", "passes", "best", "cut_off_at"),
    [
        ([5, 4, 3, 2, 1.5, 1.2, 1], 6, 6, 6, "the last pass"),
        ([5, 4, 4.5, 3.5, 3.4, 3.45], 6, 5, 4, None),  # the second is no better: from then on the rate is halved
        ([5, 4, 4.5, 4.6], 6, 3, 1, None),
        ([5, 6, 6, 6], 6, 3, 0, None),
        ([5, 5.1, 4, 3], 3, 3, 3, "the last pass"),  # of no use at first
        ([5, 4, 4.5, 3.5], 3, 3, 3, "the last pass"),
        ([5, 4], 1, 1, 1, "the last pass"),
        ([5, 6], 1, 1, 0, None),
    ],
)
def test_passes_end_where_a_hand_made_curve_says(losses, limit, passes, best, cut_off_at):
    """The first loss is that before training; patience is one pass."""
    told = iter(losses)
    head = OutputEmbedding(torch.eye(4), even_rows(4, 1), 4)
    rows = Rows(np.eye(4, dtype=np.float16), np.arange(4))
    recipe = RECIPE | {"passes": limit, "patience": 1}
    trained = train_head(head, [rows], rows, likelihood, lambda log_p: next(told), recipe, 3, "cpu", "test")
    assert (trained.passes, trained.best_pass, trained.cut_off_at) == (passes, best, cut_off_at)
    assert trained.valid_loss == losses[best]
    assert next(told, None) is None  # no pass more than these


def separable(rows, seed):
    """States near one of six centres, each its own type, in float16 as in the store."""
    random = np.random.default_rng(seed)
    gold = random.integers(0, 6, rows).astype(np.int32)
    return Rows((4 * np.eye(6, 8)[gold] + 0.3 * random.standard_normal((rows, 8))).astype(np.float16), gold)


@pytest.mark.parametrize("kind", ["one", "three", "mixture"])
def test_training_on_separable_states(kind):
    generator = torch.Generator().manual_seed(2)
    if kind == "mixture":
        W = torch.randn(6, 8, generator=generator)
        head = MixtureOfSoftmaxes(
            W, torch.zeros(2, 8), torch.zeros(2), torch.randn(2, 8, 8, generator=generator), torch.zeros(2, 8)
        )
    else:
        n = {"one": 1, "three": 3}[kind]
        head = OutputEmbedding(random_weights(6 * n, 8, generator), even_rows(6, n), 6)
    valid = separable(200, 2)
    before = log_p_of(head, valid, "cpu").mean()
    trained = train(head, [separable(300, 1), separable(101, 3)], valid)
    after = log_p_of(head, valid, "cpu")
    assert trained.best_pass > 0
    assert after.dtype == np.float32
    assert -after.mean() == pytest.approx(trained.valid_loss, rel=1e-5)
    assert np.array_equal(trained.log_p_valid, after)
    assert after.mean() > max(-0.05, before)


def test_the_best_pass_is_kept_and_the_same_seed_trains_the_same():
    rows, valid = (
        separable(300, 1),
        Rows(separable(50, 2).states, np.zeros(50, np.int32)),
    )  # valid that training makes worse
    start = copied_weights(np.eye(6, 8, dtype=np.float32), even_rows(6, 1), 0.0, torch.Generator())
    start[0] = 10.0
    head = OutputEmbedding(start.clone(), even_rows(6, 1), 6)
    trained = train(head, [rows], valid, passes=2)
    assert trained.best_pass == 0
    assert np.array_equal(trained.log_p_valid, log_p_of(head, valid, "cpu"))
    assert trained.facts().keys() == {"best_pass", "passes", "valid_loss"}
    assert trained.cut_off_at is None
    assert torch.equal(head.parameters[0], start)
    matrices = []
    for _ in range(2):
        again = OutputEmbedding(start.clone(), even_rows(6, 1), 6)
        train(again, [rows], passes=2)
        matrices.append(again.parameters[0])
    assert torch.equal(*matrices)
    assert not torch.equal(matrices[0], start)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The stored files of a run: two chunks, valid and test, a base LM of 11 types and width 4."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(4)
    (folder / "dictionary.txt").write_text("".join(f"p{number} 1\n" for number in range(7)))
    weights = {"decoder.output_projection.weight": torch.randn(11, 4, generator=torch.Generator().manual_seed(4))}
    save_model(folder / "model.pt", {}, 8, weights, folder / "dictionary.txt")
    known(folder / "model.pt")
    checkpoint = verified(folder / "model.pt")
    states = lambda rows: random.standard_normal((rows, 4)).astype(np.float16)  # noqa: E731
    tokens = lambda rows: random.integers(0, 11, rows).astype(np.int32)  # noqa: E731
    for number, first in enumerate((0, 60)):
        chunk = folder / f"chunk-{number}"
        for name, array in {"att": states(60), "ffn": states(60), "values": tokens(60)}.items():
            save_array(chunk / f"{name}.npy", array)
        facts = {
            "kind": "datastore chunk",
            "chunk": number,
            "chunks": 2,
            "rows": 60,
            "first_position": first,
            "width": 4,
        }
        write_manifest(
            chunk / "manifest.json", sorted(chunk.glob("*.npy")), **facts, corpus_tokens=120, checkpoint=checkpoint
        )
    for split in ("valid", "test"):
        save_array(folder / f"{split}.npy", tokens(25))
        save_array(folder / f"{split}.att.npy", states(25))
        save_array(folder / f"{split}.ffn.npy", states(25))
        known(*sorted(folder.glob(f"{split}.*npy")))
    write_manifest(folder / "states.json", kind="evaluation states", width=4, checkpoint=checkpoint)
    save_array(folder / "continuation.npy", np.arange(11) % 3 == 0)
    known(folder / "continuation.npy")
    save_components(
        folder / "base.json",
        [BASE],
        {split: [np.full(25, -2.0, np.float32)] for split in ("valid", "test")},
        checkpoint,
    )
    return folder


SHORT = {"passes": 2, "patience": 1, "rows": 100, "batch": 32, "betas": [0.9, 0.999], "warmup": 0.1}
INITIAL = {"random": {"rows": 100, "learning_rates": 0.01}, "copies": {"rows": None, "learning_rates": [0.001, 0.01]}}
SETTINGS = {
    "output_embeddings": {
        "h": ["att", "ffn"],
        "n": [1, 2],
        "initial": INITIAL,
        "extra": ["loss"],
        "total_ratio": 3,
        "noise": 0.1,
    },
    "additional_linear": {"noise": 0.01},
    "mixture_of_softmaxes": {"h": ["att", "ffn"], "K": [2], "noise": 0.01},
    "interpolated_loss": {"h": ["att"], "n": [1], "lambda": 0.25},
}


def test_the_steps_train_without_fairseq(run_folder, tmp_path):
    """Every hypothesis without an index, through its step's command line, in a process that cannot import fairseq."""
    commands = []
    for family, own in SETTINGS.items():
        given = {
            "hypothesis": family,
            "settings": own | {"recipe": SHORT | ({} if "initial" in own else {"learning_rates": [0.01, 0.03]})},
            "seed": 1,
            "main": {},
            "temperature": {},
            "retrieval": {"k": 4},
        }
        names = {"tokens": ["valid.npy", "test.npy"], "continuation": ["continuation.npy"], "base": ["base.json"]}
        names |= {"states": ["states.json"], "chunks": ["chunk-0/manifest.json", "chunk-1/manifest.json"]}
        files = {name: [run_folder / file for file in of_name] for name, of_name in names.items()}
        files |= {"model": [run_folder / "model.pt"], "checkpoints": [tmp_path / family]}
        files |= {"descriptions": [tmp_path / f"{family}.json"], "facts": [tmp_path / f"{family}.csv"]}
        files |= {"speeds": [tmp_path / f"{family}.speeds.csv"]}
        words = [str(word) for name, paths in files.items() for word in (f"--{name}", *paths)]
        commands.append(["--family", family, "--settings", json.dumps(given), *words])
    program = f"""
import importlib, json, sys
from knnlm.running.step import run
from knnlm.steps import hypothesis
sys.modules["fairseq"] = None
for family in {STEPS}:
    importlib.import_module("knnlm.hypotheses." + family)
for words in json.load(sys.stdin):
    run(hypothesis.main, words)
assert not [name for name in sys.modules if name.startswith("fairseq.")]
"""
    environment = {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1", "PATH": ""}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(commands),
        text=True,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    checkpoint = checkpoint_of(run_folder / "base.json")
    found = {
        family: [component for component, _ in load_components(tmp_path / f"{family}.json", "valid", 25, checkpoint)]
        for family in SETTINGS
    }
    assert [component.component.removeprefix("output_embeddings-") for component in found["output_embeddings"]] == [
        f"{h}-{layout}-{initial}"
        for layout in ("1v", "2v", "loss")
        for h in ("att", "ffn")
        for initial in ("random", "copies")
    ]
    assert [component.rows for component in found["output_embeddings"][:8]] == [11] * 4 + [22] * 4
    assert {component.added_parameters for component in found["output_embeddings"][4:8]} == {22 * 4}
    assert found["mixture_of_softmaxes"][0].added_parameters == 2 * (4 + 1 + 16 + 4)
    assert [len(found[family]) for family in SETTINGS] == [12, 1, 2, 1]


def test_log_p_of_the_base_lm_on_the_store(run_folder):
    store = open_datastore([run_folder / f"chunk-{number}" / "manifest.json" for number in (0, 1)])
    W = np.random.default_rng(1).standard_normal((11, 4)).astype(np.float32)
    parts, rows = store_log_p(store, W, 60, "cpu"), store_rows(store, "att", 60, with_ffn=True)
    assert [len(part) for part in parts] == [30, 30] == [len(part.gold) for part in rows]
    for found, part in zip(parts, rows, strict=True):
        logits = np.asarray(part.ffn, np.float64) @ W.T
        assert np.allclose(found, logits[np.arange(30), part.gold] - logsumexp(logits, axis=1), atol=1e-5)
