import math
import sys
from pathlib import Path

import pytest

from knnlm.errors import KnnlmError
from knnlm.language_model.training import COLUMNS, Devices, fairseq_command, loss_table, parse_log

ARCHITECTURE = {
    "layers": 3,
    "width": 48,
    "feed_forward_width": 96,
    "heads": 6,
    "dropout": 0.31,
    "attention_dropout": 0.11,
    "activation_dropout": 0.12,
}
TRAINING = {
    "optimiser": "adam",
    "learning_rate": 0.7,
    "minimum_learning_rate": 1e-4,
    "warmup_updates": 160,
    "warmup_initial_learning_rate": 1e-7,
    "schedule": "cosine",
    "cosine_period": None,
    "updates": 2860,
    "patience": None,
    "tokens_per_sample": 192,
    "batch_samples": 5,
    "accumulate": 4,
    "clip_norm": 0.13,
    "momentum": 0.97,
    "betas": [0.85, 0.95],
    "weight_decay": 0.015,
    "validate_every": 70,
    "save_every": 140,
    "fp16": False,
}
# Lines of a real log, shortened; around them what fairseq also says.
LOG = """\
2026-01-01 10:00:00 | INFO | fairseq.tasks.text_to_speech | Please install tensorboardX: pip install tensorboardX
2026-01-01 10:00:03 | INFO | fairseq_cli.train | {'_name': None, 'common': {'_name': None, 'log_interval': 1, \
'log_format': 'json'}}
  (decoder): TransformerDecoder(
2026-01-01 10:00:05 | INFO | train_inner | {"epoch": 1, "update": 0.014, "loss": "10.631", "ppl": "1585.83", \
"wps": "0", "ups": "0", "wpb": "512", \
"bsz": "8", "num_updates": "1", "lr": "0.00100009", "gnorm": "1.035", "clip": "100", "train_wall": "0", "wall": "2"}
2026-01-01 10:00:06 | INFO | train_inner | {"epoch": 1, "update": 0.145, "loss": "9.761", "ppl": "867.42", \
"wps": "5466.4", "ups": "10.68", \
"wpb": "512", "bsz": "8", "num_updates": "10", "lr": "0.01", "gnorm": "0.755", "clip": "0", "train_wall": "0", \
"wall": "3"}
2026-01-01 10:00:06 | INFO | fairseq_cli.train | begin validation on "valid" subset
2026-01-01 10:00:06 | INFO | valid | {"epoch": 1, "valid_loss": "9.385", "valid_ppl": "668.49", \
"valid_wps": "52251.8", "valid_wpb": "503.8", \
"valid_bsz": "7.9", "valid_num_updates": "10"}
2026-01-01 10:00:06 | INFO | fairseq.trainer | Saving checkpoint to somewhere/checkpoint_1_10.pt
2026-01-01 10:00:07 | INFO | train | {"epoch": 2, "train_loss": "9.097", "train_ppl": "547.43", \
"train_wps": "2787.7", "train_num_updates": "30"}
2026-01-01 10:00:08 | INFO | valid | {"epoch": 2, "valid_loss": "8.143", "valid_ppl": "282.73", \
"valid_wps": "17381.9", "valid_wpb": "503.8", \
"valid_bsz": "7.9", "valid_num_updates": "20", "valid_best_loss": "8.143"}
""".splitlines(keepends=True)


def command(gpus=0, **changes):
    return fairseq_command(ARCHITECTURE | TRAINING | changes, 17, Devices(gpus), Path("corpus"), Path("kept"))


def parsed(call):
    """Read the command with fairseq's own parser, so that a wrong name or value is an error here."""
    from fairseq import options

    assert call[:3] == [sys.executable, "-m", "fairseq_cli.train"]
    return options.parse_args_and_arch(options.get_training_parser(), call[3:])


