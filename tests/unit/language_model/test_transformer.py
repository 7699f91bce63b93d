import logging
import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import known

from knnlm.errors import KnnlmError
from knnlm.language_model.transformer import LanguageModel, build_model, export_model, save_model, trained_updates

ARCHITECTURE = {
    "layers": 2,
    "width": 16,
    "feed_forward_width": 24,
    "heads": 4,
    "dropout": 0.3,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
TYPES = 40  # four specials and 36 pieces
TOKENS_PER_SAMPLE = 32


def write_dictionary(path, pieces=TYPES - 4):
    path.write_text("".join(f"piece{number} {100 - number}\n" for number in range(pieces)))
    return path


def write_model(path, dictionary, architecture=ARCHITECTURE, seed=1):
    torch.manual_seed(seed)
    network = build_model(architecture, TOKENS_PER_SAMPLE, str(dictionary))
    for parameter in network.parameters():  # no layer may be the identity, no bias 0
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(path, architecture, TOKENS_PER_SAMPLE, network.state_dict(), dictionary)
    known(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    dictionary = write_dictionary(folder / "dictionary.txt")
    return write_model(folder / "model.pt", dictionary), dictionary


@pytest.fixture(scope="module")
def model(files):
    return LanguageModel(*files, "cpu")


@pytest.fixture(scope="module")
def source():
    return torch.randint(2, TYPES, (3, 11), generator=torch.Generator().manual_seed(0))


def parameters(types, layers, d, f):
    """Embedding and output; per layer four projections of the attention, two feed-forward matrices, two LayerNorms."""
    return 2 * types * d + layers * (4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d)


def test_the_architecture_is_the_papers(model):
    decoder = model.decoder
    assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters(TYPES, 2, 16, 24)
    assert decoder.layer_norm is None
    assert decoder.output_projection.bias is None
    assert decoder.output_projection.weight.data_ptr() != decoder.embed_tokens.weight.data_ptr()
    assert not torch.equal(decoder.output_projection.weight, decoder.embed_tokens.weight)
    assert all(layer.normalize_before and layer.activation_fn is torch.nn.functional.relu for layer in decoder.layers)
    assert decoder.embed_scale == 16**0.5
    assert decoder.layers[0].self_attn.num_heads == 4


def test_the_full_size_of_the_paper():
    assert parameters(33344, 16, 1024, 4096) == 269_828_096  # the paper's own count
    assert parameters(33344, 0, 1024, 4096) == 2 * 34_144_256


def test_ffn_times_the_output_embedding_is_the_models_own_logits(model, source):
    _, ffn = model.states(source)
    with torch.inference_mode():
        logits, _ = model.decoder(source)
        assert torch.allclose(ffn @ model.decoder.output_projection.weight.T, logits, atol=1e-5)


def test_att_and_ffn_are_those_of_the_papers_last_layer(model, source):
    """As docs/paper.md#hidden-states says, from the network's modules and its stream before the last layer."""
    decoder, layer = model.decoder, model.decoder.layers[-1]
    with torch.inference_mode():
        _, extra = decoder.extract_features(source, None)
        x = extra["inner_states"][-2].transpose(0, 1)  # (batch, length, width)
        normed = layer.self_attn_layer_norm(x)
        query, key, value = (
            projection(normed).unflatten(2, (4, 4)).transpose(1, 2)
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
        future = torch.ones(source.shape[1], source.shape[1], dtype=torch.bool).triu(1)
        attention = (query @ key.transpose(2, 3) / 4**0.5).masked_fill(future, -torch.inf).softmax(3)
        u = x + layer.self_attn.out_proj((attention @ value).transpose(1, 2).flatten(2))
        att = layer.final_layer_norm(u)
        ffn = u + layer.fc2(torch.relu(layer.fc1(att)))
    found_att, found_ffn = model.states(source)
    assert torch.allclose(found_att, att, atol=1e-5)
    assert torch.allclose(found_ffn, ffn, atol=1e-5)
    assert not torch.allclose(found_att, found_ffn, atol=1e-1)


def test_states_do_not_depend_on_what_follows(model, source):
    changed = source.clone()
    changed[:, 6:] = 5
    for have, want in zip(model.states(changed), model.states(source), strict=True):
        assert torch.allclose(have[:, :6], want[:, :6], atol=1e-6)
        assert not torch.allclose(have[:, 6:], want[:, 6:], atol=1e-2)


def test_dropout_is_off_and_states_repeat(model, source):
    first, second = model.states(source), model.states(source)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_log_probabilities_are_those_of_a_softmax(model, source, monkeypatch):
    monkeypatch.setattr("knnlm.language_model.transformer.POSITIONS_AT_ONCE", 7)  # several blocks, the last short
    _, ffn = model.states(source)
    features, targets = ffn.flatten(0, 1), torch.arange(33) % TYPES
    with torch.inference_mode():
        p = torch.softmax((features @ model.decoder.output_projection.weight.T).double(), dim=1)
    found = model.log_probabilities(features, targets)
    assert torch.allclose(found.double().exp(), p[torch.arange(33), targets], atol=1e-6)
    every = torch.stack([model.log_probabilities(features[:1].expand(TYPES, -1), torch.arange(TYPES))])
    assert float(every.double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_full_precision_whatever_training_used(files):
    torch.set_float32_matmul_precision("medium")
    LanguageModel(*files, "cpu")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("keep", [0, 10, 500, -100])
def test_a_truncated_model_file_is_refused_by_name(files, tmp_path, keep):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(files[0].read_bytes())
    known(damaged)
    damaged.write_bytes(files[0].read_bytes()[:keep])
    with pytest.raises(KnnlmError, match=r"damaged\.pt: not as it was when .*; delete it"):
        LanguageModel(damaged, files[1], "cpu")


@pytest.mark.parametrize("content", [b"not a model at all\n" * 9, [1, 2], {"weights": {}}, torch.zeros(3)])
def test_another_kind_of_file_is_refused_by_name(files, tmp_path, content):
    other = tmp_path / "other.pt"
    other.write_bytes(content) if isinstance(content, bytes) else torch.save(content, other)
    known(other)
    with pytest.raises(KnnlmError, match=r"other\.pt: not a readable model file"):
        LanguageModel(other, files[1], "cpu")


def test_a_missing_model_file_is_refused_by_name(files, tmp_path):
    with pytest.raises(KnnlmError, match=r"missing\.pt"):
        LanguageModel(tmp_path / "missing.pt", files[1], "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines, "another 1"],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:-1], lines[-1].replace("piece", "peace")],
        lambda lines: [*lines[:-1], "pi\udcffce 1"],
        lambda lines: lines[:-1],
    ],
    ids=["larger", "other order", "other piece", "not UTF-8", "cut"],
)
def test_a_model_for_another_dictionary_is_refused_by_name(files, tmp_path, change):
    """Of the same size too: the network would fit, and every word mean another."""
    lines = files[1].read_text().splitlines()
    (tmp_path / "other.txt").write_bytes(
        "".join(f"{line}\n" for line in change(lines)).encode(errors="surrogateescape")
    )
    with pytest.raises(
        KnnlmError, match=r"other\.txt: not the dictionary that .*model\.pt was trained with; delete it"
    ):
        LanguageModel(files[0], tmp_path / "other.txt", "cpu")
    with pytest.raises(KnnlmError, match=r"missing\.txt: not a readable dictionary"):
        LanguageModel(files[0], tmp_path / "missing.txt", "cpu")


def test_counts_of_the_dictionary_do_not_matter(files, tmp_path):
    (tmp_path / "counted.txt").write_text(re.sub(r" \d+$", " 7", files[1].read_text(), flags=re.MULTILINE))
    LanguageModel(files[0], tmp_path / "counted.txt", "cpu")


def test_the_same_model_gives_the_same_bytes(files, tmp_path):
    content = torch.load(files[0], weights_only=True)
    for name in ("one.pt", "another.pt"):
        save_model(tmp_path / name, content["architecture"], TOKENS_PER_SAMPLE, content["weights"], files[1])
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_weights_of_another_architecture_are_refused_by_name(files, tmp_path):
    content = torch.load(files[0], weights_only=True)
    for number, change in enumerate(
        ({"architecture": {**ARCHITECTURE, "layers": 3}}, {"architecture": {}}, {"weights": [1]})
    ):
        path = tmp_path / f"{number}-model.pt"
        torch.save(content | change, path)
        known(path)
        with pytest.raises(KnnlmError, match=r"model\.pt: not a language model for"):
            LanguageModel(path, files[1], "cpu")


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_model_file_is_refused_and_not_run(files, tmp_path):
    content = torch.load(files[0], weights_only=True)
    torch.save({**content, "architecture": Code(tmp_path / "executed")}, tmp_path / "model.pt")
    known(tmp_path / "model.pt")
    with pytest.raises(KnnlmError, match=r"model\.pt: not a readable model file"):
        LanguageModel(tmp_path / "model.pt", files[1], "cpu")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "model.pt", weights_only=False)  # the file is as dangerous as this test believes
    assert (tmp_path / "executed").exists()


def test_export_keeps_the_weights_of_a_checkpoint_in_float32(files, model, tmp_path, source):
    weights = torch.load(files[0], weights_only=True)["weights"]
    torch.save(
        {"model": {name: weight.half() for name, weight in weights.items()}, "args": logging.INFO},
        tmp_path / "checkpoint.pt",
    )
    export_model(tmp_path / "checkpoint.pt", tmp_path / "exported.pt", ARCHITECTURE, TOKENS_PER_SAMPLE, files[1])
    known(tmp_path / "exported.pt")
    exported = LanguageModel(tmp_path / "exported.pt", files[1], "cpu")
    assert exported.longest_input == TOKENS_PER_SAMPLE
    assert {parameter.dtype for parameter in exported.decoder.parameters()} == {torch.float32}
    assert torch.allclose(exported.states(source)[1], model.states(source)[1], atol=0.1)


def test_updates_of_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint_last.pt"
    assert trained_updates(checkpoint) == 0
    torch.save({"model": torch.zeros(1000), "optimizer_history": [{"num_updates": 3}, {"num_updates": 70}]}, checkpoint)
    assert trained_updates(checkpoint) == 70
    content = checkpoint.read_bytes()
    for length in (0, 3, 1000, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        assert trained_updates(checkpoint) == 0


@pytest.mark.parametrize("part", ["content", "headers"])
def test_a_flipped_bit_of_a_checkpoint_is_seen_or_harmless(tmp_path, part):
    """Of every bit of the archive's own headers, and of a sample of what is in it."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {"w": torch.arange(200.0)}, "optimizer_history": [{"num_updates": 70}]}, path)
    content = path.read_bytes()
    inside = np.zeros(len(content), bool)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            begin = content.index(entry.filename.encode(), entry.header_offset) + len(entry.filename)
            begin += int.from_bytes(
                content[entry.header_offset + 28 : entry.header_offset + 30], "little"
            )  # padding, which the headers have
            inside[begin : begin + entry.file_size] = True
    places = np.flatnonzero(inside if part == "content" else ~inside)
    random = np.random.default_rng(1)
    harmless = 0
    for place in random.choice(places, 400, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        if trained_updates(path):
            harmless += 1
            assert torch.equal(torch.load(path, weights_only=True)["model"]["w"], torch.arange(200.0))
    assert (harmless == 0) if part == "content" else (harmless < 400)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-5], lambda content: content[:900] + bytes([content[900] ^ 1]) + content[901:], None],
)
def test_a_damaged_checkpoint_is_not_exported(files, tmp_path, damage):
    weights = torch.load(files[0], weights_only=True)["weights"]
    torch.save({"model": weights}, tmp_path / "checkpoint.pt")
    if damage:
        (tmp_path / "checkpoint.pt").write_bytes(damage((tmp_path / "checkpoint.pt").read_bytes()))
    else:
        (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(
        KnnlmError, match=rf"checkpoint\.pt: missing or damaged; delete the folder {tmp_path} and rerun"
    ):
        export_model(tmp_path / "checkpoint.pt", tmp_path / "exported.pt", ARCHITECTURE, TOKENS_PER_SAMPLE, files[1])
    assert not (tmp_path / "exported.pt").exists()


def test_loading_and_running_says_nothing(files):
    program = (
        "import sys, torch; from knnlm.language_model.transformer import LanguageModel\n"
        "model = LanguageModel(sys.argv[1], sys.argv[2], 'cpu'); model.states(torch.tensor([[2, 5, 6], [2, 5, 2]]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)], env=environment, capture_output=True, text=True, check=True
    )
    assert "tensorboardX" not in done.stdout + done.stderr
    assert "key_padding_mask" not in done.stdout + done.stderr


def test_states_give_no_warning(model, source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.states(source)
