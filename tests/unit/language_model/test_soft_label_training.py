"""Trainings on soft labels through fairseq: its samples, the criterion, and what differs from hard labels."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from soft_labels import TYPES, K, dense_labels, random_neighbours
from stores import known

from knnlm.corpus.binary import preprocess, read_binary
from knnlm.errors import KnnlmError
from knnlm.language_model.fairseq_runs import history, saved_updates
from knnlm.language_model.soft_targets import sample_positions
from knnlm.language_model.training import Devices, fairseq_command
from knnlm.language_model.transformer import build_model, save_model
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import verified, write_manifest

WIDTH, SAMPLE = 16, 16
ARCHITECTURE = {
    "layers": 1,
    "width": WIDTH,
    "feed_forward_width": 24,
    "heads": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
TRAINING = {
    "optimiser": "adam", "learning_rate": 0.01, "minimum_learning_rate": 1e-9, "warmup_updates": 1,
    "warmup_initial_learning_rate": 1e-7,
    "schedule": "cosine", "patience": None, "cosine_period": None,
    "updates": 6, "tokens_per_sample": SAMPLE, "batch_samples": 4,
    "accumulate": 1, "clip_norm": 1.0,
    "momentum": 0.99,
    "betas": [0.9, 0.98], "weight_decay": 0.0, "validate_every": 3, "save_every": 3, "fp16": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A random corpus with blank lines, as the pipeline makes it, a teacher, and random neighbours of every token."""
    folder = tmp_path_factory.mktemp("soft")
    generator = np.random.default_rng(0)
    dictionary = folder / "dictionary.txt"
    dictionary.write_text("".join(f"p{number} 1\n" for number in range(TYPES - 4)))
    for split, lines in (("train", 60), ("valid", 12), ("test", 12)):
        rows = (
            " ".join(f"p{piece}" for piece in generator.integers(0, TYPES - 4, generator.integers(0, 15)))
            for _ in range(lines)
        )
        (folder / split).write_text("\n".join(rows) + "\n")
    (folder / "binary").mkdir()
    preprocess([str(folder / split) for split in ("train", "valid", "test")], str(dictionary), folder / "binary", 1)
    tokens = np.asarray(read_binary(folder / "binary" / "train")[0], np.int32)
    save_array(folder / "tokens" / "train.npy", tokens)
    torch.manual_seed(4)
    network = build_model(ARCHITECTURE, SAMPLE, str(dictionary))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder / "model.pt", ARCHITECTURE, SAMPLE, network.state_dict(), dictionary)
    known(folder / "model.pt")
    write_manifest(folder / "base.json", kind="components", checkpoint=verified(folder / "model.pt"))
    write_manifest(folder / "tokens/manifest.json", [folder / "tokens/train.npy"], kind="corpus")
    values, weights = random_neighbours(len(tokens))
    save_array(folder / "values.npy", values[None])
    save_array(folder / "weights.npy", weights[None])
    known(folder / "values.npy", folder / "weights.npy")
    torch.set_float32_matmul_precision("highest")  # the plugin lowers it
    return folder


def options(corpus, knn_weight):
    names = {"teacher-model": "model.pt", "teacher-dictionary": "dictionary.txt", "train-tokens": "tokens/train.npy"}
    names |= {"neighbour-values": "values.npy", "neighbour-weights": "weights.npy"} if knn_weight else {}
    return {
        "criterion": "soft_labels",
        "knn-weight": knn_weight,
        **{name: corpus / path for name, path in names.items()},
    }


def parts(corpus, knn_weight):
    """Task, untrained student and criterion, built by fairseq from the command line that a training has."""
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    from fairseq import options as fairseq_options
    from fairseq import tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from fairseq_plugin import soft_labels  # noqa: F401 - registers the criterion

    lm = ARCHITECTURE | TRAINING
    command = fairseq_command(lm, 1, Devices(), corpus / "binary", corpus / "unused", more=options(corpus, knn_weight))
    config = convert_namespace_to_omegaconf(
        fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), command[3:])
    )
    task = tasks.setup_task(config.task)
    task.load_dataset("train")
    torch.manual_seed(9)
    student, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
    torch.set_float32_matmul_precision("highest")
    return task.dataset("train"), student, criterion