@pytest.mark.parametrize(("gpus", "fp16"), [(0, False), (2, False), (4, True)])
@pytest.mark.parametrize("optimiser", ["adam", "nag"])
def test_fairseq_is_told_every_hyperparameter(gpus, optimiser, fp16):
    found = parsed(command(gpus, optimiser=optimiser, fp16=fp16))
    expected = {
        "data": "corpus",
        "save_dir": "kept",
        "seed": 17,
        "task": "language_modeling",
        "criterion": "cross_entropy",
        "arch": "transformer_lm_wikibpe",
        "decoder_layers": 3,
        "decoder_embed_dim": 48,
        "decoder_ffn_embed_dim": 96,
        "decoder_attention_heads": 6,
        "dropout": 0.31,
        "attention_dropout": 0.11,
        "activation_dropout": 0.12,
        "optimizer": optimiser,
        "weight_decay": 0.015,
        "clip_norm": 0.13,
        "lr": [0.7],
        "lr_scheduler": "cosine",
        "min_lr": 1e-4,
        "warmup_updates": 160,
        "warmup_init_lr": 1e-7,
        "lr_period_updates": 2700,
        "max_update": 2860,
        "tokens_per_sample": 192,
        "sample_break_mode": "none",
        "batch_size": 5,
        "batch_size_valid": "5",  # fairseq turns it into a number later
        "update_freq": [4 // max(gpus, 1)],
        "distributed_world_size": max(gpus, 1),
        "validate_interval_updates": 70,
        "save_interval_updates": 140,
        "fp16": fp16,
        "cpu": gpus == 0,
        "no_epoch_checkpoints": True,
        "restore_file": "checkpoint_last.pt",
        "no_decoder_final_norm": True,
        "share_decoder_input_output_embed": False,
    }
    if optimiser == "adam":
        expected["adam_betas"] = "(0.85, 0.95)"
    else:
        expected["momentum"] = 0.97
    assert {name: getattr(found, name) for name in expected} == expected


def test_several_nodes_are_started_by_slurm_one_call_each():
    devices = Devices(4, nodes=2, threads=6, port=23456)
    call = fairseq_command(ARCHITECTURE | TRAINING, 17, devices, Path("corpus"), Path("kept"))
    here = call.index(sys.executable)
    assert call[:here] == [
        "srun",
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=6",
        "--kill-on-bad-exit=1",
    ]
    found = parsed(call[here:])
    assert (found.distributed_world_size, found.distributed_port, found.update_freq) == (4, 23456, [1])
    assert parsed(command(4)).distributed_port == -1  # fairseq looks for a free one


def test_passes_that_cannot_be_shared_are_refused():
    with pytest.raises(KnnlmError, match=r"lm\.training\.accumulate: the 4 passes .* 3 GPUs"):
        command(3)


def test_float16_on_the_cpu_is_refused():
    with pytest.raises(KnnlmError, match=r"lm\.training\.fp16"):
        command(0, fp16=True)


def test_a_cosine_period_of_its_own_is_kept():
    assert parsed(command(cosine_period=270000)).lr_period_updates == 270000


def test_a_schedule_that_does_not_know_how_long_training_takes():
    """fairseq's own scheduler: a straight rise to the highest rate, then one over the root of the updates."""
    from fairseq.optim import FairseqOptimizer
    from fairseq.optim.lr_scheduler.inverse_square_root_schedule import InverseSquareRootSchedule

    class Optimiser(FairseqOptimizer):
        def set_lr(self, rate):
            self.rate = rate

    found = parsed(command(schedule="inverse_sqrt"))
    assert (found.lr_scheduler, found.warmup_updates, found.max_update) == ("inverse_sqrt", 160, 2860)
    assert not hasattr(found, "lr_period_updates")
    scheduler = InverseSquareRootSchedule(found, Optimiser(found))
    rates = {update: scheduler.step_update(update) for update in (0, 80, 160, 640, 16000)}
    assert rates == pytest.approx({0: 1e-7, 80: 0.35, 160: 0.7, 640: 0.35, 16000: 0.07}, rel=1e-3)


def test_a_training_that_only_warms_up_has_a_period():
    assert parsed(command(warmup_updates=100, updates=100)).lr_period_updates == 1


@pytest.mark.parametrize(("updates", "interval"), [(50, 1), (286000, 2860)])
def test_about_a_hundred_training_records(updates, interval):
    assert parsed(command(updates=updates)).log_interval == interval


def test_records_of_a_real_log():
    rows = list(parse_log(LOG))
    assert [(row["update"], row["epoch"], row["split"]) for row in rows] == [
        (1, 1, "train"),
        (10, 1, "train"),
        (10, 1, "valid"),
        (20, 2, "valid"),
    ]
    # fairseq's perplexity is 2 to the loss that it reports; ours is e to ours.
    assert [row["perplexity"] for row in rows] == pytest.approx([1585.83, 867.42, 668.49, 282.73], rel=1e-3)
    assert [math.exp(row["loss"]) for row in rows] == pytest.approx([row["perplexity"] for row in rows])
    assert (rows[1]["learning_rate"], rows[1]["tokens_per_second"]) == (0.01, 5466.4)
    assert math.isnan(rows[2]["learning_rate"])
    assert list(rows[0]) == COLUMNS


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize(
    ("line", "loss", "where"),
    [(4, '"9.761"', "train loss is .* at update 10"), (6, '"9.385"', "valid loss is .* at update 10")],
)
def test_a_loss_that_is_not_finite_is_refused_at_once(number, line, loss, where):
    lines = list(LOG)
    assert loss in lines[line]
    lines[line] = lines[line].replace(loss, f'"{number}"')
    found = []
    with pytest.raises(KnnlmError, match=rf"the {where}; lower lm\.training\.learning_rate"):
        found.extend(parse_log(lines))
    assert found == list(parse_log(LOG[:line]))


def test_a_huge_loss_is_still_a_number():
    (row,) = parse_log([LOG[3].replace("10.631", "98765.4")])
    assert math.isfinite(row["perplexity"])


def test_the_later_record_counts_where_a_resumed_training_repeats_updates():
    def row(update, split, loss):
        return dict(zip(COLUMNS, [update, 1, split, loss, math.exp(loss), 0.1, 9.0], strict=True))

    before = [row(10, "train", 5.0), row(10, "valid", 5.5), row(20, "train", 4.0), row(30, "train", 3.0)]
    after = [row(20, "train", 4.1), row(20, "valid", 4.6), row(30, "train", 3.1)]
    table = loss_table(before + after)
    assert list(table.columns) == COLUMNS
    assert table[["split", "update", "loss"]].values.tolist() == [
        ["train", 10, 5.0],
        ["train", 20, 4.1],
        ["train", 30, 3.1],
        ["valid", 10, 5.5],
        ["valid", 20, 4.6],
    ]


def test_another_program_and_more_options():
    options = {"finetune-from-model": Path("base.pt"), "criterion": "cross_entropy"}
    call = fairseq_command(ARCHITECTURE | TRAINING, 17, Devices(), Path("corpus"), Path("kept"), "a.program", options)
    assert call[:4] == [sys.executable, "-m", "a.program", "corpus"]
    assert parsed([*call[:2], "fairseq_cli.train", *call[3:]]).finetune_from_model == "base.pt"
    assert [part for part in call if part not in command()] == [
        "a.program",
        "--finetune-from-model",
        "base.pt",
        "--criterion",
        "cross_entropy",
    ]