def batch(dataset, *samples):
    return dataset.collater([dataset[sample] for sample in samples])


def test_a_sample_of_fairseq_holds_the_tokens_of_its_positions(corpus):
    dataset, _, _ = parts(corpus, 0.0)
    tokens = np.load(corpus / "tokens" / "train.npy")
    assert len(dataset) == -(-len(tokens) // SAMPLE)
    assert dataset.shuffle
    order = dataset.ordered_indices().tolist()
    assert order != sorted(order)
    for begin in range(0, len(order), 4):
        found = batch(dataset, *order[begin : begin + 4])
        positions = sample_positions(found["id"], SAMPLE, found["target"].shape[1])
        real = found["target"] != 1
        assert np.array_equal(found["target"][real], tokens[positions[real]])
        assert int(real.sum()) == found["ntokens"]


@pytest.mark.parametrize("knn_weight", [0.0, 0.25, 1.0])
def test_the_loss_is_that_of_dense_labels(corpus, knn_weight):
    dataset, student, criterion = parts(corpus, knn_weight)
    values, weights = (np.load(corpus / f"{name}.npy")[0] for name in ("values", "weights"))
    teacher = build_model(ARCHITECTURE, SAMPLE, str(corpus / "dictionary.txt")).eval()
    teacher.load_state_dict(torch.load(corpus / "model.pt", weights_only=True)["weights"])
    sample = batch(dataset, 2, len(dataset) - 1, 0)  # the last one of the text is short and padded
    loss, size, log = criterion(student.train(), sample)
    expected, count = 0.0, 0
    with torch.no_grad():
        for row, number in enumerate(sample["id"].tolist()):
            source = sample["net_input"]["src_tokens"][row : row + 1, : len(dataset[number]["source"])]
            mine = slice(number * SAMPLE, number * SAMPLE + source.shape[1])
            labels = dense_labels(teacher(source)[0][0].numpy(), values[mine], weights[mine], knn_weight)
            expected -= float((labels * torch.log_softmax(student(source)[0][0].double(), dim=1).numpy()).sum())
            count += source.shape[1]
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert (size, log["sample_size"], log["ntokens"], float(log["loss"])) == (count, count, count, float(loss))
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert list(criterion.parameters()) == []
    assert criterion.logging_outputs_can_be_summed()


def test_validation_is_against_the_text(corpus):
    dataset, student, criterion = parts(corpus, 0.25)
    sample = batch(dataset, 1, len(dataset) - 1)
    with torch.no_grad():
        loss, _, _ = criterion(student.eval(), sample)
        expected = torch.nn.functional.cross_entropy(
            student(**sample["net_input"])[0].flatten(0, 1), sample["target"].view(-1), ignore_index=1, reduction="sum"
        )
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_from_elsewhere_is_refused(corpus):
    dataset, student, criterion = parts(corpus, 0.25)
    for samples in (torch.tensor([2, 3]), torch.tensor([1, len(dataset)])):
        sample = batch(dataset, 1, 2)
        sample["id"] = samples
        with pytest.raises(KnnlmError, match="not in the order of the training tokens"):
            criterion(student.train(), sample)


def training_inputs(corpus, folder, **settings):
    """What a step gives to a training."""
    from knnlm.hypotheses.inputs import Inputs, Stored

    given = {"hypothesis": "x", "seed": 1, "main": {}, "temperature": {}, "retrieval": {}, "settings": settings}
    given["lm"] = {"architecture": ARCHITECTURE, "training": TRAINING}
    files = {"base": corpus / "base.json", "model": corpus / "model.pt", "dictionary": corpus / "dictionary.txt"}
    return Inputs(**given, stored=Stored(corpus=corpus, **files), checkpoints=folder, family="x")


def weights_of(model_file):
    return torch.load(model_file, weights_only=True)["weights"]


def are_close(one, other, tolerance):
    return all(torch.allclose(weight, other[name], atol=tolerance) for name, weight in one.items())


@pytest.mark.slow
def test_trainings_on_soft_labels(corpus, tmp_path):
    """Both criterions through fairseq: they train, and begin with the weights and batches of hard labels."""
    from knnlm.hypotheses.lm_training import Training
    from knnlm.hypotheses.soft_labels import trained

    neighbours = {name: corpus / f"{name}.npy" for name in ("values", "weights")}
    inputs = training_inputs(corpus, tmp_path)
    knn = trained(inputs, 1.0, neighbours, {"k": K})
    records = [(row["split"], row["update"]) for row in history(knn.folder)]
    assert records == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("valid", 3),
        ("train", 4),
        ("train", 5),
        ("train", 6),
        ("valid", 6),
    ]
    assert knn.best_valid_loss() == min(row["loss"] for row in history(knn.folder) if row["split"] == "valid")
    written = (knn.folder / "checkpoint_last.pt").stat().st_mtime_ns
    assert trained(inputs, 1.0, neighbours, {"k": K}).folder == knn.folder
    assert (knn.folder / "checkpoint_last.pt").stat().st_mtime_ns == written

    still = {"learning_rate": 1e-8, "updates": 1, "warmup_updates": 0, "weight_decay": 0.0}
    frozen = training_inputs(corpus, tmp_path)
    frozen.lm = {"architecture": ARCHITECTURE, "training": TRAINING | still}
    base = trained(frozen, 0.0, {}, {})
    hard = Training(frozen, 1, {})
    hard.run(1)
    assert len({knn.folder, base.folder, hard.folder}) == 3
    first, soft = (weights_of(training.export("checkpoint_last.pt")) for training in (hard, base))
    assert are_close(first, soft, 1e-6)
    assert not are_close(first, weights_of(knn.export("checkpoint_last.pt")), 1e-2)
    assert history(hard.folder)[-1]["loss"] == pytest.approx(
        history(base.folder)[-1]["loss"], abs=2e-3
    )  # validation is the same
    assert history(hard.folder)[0]["loss"] != history(base.folder)[0]["loss"]


@pytest.mark.slow
def test_stages_of_memorisation(corpus, tmp_path):
    from knnlm.hypotheses.lm_training import Training
    from knnlm.hypotheses.memorisation import NO_DROPOUT, stages

    inputs = training_inputs(
        corpus, tmp_path, updates=4, every=2, learning_rate=1e-8, warmup_updates=0, clip_norm=1.0, train_tokens=50
    )
    found = dict(stages(inputs, NO_DROPOUT, 4))
    assert list(found) == [2, 4]
    base = weights_of(corpus / "model.pt")
    assert all(are_close(base, weights_of(model), 1e-6) for model in found.values())
    (folder,) = tmp_path.iterdir()
    assert saved_updates(folder) == 4
    assert [row["update"] for row in history(folder) if row["split"] == "train"] == [1, 2, 3, 4]
    before = [model.stat().st_mtime_ns for model in found.values()]
    assert dict(stages(inputs, NO_DROPOUT, 4)) == found
    assert [model.stat().st_mtime_ns for model in found.values()] == before

    training = Training(inputs, 1, {})
    training.folder = folder
    training.forget_after(4)
    assert saved_updates(folder) == 4
    training.forget_after(3)  # as if the model of update 3 had been lost: what is on disk leads beyond it
    assert saved_updates(folder) == 0


def evaluation_inputs(corpus, folder, **settings):
    """What a step gives to a training whose LMs are read on valid and test, beside a kNN that knows nothing."""
    from knnlm.components.catalogue import BASE, Component
    from knnlm.components.columns import save_components

    inputs, sizes = training_inputs(corpus, folder / "checkpoints", **settings), {}
    for split in ("train", "valid", "test"):
        tokens, lines = (np.asarray(part) for part in read_binary(corpus / "binary" / split)[:2])
        save_array(folder / "tokens" / f"{split}.npy", tokens.astype(np.int32))
        save_array(folder / "tokens" / f"{split}.lines.npy", lines.astype(np.int64))
        sizes[split] = len(tokens)
    save_array(folder / "continuation.npy", np.zeros(TYPES, bool))
    known(*(folder / "tokens").glob("*.npy"), folder / "continuation.npy")
    write_manifest(folder / "tokens/manifest.json", [folder / "tokens/train.npy"], kind="corpus")
    (folder / "binary").symlink_to(corpus / "binary")
    checkpoint = verified(corpus / "model.pt")
    flat = {split: [np.full(sizes[split], -np.log(TYPES), np.float32)] for split in ("valid", "test")}
    save_components(folder / "base.json", [BASE], flat, checkpoint)
    save_components(folder / "knn.json", [Component("knn-att-l2-exact-real", "knn")], flat, checkpoint)
    files = {"base": folder / "base.json", "components": [folder / "knn.json"], "corpus": folder}
    files |= {"tokens": [folder / f"tokens/{split}.npy" for split in ("valid", "test")]}
    inputs.stored = replace(inputs.stored, **files, continuation=folder / "continuation.npy")
    inputs.main, inputs.windows = {"h": "att", "metric": "l2"}, {"evaluation": {"context": 8, "new": 8}}
    return inputs


@pytest.mark.slow
def test_memorisation_ends_with_its_last_stage_and_a_control_of_as_many_updates(corpus, tmp_path):
    from knnlm.hypotheses.memorisation import components

    settings = {"updates": 4, "every": 2, "learning_rate": 1e-8, "warmup_updates": 0, "clip_norm": 1.0}
    inputs = evaluation_inputs(corpus, tmp_path, **settings, train_tokens=50, known_by_heart=1.5)
    inputs.lm["architecture"] = ARCHITECTURE | {"dropout": 0.5}
    found = {result.component.component: result for result in components(inputs)}
    assert list(found) == ["x-updates-2", "x-last", "x-control-2", "x-control-last"]
    assert [result.component.x for result in found.values()] == [2, 4, 2, 4]
    assert found["x-last"].facts["not_tested"].startswith("The LM does not know its training text by heart")
    assert "not_tested" not in found["x-control-last"].facts
    for result in found.values():  # the rate is next to nothing: all of them are the base LM
        assert result.facts["train_ppl"] == pytest.approx(inputs.run_facts["train_ppl_base"], rel=1e-4)
        assert result.facts["valid_ppl"] == pytest.approx(np.exp(-result.log_p["valid"].mean(dtype=float)), rel=1e-6)
    assert len({folder.name for folder in (tmp_path / "checkpoints").iterdir()}) == 2  # with and without dropout


@pytest.mark.slow
def test_a_second_seed_has_the_base_lm_trained_on_as_its_control(corpus, tmp_path):
    from knnlm.hypotheses.second_seed import components

    inputs = evaluation_inputs(corpus, tmp_path, seed_offset=1)
    inputs.lm = {"architecture": ARCHITECTURE, "training": TRAINING | {"learning_rate": 1e-8, "updates": 3}}
    found = {result.component.component: result for result in components(inputs)}
    assert list(found) == ["x-lm", "x-control"]
    folders = [path.parent for path in (tmp_path / "checkpoints").rglob("model.pt")]
    base = weights_of(corpus / "model.pt")
    assert [are_close(base, weights_of(folder / "model.pt"), 1e-6) for folder in folders].count(True) == 1
    assert all(saved_updates(folder) == 3 for folder in folders)
